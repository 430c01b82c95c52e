"""Plays rows: arm them, bring what reaches them on its way, wait until all is at rest at its end, look at everything."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.store.identity import is_same
from tests.crash.checks import busy, doubled, left_behind, unserved
from tests.crash.points import LOST, RELEASE, ROLLBACK, Row
from tests.crash.scenarios import SCENARIOS, Scenario, release
from tests.crash.system import AUTO, CHANNELS, Caller, Matrix, Stuck

QUIET_SECONDS = 7.0
"""A job that crashed is looked at by an automation within so many seconds; only then the schedule comes to help."""
END_SECONDS = 180.0
"""For what a batch begins, without its kills; on a machine with nothing else to do it takes a quarter of that."""
TIDY_SECONDS = 20.0
"""A worker removes the folder of a run after that has ended: so long may it take on a busy machine."""
KILL_SECONDS = 60.0
"""And for each kill."""


class Outcome(NamedTuple):
    """One row, and what was seen."""

    database: str
    row: Row
    mark: dict[str, Any] | None
    """What the killer wrote before it killed; None if it never did."""
    seconds: float
    violations: list[str]
    stuck: bool = False
    """It came to no end."""

    @property
    def passed(self) -> bool:
        """The kill is proved, and all is as it should be."""
        return self.mark is not None and not self.violations

    @property
    def result(self) -> str:
        """For people."""
        unfired = [] if self.mark else ["the kill did not fire"]
        return "; ".join([*unfired, *self.violations]) or "ok"


def number_of(row: Row) -> str:
    """A row's number in the plan and the name of its mark."""
    return "".join(c if c.isalnum() else "-" for c in row.name)


def start_rows(matrix: Matrix, database: str, chosen: Sequence[Row]) -> list[Outcome]:
    """`empelt up` itself dies while it starts; the next one starts. Without rows: it starts."""
    outcomes = []
    for row in sorted(chosen, key=lambda row: row.name_of_point != "_upgrade"):  # there is a schema from then on
        began, number = time.monotonic(), number_of(row)
        matrix.arm([(number, row.point, row.victim)])
        violations = []
        try:
            matrix.start()
            violations.append("it started, and was to be killed")
            matrix.stop()
        except Stuck:
            pass
        mark = matrix.fired(number)
        violations += survivors(mark)
        outcomes.append(Outcome(database, row, mark, time.monotonic() - began, violations))
    matrix.arm([])
    matrix.start()
    return outcomes


def survivors(mark: dict[str, Any] | None) -> list[str]:
    """The process that a mark says was killed, if it lives."""
    if mark is None or not is_same(mark["victim_pid"], mark["started"]):
        return []
    return [f"pid {mark['victim_pid']} was to be killed, and lives"]


def play(matrix: Matrix, database: str, batch: Sequence[Row]) -> list[Outcome]:
    """All rows of one batch."""
    began, clock = time.time(), time.monotonic()
    armed = [(number_of(row), row.point, row.victim) for row in batch]
    scenarios = list(dict.fromkeys(RELEASE if row.scenario == LOST else row.scenario for row in batch))
    # A run that dies while its candidate is up leaves the wish that is taken back.
    lost = [number_of(row) + "-before" for row in batch if row.scenario == LOST]
    armed += [(number, "task:evaluate:before", "self") for number in lost]
    ensure_live(matrix, 2 if ROLLBACK in scenarios else 1)
    caller = Caller(matrix, CHANNELS[AUTO])
    caller.start()
    stuck: list[str] = []
    try:
        ways = [SCENARIOS[scenario](matrix) for scenario in scenarios]
        matrix.arm(armed)
        for begin in dict.fromkeys(way.begin for way in ways):  # one watch is enough for all
            begin()
        settle(matrix, ways, END_SECONDS + KILL_SECONDS * len(batch))
    except Stuck as error:
        stuck = [str(error)]
    finally:
        matrix.arm([])
        caller.stop()
    marks = {row: matrix.fired(number_of(row)) for row in batch}
    away = [mark["at"] for row, mark in marks.items() if mark and row.victim == "gateway"]
    violations = [
        *stuck,
        *doubled(matrix, began, len(armed) + 1),
        *_left_for_good(matrix),
        *unserved(matrix, caller, began, away),
    ]
    violations += [f"{number} did not fire" for number in lost if matrix.fired(number) is None]
    seconds = (time.monotonic() - clock) / len(batch)
    return [
        Outcome(database, row, mark, seconds, [*violations, *survivors(mark)], bool(stuck))
        for row, mark in marks.items()
    ]


def settle(matrix: Matrix, ways: Sequence[Scenario], seconds: float) -> None:
    """Until every end is reached and all has come to rest, one more watch included."""
    deadline, quiet_since, looked = time.monotonic() + seconds, time.monotonic(), False
    while True:
        active, now = matrix.active_runs(), time.monotonic()
        ended = not active and all(way.reached() for way in ways)
        if ended and looked and not busy(matrix, active):
            return
        if now > deadline:
            rest = "; ".join(busy(matrix, active)) or "at rest"
            raise Stuck(f"no end after {seconds:.0f} s: reached {[way.reached() for way in ways]}; {rest}")
        if active:
            quiet_since = now
        elif (ended and not looked) or now - quiet_since > QUIET_SECONDS or matrix.last_watch_died():
            quiet_since = now
            # What the last run has left, the next watch takes away.
            again = [matrix.watch] if ended else [way.again for way in ways if not way.reached()]
            for help_on in dict.fromkeys(again):
                help_on()
            looked = ended
        time.sleep(0.8)  # each look costs the server three answers


def ensure_live(matrix: Matrix, releases: int) -> None:
    """So many releases were live: there is something to lose."""
    while len(matrix.ledger.promotions(CHANNELS[AUTO])) < releases:
        way = release(matrix)
        way.begin()
        settle(matrix, [way], END_SECONDS)


def _left_for_good(matrix: Matrix) -> list[str]:
    """What `left_behind` still finds when everybody has had the time to tidy up."""
    until = time.monotonic() + TIDY_SECONDS
    while (found := list(left_behind(matrix))) and time.monotonic() < until:
        time.sleep(0.5)
    return found
