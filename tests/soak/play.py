"""What happens to the installation while it is asked, one after the other."""

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

from tasks.domain.errors import InputError, ModelRefused, PipelineError, PromotionRefused, WrongModel
from tasks.domain.models import Artifact
from tasks.domain.outputs import reference_key
from tasks.endpoints.promotion import step_name
from tasks.identity import staged_now
from tests.soak.host import CHANNEL, Host
from tests.soak.promotion import CANARY, DEADLINE_SECONDS, Promotion
from tests.soak.records import Event
from tests.soak.shelf import Shelf, change_weights

STANDSTILL_SECONDS, STEP_SECONDS = 6.0, 0.3
"""Of an instance that is made slow."""


class Play:
    """Artifacts, and the events in their order. An event that fails is written down and the next one comes."""

    def __init__(self, host: Host, *, pause_seconds: float) -> None:
        """``pause_seconds`` of load before each event."""
        self.host = host
        self.pause_seconds = pause_seconds
        self.events: list[Event] = []
        self.shelf = Shelf(host)
        self._timed: tuple[float | None, float | None] = (None, None)
        """Of the event under way: see ``Event.acknowledged_seconds`` and ``Event.switch_seconds``."""

    def prepare(self) -> None:
        """The artifacts; the first one is made live."""
        self.first = self.shelf.make("llama-tiny-instruct-v1")
        self.good = self.shelf.make("llama-tiny-instruct-v2")
        self.crashing = self.shelf.make("llama-tiny-instruct-v2", breaks=True)
        self.changed = self.shelf.make("llama-tiny-instruct-v1")
        self.wrong = self.shelf.make("llama-tiny-instruct-v2")
        self.slow = self.shelf.make("llama-tiny-instruct-v2")
        self._promote(self.first)

    def run(self) -> None:
        """Every event."""
        self._event("a promotion", lambda: self._promote(self.good), switches=1)
        # At once: it takes the place of what was live before, which has streams under way.
        failing = partial(self._refuse, self.crashing, ModelRefused, "ended with code")
        self._event("a failing start", failing, pause_seconds=0, refused=self.crashing)
        self._event("a roll-back, not warm", partial(self._roll_back, is_warm=False), switches=1)
        self._event("a changed file", self._change_and_refuse, refused=self.changed)
        self._event("a failed verification", self._judge_and_refuse, refused=self.wrong)
        self._event("a canary abort", self._stutter, refused=self.slow, may_answer=True)
        self._event("agent SIGKILL", self.host.kill_agent)
        self._event("a promotion, again", lambda: self._promote(self.good), switches=1)
        self._event("a roll-back, warm", partial(self._roll_back, is_warm=True), switches=1)
        self._event("gateway restart", self.host.restart_gateway)
        kill = partial(self.host.kill_instance, self.first.digest)
        self._event("instance SIGKILL", kill, switches=None, killed=self.first)

    def _event(
        self,
        name: str,
        act: Callable[[], float],
        *,
        switches: int | None = 0,
        pause_seconds: float | None = None,
        killed: Artifact | None = None,
        refused: Artifact | None = None,
        may_answer: bool = False,
    ) -> None:
        time.sleep(self.pause_seconds if pause_seconds is None else pause_seconds)
        began, problems = time.monotonic(), list[str]()
        self._timed = None, None
        at = began
        try:
            at = act()
        except (TimeoutError, PipelineError, OSError) as error:
            problems.append(f"{type(error).__name__}: {error}")
        self.events.append(
            Event(
                name=name,
                began=began,
                at=at,
                ended=time.monotonic(),
                switches=switches,
                killed=killed.digest if killed else "",
                refused=refused.digest if refused else "",
                may_answer=may_answer,
                acknowledged_seconds=self._timed[0],
                switch_seconds=self._timed[1],
                problems=tuple(problems),
            )
        )

    def _promote(self, artifact: Artifact) -> float:
        """Beside the live one, then in its place; when it was switched."""
        promotion = Promotion(self.host, artifact, self.shelf.refs[artifact.digest])
        at = promotion.run()
        now = self.host.ledger.channel(CHANNEL)
        if now is not None and now.generation > 1:  # the first one takes nobody's place
            self._timed = promotion.acknowledged_seconds, self.host.switch_seconds(now.generation)
        return at

    def _roll_back(self, *, is_warm: bool) -> float:
        """To what the channel served before, by the same switch."""
        served, now = self.host.ledger.served_before(CHANNEL), self.host.ledger.channel(CHANNEL)
        if not served or now is None:
            raise InputError(
                f"{CHANNEL} cannot go back: it has served nothing before, since an earlier promotion failed"
            )
        before = served[0]
        began = time.monotonic()
        state = self.host.switch(before.artifact_digest, before.release, now.generation)
        at = time.monotonic()
        self.host.confirm(state.generation, DEADLINE_SECONDS)
        if is_warm:  # else it is a start that is waited for
            self._timed = time.monotonic() - began, self.host.switch_seconds(state.generation)
        return at

    def _change_and_refuse(self) -> float:
        """A file is not what it was when it was judged: refused before it is started."""
        change_weights(self.changed)
        return self._refuse(self.changed, ModelRefused, "sha256")

    def _judge_and_refuse(self) -> float:
        """What answers is not what was judged: on record for it is what another model says."""
        ready = staged_now(CHANNEL, self.first.digest)
        assert ready is not None
        known = self.host.ledger.outputs_of(reference_key(self.first.digest, ready.serving))
        assert known is not None
        key = reference_key(self.wrong.digest, ready.serving)
        self.host.ledger.record_outputs(known.model_copy(update={"key": key, "artifact_digest": self.wrong.digest}))
        return self._refuse(self.wrong, WrongModel, self.wrong.short)

    def _refuse(self, artifact: Artifact, how: type[PipelineError], why: str) -> float:
        """Promote what must be refused, and for this reason; when it was."""
        try:
            self._promote(artifact)
        except how as refused:
            if why not in str(refused):
                raise
            return time.monotonic()
        raise ModelRefused(f"{artifact.short} was promoted, and was expected to be refused: {how.__name__} {why}")

    def _stutter(self) -> float:
        """A canary that stands still for seconds at a time: taken back by its latency. When it was."""
        over = threading.Event()
        stutter = threading.Thread(target=self._stop_and_go, args=(over,))
        promotion = Promotion(self.host, self.slow, self.shelf.refs[self.slow.digest])
        try:
            promotion.run(lambda step: stutter.start() if step == step_name(CANARY[0]) else None)
        except PromotionRefused:
            at = time.monotonic()
            self.host.until_not_tried()
            return at
        finally:
            over.set()
            if stutter.is_alive():
                stutter.join()
        raise ModelRefused(f"{self.slow.short} was promoted, and was expected to be taken back for its latency")

    def _stop_and_go(self, over: threading.Event) -> None:
        pid = self.host.pid_of(self.slow.digest)
        while pid is not None and not over.wait(STEP_SECONDS):
            os.kill(pid, signal.SIGSTOP)
            over.wait(STANDSTILL_SECONDS)
            os.kill(pid, signal.SIGCONT)
