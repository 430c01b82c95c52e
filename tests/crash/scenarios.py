"""How each point is reached, and what brings the release to its end after the kill."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.crash.checks import busy, doubled, left_behind, unserved
from tests.crash.points import ASK, BACKFILL, BY_HAND, COLLECT, HOLD, LOST, RELEASE, ROLLBACK, Row
from tests.crash.system import ASKED, AUTO, CHANNELS, ORGANIZATION, Caller, Matrix, Stuck, wait

ROWS_AT_ONCE = 4
"""Kills that one release lives through. Each may cost an attempt, so an installation of the matrix allows for more."""
HELP_AFTER_SECONDS = 15.0
"""The watch is started so often, as its schedule would start it."""
END_SECONDS = 900.0
"""For one release with all its kills; on a machine with nothing else to do it takes a tenth of that."""


class Outcome(NamedTuple):
    """One row, and what was seen."""

    database: str
    row: Row
    mark: dict[str, Any] | None
    """What the killer wrote before it killed; None if it never did."""
    seconds: float
    violations: list[str]

    @property
    def passed(self) -> bool:
        """The kill is proved, and all is as it should be."""
        return self.mark is not None and not self.violations


def start_rows(matrix: Matrix, database: str, chosen: Sequence[Row]) -> list[Outcome]:
    """`empelt up` itself dies while it starts; the next one starts. Without rows: it starts."""
    outcomes = []
    for row in chosen:
        began, number = time.monotonic(), number_of(row)
        matrix.arm([(number, row.point, row.victim)])
        violations = []
        try:
            matrix.start()
            violations.append("it started, and was to be killed")
            matrix.stop()
        except Stuck:
            pass
        outcomes.append(Outcome(database, row, matrix.fired(number), time.monotonic() - began, violations))
    matrix.arm([])
    matrix.start()
    return outcomes


def play(matrix: Matrix, database: str, batch: Sequence[Row]) -> list[Outcome]:
    """All rows of one batch: arm them, bring a release on its way, wait for its end, check."""
    scenario = batch[0].scenario
    began, clock = time.time(), time.monotonic()
    armed = [(number_of(row), row.point, row.victim) for row in batch]
    if scenario == LOST:  # a run that dies while its candidate is up leaves the wish that is taken back
        armed.append((f"{number_of(batch[0])}-before", "task:evaluate:before", "self"))
    ensure_live(matrix)
    caller = Caller(matrix, CHANNELS[AUTO])
    caller.start()
    try:
        begin, reached = SCENARIOS[scenario](matrix)
        matrix.arm(armed)
        begin()
        settle(matrix, reached, begin if scenario in (BACKFILL, ROLLBACK) else lambda: watch(matrix))
    finally:
        matrix.arm([])
        caller.stop()
    marks = {row: matrix.fired(number_of(row)) for row in batch}
    away = [mark["at"] for row, mark in marks.items() if mark and row.victim == "gateway"]
    violations = [*doubled(matrix, ROWS_AT_ONCE + 2), *left_behind(matrix), *unserved(matrix, caller, began, away)]
    seconds = (time.monotonic() - clock) / len(batch)
    return [Outcome(database, row, marks[row], seconds, violations) for row in batch]


def number_of(row: Row) -> str:
    """A row's number in the plan and the name of its mark."""
    return "".join(c if c.isalnum() else "-" for c in row.name)


def watch(matrix: Matrix) -> None:
    """Start the watch, as its schedule does; not while the server is away."""
    try:
        matrix.run_flow("watch-hub/schedule")
    except (OSError, Stuck):
        return


def settle(matrix: Matrix, reached: Callable[[], Any], again: Callable[[], None]) -> None:
    """Until the end is reached and all has come to rest, one more watch included."""
    deadline, helped = time.monotonic() + END_SECONDS, time.monotonic()
    looked = False
    while True:
        still, end = busy(matrix), reached()
        if end and looked and not still:
            return
        if time.monotonic() > deadline:
            raise Stuck(f"no end after {END_SECONDS:.0f} s: reached {bool(end)}; {'; '.join(still) or 'at rest'}")
        if time.monotonic() - helped > HELP_AFTER_SECONDS and not matrix.active_runs("watch-hub"):
            helped = time.monotonic()
            # What the last run has left, the next watch takes away; one that says Running and is not, too.
            watch(matrix) if end or matrix.active_runs() else again()
            looked = bool(end)
        time.sleep(0.5)


