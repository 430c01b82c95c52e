"""Each write of the ledger, killed before its commit and after it, on both databases: nothing of it, or all of it."""

import json
import os
import runpy
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tasks.domain.errors import InputError
from tasks.domain.records import InstanceStatus
from tasks.domain.search import SearchFact
from tasks.store import database
from tasks.store.ledger import Ledger
from tasks.store.tables import metadata
from tests.crash.points import writes
from tests.store.conftest import Samples

INJECT = Path(__file__).parent / "inject" / "sitecustomize.py"
NOW = datetime(2026, 11, 2, tzinfo=UTC)
make = Samples()
Prepare = Callable[[Ledger], Any]


def nothing(_: Ledger) -> None:
    """Nothing has to be there before."""


def claimed(ledger: Ledger) -> Any:
    return ledger.claim("job", owner="run:1", lease_seconds=300)


def on_turn(ledger: Ledger) -> Any:
    return ledger.take_turn("watch", owner="run:1", lease_seconds=300)


def staged(ledger: Ledger) -> Any:
    return ledger.want_staged(make.digest("a"), "eu", owner="run:1", lease_seconds=300)


def switched(ledger: Ledger) -> Any:
    asked = {"digest": make.digest("a"), "release": make.ref(), "target": "eu", "family": "tiny"}
    return ledger.switch_channel("eu", expected_generation=0, **asked)


def waiting(ledger: Ledger) -> Any:
    job = make.job()
    ledger.record_job(job)
    ledger.ask_approval(make.request(job, make.digest("a")), "it is stronger")
    return job


def tried(ledger: Ledger) -> Any:
    switched(ledger)
    asked = {"weight": 5.0, "generation": 1, "owner": "run:1", "lease_seconds": 300.0}
    return ledger.set_canary("eu", digest=make.digest("b"), **asked)


