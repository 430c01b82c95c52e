"""What the agent writes for people beside the routes: what the ledger says of each channel, scores, its instances.

The ledger is read in the background, and only when a channel has moved or some time has passed: the agent's rounds wait
for none of it, and trouble here is told and changes nothing that is served.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tasks.domain.errors import PipelineError
from tasks.domain.models import Digest
from tasks.domain.records import Desired, Live
from tasks.endpoints.instances import Instance
from tasks.endpoints.protocol import DesiredState
from tasks.endpoints.status_file import (
    ChannelLine,
    Counts,
    Drained,
    InstanceLine,
    ScoreLine,
    ServingStatus,
    StepLine,
    SwitchLine,
    read_status,
    status_beside,
    write_status,
)

READ_SECONDS = 30.0
"""The ledger is read again after so long: a score may have come since."""
TELL_SECONDS = 5.0
"""The file is written again after so long even when nothing has changed: by its age a silent agent is seen."""
SWITCHES, STEPS = 8, 16
REASON_LETTERS = 600

logger = logging.getLogger(__name__)


class Facts(NamedTuple):
    """What was read of the ledger."""

    channels: tuple[ChannelLine, ...]
    scores: dict[Digest, tuple[ScoreLine, ...]]


class Told:
    """The file, and what was counted."""

    def __init__(self, state: DesiredState, agent: str, routes: Path, executor: Executor) -> None:
        """Take up the counts that an earlier agent has left."""
        self._state = state
        self._agent = agent
        self._path = status_beside(routes)
        self._executor = executor
        before = read_status(self._path)
        self._counts = before.counts if before is not None else Counts()
        self._facts = Facts(before.channels, dict(before.scores)) if before is not None else Facts((), {})
        self._reading: Future[Facts] | None = None
        self._read_for: object = None
        self._read_at = self._told_at = 0.0
        self._said: ServingStatus | None = None
        self._trouble = ""

    def restarted(self, channel: str) -> None:
        """An instance was started again after it had failed."""
        restarts = {**self._counts.restarts, channel: self._counts.restarts.get(channel, 0) + 1}
        self._counts = self._counts.model_copy(update={"restarts": restarts})

    def drained(self, channel: str, ended: str, seconds: float) -> None:
        """An instance left; see ``status_file`` for how a drain may end."""
        before = self._counts.drains.get(channel, {})
        known = before.get(ended, Drained())
        grown = Drained(count=known.count + 1, seconds=round(known.seconds + seconds, 3))
        drains = {**self._counts.drains, channel: {**before, ended: grown}}
        self._counts = self._counts.model_copy(update={"drains": drains})

    def advance(self, desired: Desired, instances: Iterable[Instance]) -> None:
        """Write what has changed."""
        lines = tuple(_line(one) for one in instances)
        self._read(desired, {*(line.digest for line in lines), *desired.digests()})
        status = ServingStatus(
            agent=self._agent,
            at=datetime.now(UTC),
            channels=self._facts.channels,
            scores=self._facts.scores,
            instances=lines,
            counts=self._counts,
        )
        same = self._said is not None and self._said.model_copy(update={"at": status.at}) == status
        if same and time.monotonic() - self._told_at < TELL_SECONDS:
            return
        try:
            write_status(self._path, status)
            self._said, self._told_at = status, time.monotonic()
        except OSError as error:
            self._tell(f"{self._path} cannot be written ({error}); what is served goes on")

    def _read(self, desired: Desired, digests: set[Digest]) -> None:
        if self._reading is not None and self._reading.done():
            reading, self._reading = self._reading, None
            try:
                self._facts = reading.result()
            except PipelineError as error:
                self._tell(f"the status page shows what was known before: {error}")
        moved = tuple((live.channel, live.generation, live.acknowledged_generation) for live in desired.live)
        wanted = (moved, frozenset(digests))
        is_due = wanted != self._read_for or time.monotonic() - self._read_at >= READ_SECONDS
        if self._reading is None and is_due:
            self._read_for, self._read_at = wanted, time.monotonic()
            self._reading = self._executor.submit(facts_of, self._state, desired.live, frozenset(digests))

    def _tell(self, message: str) -> None:
        if message != self._trouble:
            logger.warning("%s", message)
            self._trouble = message


def facts_of(state: DesiredState, live: Sequence[Live], digests: frozenset[Digest]) -> Facts:
    """What the ledger says of these channels and artifacts.

    Raises:
        PipelineError: it does not answer.
    """
    channels = tuple(_channel(state, one) for one in live)
    named = digests | {one.previous for one in channels if one.previous}
    found = {digest: state.scores_of(digest) for digest in sorted(named)}
    return Facts(
        channels, {digest: tuple(map(ScoreLine.model_validate, lines)) for digest, lines in found.items() if lines}
    )


def _channel(state: DesiredState, live: Live) -> ChannelLine:
    seen = state.visible_since(live.channel)
    before = state.served_before(live.channel)
    return ChannelLine(
        channel=live.channel,
        family=live.family,
        target=live.target,
        generation=live.generation,
        visible_generation=live.acknowledged_generation,
        digest=live.digest,
        release=str(live.release),
        since=live.switched_at,
        previous=before[0].artifact_digest if before else None,
        switches=tuple(
            SwitchLine(
                generation=one.generation,
                digest=one.artifact_digest,
                release=str(one.release),
                at=one.at,
                visible_at=seen.get(one.generation),
                reason=one.reason[:REASON_LETTERS],
            )
            for one in state.promotions(live.channel)[:SWITCHES]
        ),
        steps=tuple(
            StepLine(
                digest=one.digest,
                step=one.step,
                ended=one.ended,
                seconds=one.seconds,
                said=one.said[:REASON_LETTERS],
                at=one.at,
            )
            for one in list(state.promotion_steps(live.channel))[: -STEPS - 1 : -1]
        ),
    )


def _line(one: Instance) -> InstanceLine:
    return InstanceLine(
        name=one.wish.name,
        channel=one.wish.channel,
        digest=one.wish.digest,
        release=one.wish.release,
        state=one.state,
        reason=one.reason[:REASON_LETTERS],
        since=one.since,
        keep=one.wish.keep,
    )
