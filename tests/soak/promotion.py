"""One artifact on its way to the channel, step by step, so that something may happen before each step."""

import time
from collections.abc import Callable

from tasks.domain.models import Artifact, ChannelState, ModelRef
from tasks.domain.records import Wanted
from tests.soak.host import CHANNEL, Host

OWNER = "soak"
DEADLINE_SECONDS = 240.0


def nothing(_: str) -> None:
    """Happens before a step, if nothing is said."""


class Promotion:
    """The steps of the product, one after the other."""

    def __init__(
        self, host: Host, artifact: Artifact, release: ModelRef, *, deadline: float = DEADLINE_SECONDS
    ) -> None:
        self._host, self._artifact, self._release, self._deadline = host, artifact, release, deadline
        self._wanted: Wanted | None = None
        self._state: ChannelState | None = None
        self.switched_at = 0.0
        """When the ledger had switched; 0: not yet."""

    @property
    def steps(self) -> dict[str, Callable[[], object]]:
        """All of them, in their order."""
        return {"load": self._load, "switch": self._switch, "confirm": self._confirm, "drain": self._drain}

    def run(self, before: Callable[[str], object] = nothing) -> float:
        """Every step; ``before`` is told the name of each. Returns when it was switched.

        Raises:
            PipelineError: it was refused, or did not become visible.
        """
        try:
            for name, step in self.steps.items():
                before(name)
                step()
        finally:
            if self._wanted is not None:
                self._host.endpoint.unstage(self._wanted)
        return self.switched_at

    def _load(self) -> None:
        self._wanted = self._host.endpoint.stage(
            self._artifact, channel=CHANNEL, owner=OWNER, release=self._release, lease_seconds=600
        )
        self._host.endpoint.wait_ready(self._wanted, deadline_seconds=self._deadline)

    def _switch(self) -> None:
        now = self._host.ledger.channel(CHANNEL)
        self._state = self._host.switch(self._artifact.digest, self._release, now.generation if now else 0)
        self.switched_at = time.monotonic()

    def _confirm(self) -> None:
        assert self._state is not None
        self._host.confirm(self._state.generation, self._deadline)

    def _drain(self) -> None:
        """The wish beside the live one is taken back; what it replaced is kept warm where there is room."""
