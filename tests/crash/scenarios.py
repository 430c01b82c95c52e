"""How each point is reached, what the end is that it comes to, and what a person or the schedule does about a crash."""

import time
from collections.abc import Callable
from typing import NamedTuple

from tests.crash.points import ASK, AUDIT, BACKFILL, BY_HAND, COLLECT, HOLD, LOST, RELEASE, ROLLBACK
from tests.crash.system import ASKED, AUTO, CHANNELS, ORGANIZATION, Matrix, Stuck

ENDED_BADLY = ("CRASHED", "FAILED", "CANCELLED")
PERSON_SECONDS = 3.0
"""Between two tries of a person who is refused."""


class Scenario(NamedTuple):
    """One way on."""

    begin: Callable[[], None]
    reached: Callable[[], bool]
    again: Callable[[], None]
    """Called while nothing is under way and the end is not reached."""


def published(matrix: Matrix, channel: str, name: str) -> bool:
    """Whether the channel was switched to this release, the gateway has said so, and the job has ended as published."""
    ledger = matrix.ledger
    promotions = [p for p in ledger.promotions(channel) if p.release.repo_id == f"{ORGANIZATION}/{name}"]
    state = ledger.channel(channel)
    if not promotions or state is None or state.acknowledged_generation != state.generation:
        return False
    ends = [ledger.job_end(fact.job_key) for fact in ledger.jobs() if fact.job.release.ref.repo_id.endswith(f"/{name}")]
    return any(end is not None and end.outcome == "published" for end in ends)


def release(matrix: Matrix) -> Scenario:
    """A new release that is published by itself."""
    name = matrix.push_release(AUTO)
    return Scenario(matrix.watch, lambda: published(matrix, CHANNELS[AUTO], name), matrix.watch)


def by_hand(matrix: Matrix) -> Scenario:
    """A person starts the job before the watch has seen the release."""
    name = matrix.push_release(AUTO)

    def begin() -> None:
        matrix.run_flow("remerge-release/by-hand-or-watch", family=AUTO, release=f"{ORGANIZATION}/{name}", target="eu")

    return Scenario(begin, lambda: published(matrix, CHANNELS[AUTO], name), matrix.watch)


def ask(matrix: Matrix) -> Scenario:
    """A release of the family that asks, and a person who says yes as often as it takes."""
    name = matrix.push_release(ASKED)
    said = [0.0]

    def approve() -> None:
        waiting = matrix.ledger.awaiting_approval()
        if not waiting:
            matrix.watch()
        elif time.monotonic() - said[0] > PERSON_SECONDS:
            said[0] = time.monotonic()
            wish = waiting[-1].request
            candidate = f"{wish.release.repo_id.split('/')[1]} x {wish.target} ({wish.artifact_digest[:12]})"
            try:
                matrix.run_flow("approve-release/by-hand", candidate=candidate, decision="publish", by="the matrix")
            except Stuck:  # not in the form yet, since the run died before it wrote it: the watch does
                matrix.watch()

    def reached() -> bool:
        return published(matrix, CHANNELS[ASKED], name) and not matrix.ledger.awaiting_approval()

    return Scenario(matrix.watch, reached, approve)


def hold(matrix: Matrix) -> Scenario:
    """A release that its pre-flight refuses."""
    name = matrix.push_refused()
    return Scenario(matrix.watch, lambda: any(name in held.key for held in matrix.ledger.holds()), matrix.watch)


def backfill(matrix: Matrix) -> Scenario:
    """A backfill with nothing to bring."""
    return by_a_run(matrix, "backfill-base/by-hand", family=AUTO)


def collect(matrix: Matrix) -> Scenario:
    """Garbage is collected; the night after a killed collection does it again."""
    return by_a_run(matrix, "collect-garbage/nightly")


def audit(matrix: Matrix) -> Scenario:
    """What the channels answer is audited; a killed audit is started again."""
    return by_a_run(matrix, "audit-serving/nightly")


def by_a_run(matrix: Matrix, deployment: str, **parameters: str) -> Scenario:
    """A run that somebody starts again until it completes."""
    made: list[str] = []

    def state() -> str:
        try:
            return str(matrix.installation.run(made[-1])["state"]["type"]) if made else ""
        except (OSError, KeyError):
            return ""

    def begin() -> None:
        made.append(matrix.run_flow(deployment, **parameters))

    return Scenario(begin, lambda: state() == "COMPLETED", lambda: begin() if state() in ENDED_BADLY else None)


def rollback(matrix: Matrix) -> Scenario:
    """A channel is taken back by hand, once."""
    before = matrix.ledger.channel(CHANNELS[AUTO])
    assert before is not None
    assert before.previous_digest is not None, "a rollback comes after the second release"

    def begin() -> None:
        matrix.run_flow("rollback-channel/by-hand", channel=CHANNELS[AUTO], reason="the matrix")

    def reached() -> bool:
        now = matrix.ledger.channel(CHANNELS[AUTO])
        back = now is not None and now.generation == before.generation + 1
        return back and now is not None and now.acknowledged_generation == now.generation

    return Scenario(begin, reached, begin)


SCENARIOS: dict[str, Callable[[Matrix], Scenario]] = {
    RELEASE: release,
    LOST: release,
    BY_HAND: by_hand,
    ASK: ask,
    HOLD: hold,
    BACKFILL: backfill,
    ROLLBACK: rollback,
    COLLECT: collect,
    AUDIT: audit,
}
