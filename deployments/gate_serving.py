"""Serving for the time of one command: by the agent of a running `empelt up`, else by launcher, agent and gateway of
its own, in a home of its own below the installation's, with the installation's store.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deployments.supervisor import Supervisor
from deployments.up import environment_of, servers
from tasks import doors
from tasks.domain.errors import ServingMissing
from tasks.domain.models import Digest
from tasks.endpoints.protocol import Ready
from tasks.settings import Settings, settings
from tasks.stage import staged
from tasks.store.ledger import Ledger

FRESH = timedelta(seconds=15)
"""An agent that was not heard of for so long is not up."""
HOME = "gate"
"""Folder in the installation's home."""
CHILDREN = ("launcher", "agent", "gateway")
CHANNEL = "gate"
"""As which models are staged; nothing is ever promoted to it."""


def is_up(chosen: Settings) -> bool:
    """Whether an agent of this installation is at work."""
    if not chosen.ledger_url and not (chosen.home / "ledger.db").exists():
        return False
    with Ledger.open(chosen.ledger) as ledger:
        seen = ledger.agent_last_seen()
    return seen is not None and datetime.now(UTC) - seen < FRESH


@contextmanager
def own_home(catalog: Path, family: str) -> Iterator[Ledger | None]:
    """Settings and doors for one command: those of the installation that is up, else of a home below it.

    Yields the installation's ledger where it is another one than ``open_ledger``'s; None otherwise.
    """
    outer, up = settings(), is_up(settings())
    changes = {"EMPELT_CATALOG": str(catalog), "EMPELT_FAMILIES": family, "EMPELT_TARGETS": ""}
    if not up:
        home = outer.home / HOME
        home.mkdir(parents=True, exist_ok=True)
        changes |= {"EMPELT_HOME": str(home), "EMPELT_STORE_FOLDER": str(outer.store), "EMPELT_RUN_FOLDER": ""}
        changes |= {
            "EMPELT_GATEWAY_HOST": "127.0.0.1",
            "EMPELT_GATEWAY_PORT": str(_free_port()),
            "EMPELT_ENDPOINT": "local",
        }
        changes |= {"EMPELT_SERVING_PYTHON": str(outer.serving_python), "EMPELT_HUB_ENDPOINT": outer.hub_endpoint}
        changes |= {"EMPELT_DEVICE": outer.device, "EMPELT_DEVICE_MEMORY_GIB": str(outer.device_memory_gib)}
        changes |= {"EMPELT_LEDGER_URL": "", "EMPELT_LEDGER_URL_FILE": ""}
    before = {name: os.environ.get(name) for name in changes}
    with ExitStack() as stack:
        known = not up and (outer.ledger_url or (outer.home / "ledger.db").exists())
        ledger = stack.enter_context(Ledger.open(outer.ledger)) if known else None
        os.environ.update(changes)
        doors.forget()
        try:
            yield ledger
        finally:
            doors.forget()
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class Serving:
    """Puts models up one by one; what it had to start ends with it."""

    def __init__(self, family: str, say: Callable[[str], None], *, up: bool) -> None:
        self._family, self._say, self._up = family, say, up
        self._stack = ExitStack()

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def of(self, digest: Digest, what: str) -> Iterator[Ready]:
        """The artifact, up and answering for as long as the block lasts.

        Raises:
            ServingMissing: vLLM's environment is not installed.
            ModelRefused: it cannot be served.
            EndpointUnavailable: it was not ready in time.
        """
        if not self._up:
            self._start()
        self._say(f"starting {what} {digest[:12]}")
        with staged(self._family, digest, CHANNEL, None) as ready:
            self._say(f"{what} answers as {ready.model}")
            yield ready

    def _start(self) -> None:
        chosen = settings()
        if not chosen.serving_python.exists():
            raise ServingMissing(f"no vLLM environment: {chosen.serving_python} does not exist; run `make setup`")
        supervisor = self._stack.enter_context(Supervisor(chosen.home))
        supervisor.end_leftovers()
        children = [child for child in servers(chosen, environment_of(chosen)) if child.name in CHILDREN]
        for child in children:
            supervisor.start(child)
        for child in children:
            supervisor.wait_ready(child)
        self._say("launcher, agent and gateway are up")
        self._up = True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
