"""The rows of the matrix, generated: every Prefect task of tasks/*.py and every function that writes to the ledger.

Both lists are read from the source by `ast`. What is here by hand is only how a point is reached: a task or a write
that is new has no scenario, and a test fails until somebody says how it is reached.
"""

import ast
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

RELEASE, ASK, BACKFILL, ROLLBACK, COLLECT, HOLD, BY_HAND, LOST, START = (
    "release", "ask", "backfill", "rollback", "collect", "hold", "by-hand", "lost", "start",
)  # fmt: skip
IN_A_TEST_OF_ITS_OWN = "own"
"""The matrix's installation publishes to no Hub; tests/publishing kills the process that does, before and after each of
its steps, and runs it again."""
ONLY_IN_THE_STORE = "store"
"""No flow calls it; `test_writes.py` kills it on both databases."""

TASKS = {
    # the watch
    **dict.fromkeys(("find-lost", "refresh-forms", "find-releases", "plan-due", "hold-cancelled"), RELEASE),
    "dispatch-uploads": RELEASE,
    **dict.fromkeys(("open-upload", "upload"), IN_A_TEST_OF_ITS_OWN),
    **dict.fromkeys(("dispatch", "report-plan", "show-pages", "report-calls"), RELEASE),
    # a job
    **dict.fromkeys(("open-job", "reserve-room", "fetch", "merge", "graft", "evaluate", "judge", "explain"), RELEASE),
    **dict.fromkeys(("switch", "confirm", "announce", "end-job"), RELEASE),
    # a person's word
    **dict.fromkeys(("ask-approval", "open-approval", "still-waiting", "record-decision"), ASK),
    **dict.fromkeys(("plan-backfill", "report-backfill"), BACKFILL),
    "choose-previous": ROLLBACK,
    **dict.fromkeys(("pack-bases", "collect"), COLLECT),
}
WRITES = {
    **dict.fromkeys(
        ("record_release", "record_repo_state", "record_watch", "record_poll", "record_job", "record_jobs", "claim"),
        RELEASE,
    ),
    **dict.fromkeys(("take_turn", "end_turn"), RELEASE),
    **dict.fromkeys(("renew", "release", "record_fetched", "record_artifact", "want_staged", "unstage"), RELEASE),
    **dict.fromkeys(("record_evaluation", "record_verdict", "switch_channel", "record_job_end"), RELEASE),
    **dict.fromkeys(("acknowledge", "report_instances", "agent_heartbeat"), RELEASE),
    **dict.fromkeys(("ask_approval", "decide"), ASK),
    "_hold": HOLD,
    "lift": BY_HAND,
    "unstage_all": LOST,
    **dict.fromkeys(("expire_claims_of", "_upgrade"), START),
    **dict.fromkeys(("renew_staged", "record_publication"), ONLY_IN_THE_STORE),
    "record_base_change": ONLY_IN_THE_STORE,  # a command's last write
}
VICTIMS = ("worker-control", "worker-gpu", "agent", "gateway", "prefect-server")
MOMENTS = ("task:graft:before", "task:evaluate:before", "task:switch:after")
"""When one of the other processes is killed: while it merges, while it measures, when the channel has just moved."""
INVARIANT_OF_BEFORE = "nothing of it is there"


class Row(NamedTuple):
    """One kill."""

    name: str
    point: str
    victim: str
    """``self``: the process that reaches the point."""
    scenario: str


@cache
def tasks() -> tuple[str, ...]:
    """The names of all Prefect tasks in tasks/*.py."""
    found = []
    for path in sorted((ROOT / "tasks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for made in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) and made.func.id == "task":
                    named = [
                        k.value.value for k in made.keywords if k.arg == "name" and isinstance(k.value, ast.Constant)
                    ]
                    found.append(str(named[0]) if named else node.name)
    return tuple(found)


@cache
def writes() -> tuple[str, ...]:
    """The names of all functions in tasks/store that open a transaction to write."""
    found = []
    for path in sorted((ROOT / "tasks" / "store").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == "_write"
                for inner in ast.walk(node)
            ):
                found.append(node.name)
    return tuple(found)


def rows() -> list[Row]:
    """Every row of the full matrix.

    A task is killed after its body, when all is done and nobody has been told; what moves the world (a merge, a
    switch, the end of a job) also before. A write is killed after its commit; before it, the database takes it back,
    which `test_writes.py` proves for every write on both databases without a system around it.
    """
    points = [(f"task:{name}:after", TASKS[name]) for name in tasks() if TASKS[name] != IN_A_TEST_OF_ITS_OWN]
    points += [(f"task:{name}:before", RELEASE) for name in ("merge", "switch", "end-job")]
    points += [(f"write:{name}:after", WRITES[name]) for name in writes() if WRITES[name] != ONLY_IN_THE_STORE]
    found = [Row(point, point, "self", scenario) for point, scenario in points]
    found += [Row(f"{victim} at {at}", at, victim, RELEASE) for victim in VICTIMS for at in MOMENTS]
    return found


def sampled(count: int, seed: int) -> list[Row]:
    """So many rows: one for each victim, the rest drawn from all others."""
    draw, every = Random(seed), rows()
    chosen = [draw.choice([row for row in every if row.victim == victim]) for victim in VICTIMS]
    others = [row for row in every if row.victim == "self" and row.scenario == RELEASE]
    return [*chosen, *draw.sample(others, max(0, count - len(chosen)))]
