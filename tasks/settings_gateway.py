"""Who may ask the gateway, how much, and for how long; a part of ``tasks.settings.Settings``."""

from pathlib import Path

from pydantic import Field, SecretStr

from tasks.settings_layers import Layered


class GatewaySettings(Layered):
    """Every knob of the gateway but its address."""

    gateway_keys: SecretStr | None = None
    """``name:key`` or ``name:key:most_in_flight``, separated by commas or lines; everybody is let in if not set."""
    gateway_keys_file: Path | None = None
    gateway_key: SecretStr | None = None
    """The key with which this installation's own processes ask the gateway; needed if there are others."""
    gateway_key_file: Path | None = None
    gateway_max_body_mib: int = Field(default=8, ge=1)
    gateway_upload_seconds: float = Field(default=30, gt=0)
    """For a request's body to arrive."""
    gateway_request_seconds: float = Field(default=600, gt=0)
    """From the body's arrival to the answer's end."""
    gateway_idle_seconds: float = Field(default=120, gt=0)
    """A stream may be silent for so long."""
    gateway_in_flight: int = Field(default=512, ge=1)
    """Requests under way at once, of all keys."""
    gateway_hold_seconds: float = Field(default=30, ge=0)
    """A request without a byte waits for an instance, or is tried again, for so long."""
    gateway_retry: bool = True
    """False: each lost answer is passed on as an error. Only for showing what retries are worth."""
    gateway_metrics_port: int = 0
    """Where the gateway's /metrics answers, at ``metrics_host``; 0 is nowhere."""
    drain_seconds: float = Field(default=60, ge=0)
    """What leaves (an instance, a worker of the gateway) may finish what is under way; 0: it is cut off."""

    @property
    def own_key(self) -> str:
        """With which this installation asks its own gateway; "" if that asks for none."""
        return self.gateway_key.get_secret_value() if self.gateway_key else ""

    @property
    def own_headers(self) -> dict[str, str]:
        """The same, as headers of a request."""
        return {"authorization": f"Bearer {self.own_key}"} if self.own_key else {}
