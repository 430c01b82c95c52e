"""One artifact on its way to the channel, step by step as `publish-model` takes them, so that one may act before each.

What each step does is the product's own: the local endpoint, the promoter, the ledger's switch.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

from tasks.domain.errors import EndpointUnavailable, InputError, PromotionFailed
from tasks.domain.jobs import PublishRequest
from tasks.domain.models import Artifact, ChannelState, ModelRef
from tasks.domain.promotion import AbortRules, CanaryStep
from tasks.domain.records import Wanted
from tasks.endpoints.promotion import Promoter, step_name
from tasks.endpoints.protocol import Ready
from tasks.identity import record_outputs, verify_public, verify_staged
from tests.soak.host import CHANNEL, Host

OWNER = "soak"
LANGUAGES = ("eu",)
DEADLINE_SECONDS = 240.0
CANARY = (
    CanaryStep(weight=5, seconds=20, requests=5),
    CanaryStep(weight=50, seconds=20, requests=25),
    CanaryStep(weight=100, seconds=20, requests=25),
)
RULES = AbortRules(min_requests=10, latency=3.0, foreign=None)
"""Nobody looks at languages here: tokens are asked for beyond an answer's end, so that lengths are known. Two instances
share few cores here, so one that takes over all requests is slower than one that had half of them."""
STEPS = ("load", "verify", "warm", *(step_name(step) for step in CANARY), "switch", "confirm", "drain")


def nothing(_: str) -> None:
    """Happens before a step, if nothing is said."""


class Promotion:
    """The steps, one after the other."""

    def __init__(
        self,
        host: Host,
        artifact: Artifact,
        release: ModelRef,
        *,
        deadline: float = DEADLINE_SECONDS,
        canary: Sequence[CanaryStep] = CANARY,
    ) -> None:
        """``deadline`` in seconds, for the start and for the switch to become visible."""
        self._host, self._artifact, self._release, self._deadline = host, artifact, release, deadline
        now = host.ledger.channel(CHANNEL)
        self._generation = now.generation if now else 0
        self._canary = canary if now else ()
        self._wanted: Wanted | None = None
        self._ready: Ready | None = None
        self._state: ChannelState | None = None
        self.switched_at = 0.0
        """When the ledger had switched; 0: not yet."""
        self.acknowledged_seconds: float | None = None
        """From the end of the last check to the gateway's acknowledgement in the ledger."""
        self._checked_at = 0.0

    @property
    def steps(self) -> dict[str, Callable[[], object]]:
        """All of them, in their order."""
        promoter = self._promoter()
        tried = {step_name(step): partial(promoter.canary, step, RULES) for step in self._canary}
        before = {"load": self._load, "verify": self._verify, "warm": partial(self._warm, promoter)}
        return {**before, **tried, "switch": self._switch, "confirm": self._confirm, "drain": self._drain}

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

    def judge(self) -> None:
        """Load it and put on record what it says; nothing is promoted.

        Raises:
            PipelineError: it did not come up, or gave no log-probabilities.
        """
        try:
            self._load()
            assert self._ready is not None
            record_outputs(self._ready, LANGUAGES)
        finally:
            if self._wanted is not None:
                self._host.endpoint.unstage(self._wanted)

    def _promoter(self) -> Promoter:
        request = PublishRequest(
            family="soak",
            target="eu",
            channel=CHANNEL,
            artifact_digest=self._artifact.digest,
            release=self._release,
            expected_generation=self._generation,
        )
        return Promoter(self._host.ledger, request, gateway=self._host.url, owner=OWNER, lease_seconds=60)

    def _load(self) -> None:
        self._wanted = self._host.endpoint.stage(
            self._artifact, channel=CHANNEL, owner=OWNER, release=self._release, lease_seconds=600
        )
        self._ready = self._host.endpoint.wait_ready(self._wanted, deadline_seconds=self._deadline)

    def _verify(self) -> None:
        """The first time that it is seen, what it says is put on record, as it is when a candidate is judged."""
        assert self._ready is not None
        record_outputs(self._ready, LANGUAGES)
        now = self._host.ledger.channel(CHANNEL)
        verify_staged(self._ready, previous=now.artifact_digest if now else None)

    def _warm(self, promoter: Promoter) -> None:
        assert self._ready is not None
        promoter.warm(self._ready, 2)

    def _switch(self) -> None:
        self._checked_at = time.monotonic()
        self._state = self._host.switch(self._artifact.digest, self._release, self._generation)
        self.switched_at = time.monotonic()

    def _confirm(self) -> None:
        assert self._state is not None
        try:
            self._host.confirm(self._state.generation, self._deadline)
            self.acknowledged_seconds = time.monotonic() - self._checked_at
            verify_public(self._state)
        except (EndpointUnavailable, InputError) as error:
            self._take_back()
            raise PromotionFailed(f"{CHANNEL} was taken back: {error}") from error

    def _take_back(self) -> None:
        """To what it served before, as `confirm` of the flow does."""
        before = [p for p in self._host.ledger.promotions(CHANNEL) if p.generation == self._generation]
        if before:
            self._host.switch(before[0].artifact_digest, before[0].release, self._generation + 1)

    def _drain(self) -> None:
        """The wish beside the live one is taken back; what it replaced is kept warm where there is room."""