STATUS = InstanceStatus(
    name="eu-a", digest=make.digest("a"), channel="eu", state="ready", since=NOW, mode="plain", model_name="eu@a"
)
SEARCH = SearchFact(key=make.digest("k"), job_key=make.digest("j"), chosen=None, tried=(), said="none is left")
CALLS: dict[str, tuple[Prepare, Callable[[Ledger, Any], Any]]] = {
    "record_release": (nothing, lambda ledger, _: ledger.record_release(make.release())),
    "record_repo_state": (nothing, lambda ledger, _: ledger.record_repo_state("lab/x", "id1", "1" * 40, None, NOW)),
    "record_watch": (nothing, lambda ledger, _: ledger.record_watch("tiny", "{}", NOW, ())),
    "record_artifact": (
        nothing,
        lambda ledger, _: ledger.record_artifact(
            make.digest("merge"), make.artifact("a"), make.lineage(), seconds=1.0, peak_bytes=1
        ),
    ),
    "record_fetched": (nothing, lambda ledger, _: ledger.record_fetched(make.ref(), make.digest("v1"))),
    "record_poll": (nothing, lambda ledger, _: ledger.record_poll("tiny", NOW, 3)),
    "record_jobs": (nothing, lambda ledger, _: ledger.record_jobs({make.job().key: make.job()})),
    "record_job": (nothing, lambda ledger, _: ledger.record_job(make.job())),
    "record_evaluation": (nothing, lambda ledger, _: ledger.record_evaluation(make.evaluation())),
    "record_job_end": (nothing, lambda ledger, _: ledger.record_job_end("job", "published", "stronger")),
    "lift": (nothing, lambda ledger, _: ledger.lift("job", "by a person")),
    "_hold": (nothing, lambda ledger, _: ledger.record_hold("job", "refused")),
    "claim": (nothing, lambda ledger, _: claimed(ledger)),
    "renew": (claimed, lambda ledger, claim: ledger.renew(claim)),
    "release": (claimed, lambda ledger, claim: ledger.release(claim)),
    "take_turn": (nothing, lambda ledger, _: ledger.take_turn("watch", "run:1", 300)),
    "end_turn": (on_turn, lambda ledger, turn: ledger.end_turn(turn)),
    "expire_claims_of": (claimed, lambda ledger, _: ledger.expire_claims_of()),
    "switch_channel": (nothing, lambda ledger, _: switched(ledger)),
    "acknowledge": (switched, lambda ledger, _: ledger.acknowledge("eu", 1)),
    "ask_approval": (nothing, lambda ledger, _: ledger.ask_approval(make.request(make.job(), make.digest("a")), "x")),
    "decide": (waiting, lambda ledger, job: ledger.decide(job.key, "published", by="me", reason="")),
    "set_canary": (switched, lambda ledger, _: tried(ledger)),
    "end_canary": (tried, lambda ledger, _: ledger.end_canary("eu", make.digest("b"))),
    "record_step": (
        nothing,
        lambda ledger, _: ledger.record_step(
            "eu", "canary 5", generation=1, digest=make.digest("b"), ended="done", seconds=1.0
        ),
    ),
    "want_staged": (nothing, lambda ledger, _: staged(ledger)),
    "renew_staged": (staged, lambda ledger, _: ledger.renew_staged(make.digest("a"), "eu", "run:1", 900)),
    "unstage": (staged, lambda ledger, _: ledger.unstage(make.digest("a"), "eu", "run:1")),
    "unstage_all": (staged, lambda ledger, _: ledger.unstage_all("run:1")),
    "report_instances": (nothing, lambda ledger, _: ledger.report_instances([STATUS])),
    "record_base_change": (
        nothing,
        lambda ledger, _: ledger.record_base_change("tiny", "eu", "retired", repo_id="lab/eu", details={"why": "old"}),
    ),
    "record_publication": (nothing, lambda ledger, _: ledger.record_publication(make.publication())),
    "record_outputs": (nothing, lambda ledger, _: ledger.record_outputs(make.outputs())),
    "record_audit": (nothing, lambda ledger, _: ledger.record_audit(make.audit())),
    "record_hearing": (nothing, lambda ledger, _: ledger.record_hearing(make.digest("k"), make.digest("a"), [1.5])),
    "record_search": (nothing, lambda ledger, _: ledger.record_search(SEARCH)),
    "agent_heartbeat": (nothing, lambda ledger, _: ledger.agent_heartbeat(NOW)),
}
ELSEWHERE = {
    "_upgrade": "tests/store/test_database.py upgrades from every revision; a killed `empelt up` is a row of the matrix",
    "record_verdict": "takes a gate's verdict; a row of the matrix kills it after its commit",
}


def contents(url: str) -> dict[str, list[Any]]:
    """Every row of every table, as another process sees them."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        with engine.connect() as connection:
            return {
                name: sorted(map(repr, connection.execute(text(f"SELECT * FROM {name}")))) for name in metadata.tables
            }
    finally:
        engine.dispose()


def test_every_write_is_called_here_or_says_where_else():
    assert sorted([*CALLS, *ELSEWHERE]) == sorted(writes())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_killed_write_is_there_whole_or_not_at_all(name: str, when: str, url: str, tmp_path: Path):
    prepare, call = CALLS[name]
    with Ledger.open(url) as ledger:
        given = prepare(ledger)
        was, plan = contents(url), tmp_path / "plan.json"
        plan.write_text(json.dumps([{"row": "1", "point": f"write:{name}:{when}", "victim": "self"}]))
        child = os.fork()
        if child == 0:
            try:
                os.environ["CRASH_MATRIX_AT"] = str(plan)
                runpy.run_path(str(INJECT))["_around_writes"](database)
                call(ledger, given)
            finally:
                os._exit(3)  # the point was not reached
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert json.loads((tmp_path / "plan.json.1.fired").read_text())["victim_pid"] == child
        now = contents(url)
        assert (now == was) is (when == "before")
        if (name, when) == ("decide", "after"):  # the one write that must not be made twice says so
            with pytest.raises(InputError, match="published by me"):
                call(ledger, given)
        else:
            call(ledger, given)  # nothing is locked, and the same again does no harm
