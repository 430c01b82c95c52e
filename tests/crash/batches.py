"""Which rows share a release. A kill costs seconds, a release and the coming to rest after it cost more.

Two rows that cannot both fire do not share one: those of one point; those whose kill leaves a fact behind that keeps
the next attempt from coming by again; and the kills of a worker or the server beside those of a run, since a run that
dies while nobody looks after it is found by its silence only, after minutes.
"""

from collections.abc import Sequence

from tests.crash.points import ASK, AUDIT, BACKFILL, BY_HAND, COLLECT, HOLD, LOST, RELEASE, ROLLBACK, Row

MOST_ROWS = 14
"""Of one batch. An attempt of a job each, at worst."""
ONCE = {
    "merged": ("task:graft:after", "write:record_artifact:after"),
    "ended": ("task:end-job:after", "write:record_job_end:after", "task:explain:after"),
    "asked": ("task:ask-approval:after", "write:ask_approval:after"),
    "decided": ("task:record-decision:after", "write:decide:after"),
    "planned": ("task:plan-backfill:after", "task:report-backfill:after"),
}
"""Of each of these only one fires in a release: it leaves the fact that the other one waits for."""
TOGETHER = (RELEASE, ASK, LOST, HOLD, BACKFILL, COLLECT, AUDIT)
"""Scenarios that go on side by side."""
ALONE = (ROLLBACK, BY_HAND)
"""Scenarios that move the channel in a way of their own."""


def batches(chosen: Sequence[Row]) -> list[list[Row]]:
    """Rows that share a release, in the order in which they are played; rows of a start are none of them."""
    others = [row for row in chosen if row.victim != "self"]
    jobs = [row for row in chosen if row.scenario in TOGETHER and row.ends_a_job]
    anywhere = [row for row in chosen if row.scenario in TOGETHER and row not in others and row not in jobs]
    found = [*_spread(others), *_spread(jobs)]
    for row in anywhere:
        _place(row, found)
    alone = [[row for row in chosen if row.scenario == scenario] for scenario in ALONE]
    return [*found, *(rows for rows in alone if rows)]


def lanes(row: Row) -> set[str]:
    """What a row has to itself in its batch."""
    found = {name for name, points in ONCE.items() if row.victim == "self" and row.point in points}
    found |= {"task:evaluate:before"} if row.scenario == LOST else set()  # it kills there first
    return {row.point, *found}


def _spread(chosen: Sequence[Row]) -> list[list[Row]]:
    """As few batches as their number asks for, of the same length; more where lanes ask for them."""
    found: list[list[Row]] = [[] for _ in range(-(-len(chosen) // MOST_ROWS))]
    for row in chosen:
        _place(row, found)
    return found


def _place(row: Row, found: list[list[Row]]) -> None:
    """Into the shortest batch in which it has its lanes to itself; into a new one if there is none."""
    fitting = [b for b in found if len(b) < MOST_ROWS and not any(lanes(row) & lanes(other) for other in b)]
    if fitting:
        min(fitting, key=len).append(row)
    else:
        found.append([row])