def ensure_live(matrix: Matrix) -> None:
    """A first release is live: there is something to lose."""
    if matrix.ledger.channel(CHANNELS[AUTO]) is None:
        begin, reached = release(matrix)
        begin()
        wait(reached, END_SECONDS, "the first release", 1)


Scenario = tuple[Callable[[], None], Callable[[], Any]]


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
    return (lambda: watch(matrix)), (lambda: published(matrix, CHANNELS[AUTO], name))


def by_hand(matrix: Matrix) -> Scenario:
    """A person starts the job before the watch has seen the release."""
    name = matrix.push_release(AUTO)

    def begin() -> None:
        matrix.run_flow("remerge-release/by-hand-or-watch", family=AUTO, release=f"{ORGANIZATION}/{name}", target="eu")

    return begin, (lambda: published(matrix, CHANNELS[AUTO], name))


def ask(matrix: Matrix) -> Scenario:
    """A release of the family that asks, and a person who says yes as often as it takes."""
    name = matrix.push_release(ASKED)
    said = {"at": 0.0}

    def reached() -> bool:
        if published(matrix, CHANNELS[ASKED], name) and not matrix.ledger.awaiting_approval():
            return True
        waiting = matrix.ledger.awaiting_approval()
        if waiting and time.monotonic() - said["at"] > 5 and not matrix.active_runs():
            said["at"] = time.monotonic()
            candidate = waiting[-1].request.artifact_digest[:12]
            matrix.run_flow("approve-release/by-hand", candidate=candidate, decision="publish", by="the matrix")
        return False

    return (lambda: watch(matrix)), reached


def hold(matrix: Matrix) -> Scenario:
    """A release that its pre-flight refuses."""
    name = matrix.push_refused()
    return (lambda: watch(matrix)), (lambda: any(name in held.key for held in matrix.ledger.holds()))


def backfill(matrix: Matrix) -> Scenario:
    """A backfill with nothing to bring."""
    made: list[str] = []

    def begin() -> None:
        made.append(matrix.run_flow("backfill-base/by-hand", family=AUTO))

    def reached() -> bool:
        return any(matrix.installation.run(one)["state"]["type"] == "COMPLETED" for one in made)

    return begin, reached


def rollback(matrix: Matrix) -> Scenario:
    """A channel is taken back by hand, once."""
    before = matrix.ledger.channel(CHANNELS[AUTO])
    if before is not None and before.previous_digest is None:
        begin, reached = release(matrix)
        begin()
        settle(matrix, reached, lambda: watch(matrix))
        before = matrix.ledger.channel(CHANNELS[AUTO])
    assert before is not None

    def begin_rollback() -> None:
        matrix.run_flow("rollback-channel/by-hand", channel=CHANNELS[AUTO], reason="the matrix")

    def reached_back() -> bool:
        now = matrix.ledger.channel(CHANNELS[AUTO])
        return now is not None and now.artifact_digest == before.previous_digest and now.acknowledged_generation > 0

    return begin_rollback, reached_back


def collect(matrix: Matrix) -> Scenario:
    """Garbage is collected; the night after a killed collection does it again."""
    made: list[str] = []

    def begin() -> None:
        made.append(matrix.run_flow("collect-garbage/nightly"))

    def reached() -> bool:
        state = matrix.installation.run(made[-1])["state"]["type"]
        if state in ("CRASHED", "FAILED"):
            begin()
        return bool(state == "COMPLETED")

    return begin, reached


SCENARIOS: dict[str, Callable[[Matrix], Scenario]] = {
    RELEASE: release,
    LOST: release,
    BY_HAND: by_hand,
    ASK: ask,
    HOLD: hold,
    BACKFILL: backfill,
    ROLLBACK: rollback,
    COLLECT: collect,
}
