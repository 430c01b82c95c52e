"""Where everything is on this host, from EMPELT_* variables and a file of settings (``tasks.settings_sources``).

Flow runs are processes of their own: a worker passes its environment on, so the same variables reach every run.
"""

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from tasks.settings_access import Access
from tasks.settings_cluster import ClusterSettings
from tasks.settings_gateway import GatewaySettings
from tasks.settings_layers import home_of_this_process
from tasks.settings_limits import LimitSettings

ROOT = Path(__file__).resolve().parents[1]
REMEMBERED = "installation.env"
"""In the home: what `empelt up` was started with."""
LAUNCHER = ROOT / "infra" / "serving" / "launcher.py"


class Settings(Access, GatewaySettings, LimitSettings, ClusterSettings):
    """Every knob of one installation. Set them as EMPELT_<NAME>; secrets never appear in logs or run parameters."""

    home: Path = Path(".empelt")
    """Everything that is written on this host lies below it: store, ledger, Prefect's database, logs, sockets."""
    catalog: Path = ROOT / "deployments" / "catalog"
    families: str = ""
    """Comma-separated families that run here; they must be named, since each holds a GPU's worth of models."""
    targets: str = ""
    """Comma-separated targets that run here; all those of the families if empty."""
    store_folder: str = ""
    """Root of the artifact store; ``store`` in ``home`` if empty. On several machines a folder that all of them see."""
    run_folder: str = ""
    """Sockets and routes; ``run`` in ``home`` if empty. The agent, the launcher and the gateway of a host share it."""
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
    window: int = Field(default=1, ge=1)
    """At most so many jobs are under way at once. Each holds up to two instances beside what is live: its candidate,
    and a parent that was never measured. More jobs than instances fit for would wait for each other."""

    @field_validator("home", "catalog", "serving_python", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # Not resolve(): a virtual environment's python is a link, and the link is what makes it one.
        return Path.cwd() / value.expanduser()

    @property
    def store(self) -> Path:
        """Root of the artifact store."""
        return Path.cwd() / Path(self.store_folder).expanduser() if self.store_folder else self.home / "store"

    @property
    def run(self) -> Path:
        """Sockets, routes and process records of what runs now."""
        return Path.cwd() / Path(self.run_folder).expanduser() if self.run_folder else self.home / "run"

    @property
    def logs(self) -> Path:
        """One log file per child process and per instance."""
        return self.home / "logs"

    @property
    def children(self) -> Path:
        """Records of the child processes that flow runs on this host have."""
        return self.run / "children"

    @property
    def routes(self) -> Path:
        """The file that the agent writes and the gateway reads."""
        return self.run / "routes.json"

    @property
    def ledger(self) -> str:
        """The ledger's URL."""
        return self.ledger_url.get_secret_value() if self.ledger_url else f"sqlite:///{self.home / 'ledger.db'}"

    @property
    def command_prefix(self) -> str:
        """What a command line must begin with to mean this installation; "" for the one in the working folder."""
        return "" if self.home == Path.cwd() / ".empelt" else f"EMPELT_HOME={self.home} "

    @property
    def family_names(self) -> tuple[str, ...]:
        """The families named in ``families``."""
        return tuple(name.strip() for name in self.families.split(",") if name.strip())

    @property
    def target_names(self) -> tuple[str, ...]:
        """The targets named in ``targets``."""
        return tuple(name.strip() for name in self.targets.split(",") if name.strip())


@lru_cache
def settings() -> Settings:
    """This process's settings, read once: the environment, else what the installation in this home was started with."""
    return Settings(_env_file=home_of_this_process(Settings) / REMEMBERED)
