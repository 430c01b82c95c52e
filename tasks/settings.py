"""Where everything is on this host, from EMPELT_* variables; and the doors to the rooms, opened from those settings.

Flow runs are processes of their own: a worker passes its environment on, so the same variables reach every run.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from tasks.domain.catalog import Catalog
    from tasks.endpoints.protocol import Endpoint
    from tasks.sources.hub import HubSource
    from tasks.store.artifacts import ArtifactStore
    from tasks.store.ledger import Ledger

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = ROOT / "infra" / "serving" / "launcher.py"


class Settings(BaseSettings):
    """Every knob of one installation. Set them as EMPELT_<NAME>; secrets never appear in logs or run parameters."""

    model_config = SettingsConfigDict(env_prefix="EMPELT_", extra="ignore", frozen=True)

    home: Path = Path(".empelt")
    """Everything that is written on this host lies below it: store, ledger, Prefect's database, logs, sockets."""
    catalog: Path = ROOT / "deployments" / "catalog"
    families: str = ""
    """Comma-separated families that run here; they must be named, since each holds a GPU's worth of models."""
    ledger_url: str = ""
    """SQLAlchemy URL; a SQLite file in ``home`` if empty."""
    hub_endpoint: str = "https://huggingface.co"
    hub_token: SecretStr | None = None
    """Read token for gated models. Only ever sent to ``hub_endpoint``."""
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8700
    prefect_port: int = 4200
    serving_python: Path = ROOT / ".venv-serving" / "bin" / "python"
    """Python of vLLM's environment."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What the instances on this host run on."""
    device_memory_gib: int = 0
    """What instances may use together; 80 % of the machine's memory if 0. State it on a GPU host."""
    watch_interval_seconds: int = Field(default=600, ge=5)
    nightly_cron: str = "30 2 * * *"
    timezone: str = "Europe/Madrid"
    settle_seconds: int = Field(default=3600, ge=0)
    """A release is left alone until its repository has been still for this long: labs push in several commits."""
    window: int = Field(default=4, ge=1)
    """At most so many jobs are dispatched by one watch: a worker's poll returns 200 runs (PrefectHQ/prefect#19403)."""
    lease_seconds: int = Field(default=45, ge=10)
    """A job whose flow run has not renewed its claim for this long is given to another attempt."""
    pending_seconds: int = Field(default=300, ge=30)
    """How long a dispatched run may wait for a worker before its job is given to another attempt."""
    max_attempts: int = Field(default=3, ge=1)
    stage_deadline_seconds: int = 600
    evaluate_deadline_seconds: int = 14400
    visible_deadline_seconds: int = 120

    @field_validator("home", "catalog", "serving_python", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Not resolve(): a virtual environment's python is a link, and the link is what makes it one.
        return Path.cwd() / value.expanduser()

    @property
    def store(self) -> Path:
        """Root of the artifact store."""
        return self.home / "store"

    @property
    def run(self) -> Path:
        """Sockets, routes and process records of what runs now."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        """One log file per child process and per instance."""
        return self.home / "logs"

    @property
    def routes(self) -> Path:
        """The file that the agent writes and the gateway reads."""
        return self.run / "routes.json"

    @property
    def ledger(self) -> str:
        """The ledger's URL."""
        return self.ledger_url or f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def gateway_url(self) -> str:
        """Base address of the endpoint, without ``/v1``."""
        return f"http://{self.gateway_host}:{self.gateway_port}"

    @property
    def prefect_url(self) -> str:
        """Address of the Prefect UI; its API is below ``/api``."""
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def family_names(self) -> tuple[str, ...]:
        """The families named in ``families``."""
        return tuple(name.strip() for name in self.families.split(",") if name.strip())


@lru_cache
def settings() -> Settings:
    """This process's settings, read once."""
    return Settings()


@lru_cache
def open_catalog() -> "Catalog":
    """The catalog of the families that run here."""
    from tasks.domain.catalog import load_catalog
    from tasks.harness.suite import known_benchmarks

    return load_catalog(settings().catalog, settings().family_names, known=known_benchmarks())


@lru_cache
def open_ledger() -> "Ledger":
    """The ledger, its schema brought up to date."""
    from tasks.store.ledger import Ledger

    settings().home.mkdir(parents=True, exist_ok=True)
    return Ledger.open(settings().ledger)


@lru_cache
def open_store() -> "ArtifactStore":
    """The artifact store of this host."""
    from tasks.store.artifacts import ArtifactStore

    return ArtifactStore(settings().store)


@lru_cache
def open_endpoint(family: str = "") -> "Endpoint":
    """The serving target, reached through the ledger and the gateway; it stages as ``family`` says in the catalog."""
    from tasks.endpoints.profile import ServingProfile
    from tasks.endpoints.table import ENDPOINTS

    chosen = settings()
    wanted = open_catalog().family(family).serving.model_dump() if family else {}
    profile = ServingProfile(**wanted, device=chosen.device)
    return ENDPOINTS["local"](open_ledger(), gateway=chosen.gateway_url, profile=profile)


@lru_cache
def open_source() -> "HubSource":
    """The Hub that releases are watched on."""
    from tasks.sources.hub import HubSource

    token = settings().hub_token
    return HubSource(settings().hub_endpoint, token.get_secret_value() if token else None)
