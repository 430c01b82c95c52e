"""Whom an installation asks, who may ask it, and where: addresses, ports and secrets."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from tasks.settings_layers import Layered


class Access(Layered):
    """The settings that have to do with others. A secret is given as itself, or by the file that holds it."""

    ledger_url: SecretStr | None = None
    """SQLAlchemy URL; a SQLite file in ``home`` if not set. May hold a password."""
    ledger_url_file: Path | None = None
    hub_endpoint: str = "https://huggingface.co"
    """Where releases are watched; ``file:///srv/models`` is a directory that holds ``ORG/NAME`` folders."""
    hub_token: SecretStr | None = None
    """Read token for gated models. Only ever sent to ``hub_endpoint``."""
    hub_token_file: Path | None = None
    publish_endpoint: str = "https://huggingface.co"
    """The Hub that targets with `publish_to` are published to; another one may have a path prefix."""
    publish_token: SecretStr | None = None
    """Write token. Only ever sent to ``publish_endpoint``."""
    publish_token_file: Path | None = None
    publish_xet: bool = False
    """Whether uploads go by Xet, which only huggingface.co takes; else they go by plain LFS, which every Hub takes."""
    publish_signing_key: Path | None = None
    """EC private key in PEM, by its path: each publication is signed, all its files together. Needs empelt[signing]."""
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8700
    prefect_host: str = "127.0.0.1"
    """Where the Prefect server answers; `empelt up` starts it on loopback."""
    prefect_port: int = 4200
    prefect_auth: SecretStr | None = None
    """``user:password`` that Prefect's API asks for; it asks nobody if not set."""
    prefect_auth_file: Path | None = None
    webhook_secret: SecretStr | None = None
    """What the Hub sends as X-Webhook-Secret; there is no receiver without it."""
    webhook_secret_file: Path | None = None
    webhook_host: str = "127.0.0.1"
    webhook_port: int = 8720
    webhook_seconds: int = Field(default=5, ge=1)
    """The watch is started so long after the first event; what arrives meanwhile starts no other one."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    """Where /metrics answers; 0 is nowhere."""
    log_format: Literal["text", "json"] = "text"
    """Of our own processes and of flow runs; ``json`` is one object per line."""

    @field_validator("publish_signing_key", mode="before")
    @classmethod
    def _absolute_key(cls, value: Path | str | None) -> Path | None:
        return Path.cwd() / Path(value).expanduser() if value else None  # "" is none, as an installation remembers it

    @field_validator("prefect_auth", mode="after")
    @classmethod
    def _user_and_password(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(value.get_secret_value().partition(":")):
            raise ValueError("expected user:password")
        return value

    @property
    def gateway_url(self) -> str:
        """Base address of the endpoint, without ``/v1``."""
        return f"http://{self.gateway_host}:{self.gateway_port}"

    @property
    def prefect_url(self) -> str:
        """Address of the Prefect UI; its API is below ``/api``."""
        return f"http://{self.prefect_host}:{self.prefect_port}"
