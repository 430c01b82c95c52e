"""The matrix has a row for every task and every write; and without its variable, nothing of it is there."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.batches import MOST_ROWS, batches, lanes
from tests.crash.points import (
    DATABASES,
    IN_A_TEST_OF_ITS_OWN,
    START,
    TASKS,
    VICTIMS,
    WRITES,
    rows,
    sampled,
    tasks,
    writes,
)

INJECT = Path(__file__).parent / "inject"
ROOT = Path(__file__).parents[2]


def test_every_task_has_a_row():
    assert len(tasks()) > 20
    assert sorted(tasks()) == sorted(TASKS), "say in points.py which scenario reaches a new task"
    assert {f"task:{name}:after" for name in tasks() if TASKS[name] != IN_A_TEST_OF_ITS_OWN} <= {
        row.point for row in rows()
    }


def test_every_write_of_the_ledger_has_a_row():
    assert len(writes()) > 20
    assert sorted(writes()) == sorted(WRITES), "say in points.py which scenario reaches a new write"


def test_rows_have_names_of_their_own_and_each_has_a_database():
    names = [row.name for row in rows()]
    assert len(set(names)) == len(names)
    for row in rows():
        assert row.databases == DATABASES if row.point.startswith("write:") else len(row.databases) == 1
    for database in DATABASES:  # what is dealt out is dealt out evenly
        others = [row for row in rows() if row.databases == (database,)]
        assert {row.victim for row in others} == {*VICTIMS, "self"}


def test_a_sample_is_of_many_kinds_and_on_both_databases():
    for seed in range(40):
        chosen = sampled(8, seed)
        assert len({row.name for _, row in chosen}) == 8
        assert [sum(database == one for one, _ in chosen) for database in DATABASES] == [4, 4]
        assert len({row.victim for _, row in chosen} & set(VICTIMS)) == 3
        assert len({row.scenario for _, row in chosen}) >= 4
    assert sampled(8, 1) == sampled(8, 1)
    assert {row.scenario for seed in range(40) for _, row in sampled(8, seed)} == {row.scenario for row in rows()}


@pytest.mark.parametrize("database", DATABASES)
def test_rows_share_a_release_only_where_each_of_them_can_fire(database: str):
    mine = [row for row in rows() if database in row.databases and row.scenario != START]
    found = batches(mine)
    assert sorted(row.name for batch in found for row in batch) == sorted(row.name for row in mine)
    for batch in found:
        taken = [lane for row in batch for lane in lanes(row)]
        assert len(taken) == len(set(taken)), batch
        assert len(batch) <= MOST_ROWS
        # Of a run that dies while its worker is away nobody says so: its silence alone does, after minutes.
        assert not (any(row.victim != "self" for row in batch) and any(row.ends_a_job for row in batch)), batch


WRITE = """
import sys
from datetime import UTC, datetime
from tasks.store.ledger import Ledger
with Ledger.open(sys.argv[1]) as ledger:
    ledger.agent_heartbeat(datetime(2026, 11, 1, tzinfo=UTC))
print("done")
"""


def run(tmp_path: Path, rows: list[dict[str, str]], **environment: str) -> subprocess.CompletedProcess[str]:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(rows))
    path = os.pathsep.join([str(INJECT), str(ROOT)])
    named = {name: str(plan) if value == "the plan" else value for name, value in environment.items()}
    clean = {name: value for name, value in os.environ.items() if name != "CRASH_MATRIX_AT"}
    return subprocess.run(
        [sys.executable, "-c", WRITE, f"sqlite:///{tmp_path / 'ledger.db'}"],
        env={**clean, "PYTHONPATH": path, **named},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_point_fires_once_and_only_where_the_variable_names_a_plan(tmp_path: Path, when: str):
    row = {"row": "7", "point": f"write:agent_heartbeat:{when}", "victim": "self"}
    mark = tmp_path / "plan.json.7.fired"

    without = run(tmp_path, [row])
    assert (without.returncode, without.stdout, mark.exists()) == (0, "done\n", False)
    other = run(tmp_path, [{**row, "point": "write:claim:after"}], CRASH_MATRIX_AT="the plan")
    assert (other.returncode, mark.exists()) == (0, False)

    killed = run(tmp_path, [row], CRASH_MATRIX_AT="the plan")
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
    told = json.loads(mark.read_text())
    assert (told["point"], told["victim_pid"] == told["killer"]) == (row["point"], True)
    again = run(tmp_path, [row], CRASH_MATRIX_AT="the plan")
    assert (again.returncode, again.stdout) == (0, "done\n")


def test_a_task_has_a_point_around_its_body(tmp_path: Path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps([{"row": "1", "point": "task:end-job:before", "victim": "self"}]))
    code = "from tasks.ledger import end_job; end_job.fn(None, 'kept', '', None, 1)"
    path = os.pathsep.join([str(INJECT), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "CRASH_MATRIX_AT": str(plan), "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "plan.json.1.fired").exists()


def test_the_product_knows_nothing_of_crash_points():
    for room in ("flows", "tasks", "deployments", "infra"):
        for path in (ROOT / room).rglob("*.py"):
            assert "CRASH_MATRIX" not in path.read_text(encoding="utf-8"), path
