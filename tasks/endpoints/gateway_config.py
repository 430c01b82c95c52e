"""How a gateway is set up: what its supervisor hands to each of its workers, by a pipe and not by the environment."""

from pathlib import Path

from tasks.domain.models import Noun
from tasks.endpoints.limits import Limits

READY = "ready"
"""What a worker says as soon as it answers."""
LEAVE = "leave"
"""What it is told when another one does."""


class GatewayConfig(Noun):
    """All of it. Keys are in it: it is never logged."""

    routes: Path
    """The file that the agent writes; need not be there yet. Figures and sockets of the workers lie beside it."""
    host: str = "127.0.0.1"
    port: int = 8700
    """0 takes a free one."""
    keys: str = ""
    """As ``Keys.parse`` reads them; with none, everybody who reaches the address is let in."""
    own_key: str = ""
    limits: Limits = Limits()
    retry: bool = True
    """False passes each lost answer on as an error, and holds nothing: for showing what retries are worth."""
    drain_seconds: float = 60.0
    """How long a worker that is replaced or stopped may finish what is under way; 0 cuts everything off at once."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    """Where ``/metrics`` answers; 0 is nowhere. Not on the public address."""
