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

RELEASE, ASK, BACKFILL, ROLLBACK, COLLECT, AUDIT, HOLD, BY_HAND, LOST, START = (
    "release", "ask", "backfill", "rollback", "collect", "audit", "hold", "by-hand", "lost", "start",
)  # fmt: skip
IN_A_TEST_OF_ITS_OWN = "own"
"""The matrix's installation publishes to no Hub; tests/publishing kills the process that does, before and after each of
its steps, and runs it again."""
DATABASES = ("sqlite", "postgresql")
ONLY_IN_THE_STORE = "store"
"""No flow calls it; `test_writes.py` kills it on both databases."""

TASKS = {
    # the watch
    **dict.fromkeys(("find-lost", "refresh-forms", "find-releases", "plan-due", "hold-cancelled"), RELEASE),
    "dispatch-uploads": RELEASE,
    **dict.fromkeys(("open-upload", "upload"), IN_A_TEST_OF_ITS_OWN),
    # the matrix' target has no search: tests/deployments/test_search.py breaks one off after each step, and takes it up again
    **dict.fromkeys(("merge-candidates", "graft-candidates", "hear", "choose"), IN_A_TEST_OF_ITS_OWN),
    **dict.fromkeys(("dispatch", "report-plan", "show-pages", "report-calls"), RELEASE),
    # a job
    **dict.fromkeys(("open-job", "reserve-room", "fetch", "merge", "graft", "evaluate", "judge", "explain"), RELEASE),
    **dict.fromkeys(("record-outputs", "examine-files", "examine", "repeat"), RELEASE),
    "refuse": IN_A_TEST_OF_ITS_OWN,  # the matrix' releases are good
    **dict.fromkeys(("switch", "confirm", "announce", "end-job"), RELEASE),
    **dict.fromkeys(("stage", "verify", "warm", "canary", "drain", "show-promotion"), RELEASE),
    # a person's word
    **dict.fromkeys(("ask-approval", "open-approval", "still-waiting", "record-decision"), ASK),
    **dict.fromkeys(("plan-backfill", "report-backfill"), BACKFILL),
    "choose-previous": ROLLBACK,
    **dict.fromkeys(("pack-bases", "collect"), COLLECT),
    **dict.fromkeys(("audit-channel", "show-audit"), AUDIT),
}
WRITES = {
    **dict.fromkeys(
        ("record_release", "record_repo_state", "record_watch", "record_poll", "record_job", "record_jobs", "claim"),
        RELEASE,
    ),
    **dict.fromkeys(("take_turn", "end_turn"), RELEASE),
    **dict.fromkeys(("renew", "release", "record_fetched", "record_artifact", "want_staged", "unstage"), RELEASE),
    **dict.fromkeys(("record_evaluation", "record_verdict", "switch_channel", "record_job_end"), RELEASE),
    "record_outputs": RELEASE,
    "record_audit": AUDIT,
    **dict.fromkeys(("acknowledge", "report_instances", "agent_heartbeat"), RELEASE),
    **dict.fromkeys(("ask_approval", "decide"), ASK),
    "_hold": HOLD,
    "lift": BY_HAND,
    "unstage_all": LOST,
    **dict.fromkeys(("_upgrade", "expire_claims_of"), START),
    **dict.fromkeys(("renew_staged", "record_publication"), ONLY_IN_THE_STORE),
    # a target with a search: the matrix' has none. tests/deployments/test_search.py takes one up again after each hearing.
    **dict.fromkeys(("record_hearing", "record_search"), ONLY_IN_THE_STORE),
    "record_base_change": ONLY_IN_THE_STORE,  # a command's last write
    **dict.fromkeys(("set_canary", "record_step"), RELEASE),
    "end_canary": ONLY_IN_THE_STORE,  # when a canary is taken back, and the matrix' releases are good
}
MOMENTS = {
    "worker-control": ("task:merge:before", "task:evaluate:before", "task:switch:after"),
    "worker-gpu": ("task:graft:before", "task:judge:before", "task:confirm:after"),
    "agent": ("task:graft:before", "task:judge:before", "task:switch:after"),
    "gateway": ("task:merge:before", "task:evaluate:before", "task:switch:after"),
    "prefect-server": ("task:graft:before", "task:evaluate:before", "task:confirm:after"),
}
"""When each of the other processes is killed: when it is about to merge, has measured, has moved the channel."""
VICTIMS = tuple(MOMENTS)

IN_A_WATCH = {
    *("find-lost", "refresh-forms", "find-releases", "plan-due", "hold-cancelled", "dispatch", "report-plan"),
    *("show-pages", "report-calls", "record_release", "record_repo_state", "record_watch", "record_poll"),
    *("record_jobs", "claim", "_hold", "take_turn", "end_turn", "dispatch-uploads"),
}
"""Points that the watch reaches first: its run dies, and no job of the release."""
IN_THE_AGENT = {"acknowledge", "report_instances", "agent_heartbeat"}


class Row(NamedTuple):
    """One kill."""

    name: str
    point: str
    victim: str
    """``self``: the process that reaches the point."""
    scenario: str

    @property
    def name_of_point(self) -> str:
        """Of the task or the write."""
        return self.point.split(":")[1]

    @property
    def databases(self) -> tuple[str, ...]:
        """Where it runs: a write of the ledger, and whatever a start does, on both; all others are dealt out in turn."""
        if self.point.startswith("write:"):
            return DATABASES
        others = [row for row in rows() if not row.point.startswith("write:")]
        return (DATABASES[others.index(self) % len(DATABASES)],)

    @property
    def ends_a_job(self) -> bool:
        """Whether a run other than the watch's dies of it."""
        return self.victim == "self" and self.name_of_point not in {*IN_A_WATCH, *IN_THE_AGENT}


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


@cache
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
    found += [Row(f"{victim} at {at}", at, victim, RELEASE) for victim, moments in MOMENTS.items() for at in moments]
    return found


def sampled(count: int, seed: int) -> list[tuple[str, Row]]:
    """So many rows of as many kinds as there is room for: three other processes, a job, three scenarios, a write.

    Half of them on each database: the other processes' rows on one, where they share a release, most of a job's on the
    other.

    Args:
        count: of rows.
        seed: the same seed draws the same rows.
    """
    draw, every = Random(seed), rows()
    scenarios = draw.sample((ASK, BACKFILL, COLLECT, AUDIT, HOLD, LOST, START, draw.choice((ROLLBACK, BY_HAND))), 3)
    chosen: list[Row] = []
    for victim in draw.sample(VICTIMS, 3):
        moments = {row.point for row in chosen}
        chosen.append(draw.choice([row for row in every if row.victim == victim and row.point not in moments]))
    kinds = [[row for row in every if row.scenario == RELEASE and row.ends_a_job]]
    kinds += [[row for row in every if row.scenario == scenario] for scenario in scenarios]
    kinds += [[row for row in every if row.scenario == RELEASE and row.point.startswith("write:")]]
    for kind in kinds:
        chosen.append(draw.choice([row for row in kind if row not in chosen]))
    left = [row for row in every if row not in chosen]
    chosen = [*chosen[:count], *draw.sample(left, max(0, count - len(chosen)))]
    chosen.sort(key=lambda row: (row.victim == "self", row.ends_a_job))
    first, second = (DATABASES[(seed + place) % 2] for place in (0, 1))
    return [(first if place < count / 2 else second, row) for place, row in enumerate(chosen)]
