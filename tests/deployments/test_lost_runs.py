"""Runs that no longer live, on a real Prefect server: found by the watch's own look, not by events."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks import doors
from tasks.domain.due import PlanRow
from tasks.domain.models import ModelRef, Release
from tasks.settings import Settings
from tasks.settings import settings as read_settings
from tasks.store.ledger import Ledger

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

pytestmark = pytest.mark.system

JOB = "a" * 64


@pytest.fixture
def settings(prefect_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    values = {"HOME": str(tmp_path), "PREFECT_PORT": str(prefect_server), "FAMILIES": "llama-tiny"}
    for name, value in (values | {"PENDING_SECONDS": "30", "RETRY_SECONDS": "100"}).items():
        monkeypatch.setenv(f"EMPELT_{name}", value)
    doors.forget()
    yield read_settings()
    doors.forget()


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return doors.open_ledger()


@pytest.fixture
def start(client: "SyncPrefectClient", settings: Settings) -> "Callable[..., FlowRun]":
    """Make a run of a job in a state."""
    from deployments.registry import crash_stray_runs, register

    register(settings, "1")
    crash_stray_runs(settings)
    deployment = client.read_deployment_by_name("remerge-release/by-hand-or-watch").id

    def made(state: Any, *, key: str | None = None, fence: int | None = None) -> "FlowRun":
        ticket = {"job_key": JOB, "attempt": 1, "fence": fence} if fence is not None else None
        parameters = {"family": "llama-tiny", "release": "lab/x", "target": "eu", "claim": ticket}
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters, idempotency_key=key)
        client.set_flow_run_state(run.id, state, force=True)
        return client.read_flow_run(run.id)

    return made


def look(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from prefect.logging import disable_run_logger

    from tasks.lost import find_lost

    with disable_run_logger():
        found: list[str] = find_lost.fn()
    return found


def state_of(client: "SyncPrefectClient", run: "FlowRun") -> str:
    state = client.read_flow_run(run.id).state
    assert state is not None
    return state.type.value


def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stamps states by its own clock, so ours is put forward."""
    from tasks import lost

    monkeypatch.setattr(lost, "_now", lambda: datetime.now(UTC) + timedelta(hours=1))


def test_a_zombie_and_a_stuck_run_are_crashes_and_what_may_live_is_left_alone(
    client: "SyncPrefectClient", start: "Callable[..., FlowRun]", monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Completed, Pending, Running

    states = {"zombie": Running(), "stuck": Pending(), "done": Completed()}
    runs = {name: start(state) for name, state in states.items()}
    assert look(monkeypatch) == []
    assert [state_of(client, run) for run in runs.values()] == ["RUNNING", "PENDING", "COMPLETED"]
    an_hour_later(monkeypatch)
    told = look(monkeypatch)
    assert [state_of(client, run) for run in runs.values()] == ["CRASHED", "CRASHED", "COMPLETED"]
    assert any(runs["zombie"].name in line and "no heartbeat since" in line for line in told)
    assert any(runs["stuck"].name in line and "pending since" in line for line in told)
    assert look(monkeypatch) == []


def test_a_run_that_still_beats_is_no_zombie(
    client: "SyncPrefectClient", start: "Callable[..., FlowRun]", monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Running

    from tasks import lost

    run = start(Running())
    an_hour_later(monkeypatch)
    # Events are stamped by the server's clock, which cannot be put forward: with ours an hour ahead, one that has just
    # been sent would look an hour old. The question to the server itself is asked for real in the test above.
    monkeypatch.setattr(lost, "_last_heard", lambda *_: datetime.now(UTC) + timedelta(minutes=59))
    look(monkeypatch)
    assert state_of(client, run) == "RUNNING"


def test_a_run_that_renews_its_claim_is_no_zombie_although_its_heartbeats_were_lost(
    client: "SyncPrefectClient", start: "Callable[..., FlowRun]", ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Running

    run = start(Running())
    claim = ledger.claim(JOB, owner=f"run:{run.id}", lease_seconds=300)
    assert claim is not None
    an_hour_later(monkeypatch)
    assert look(monkeypatch) == []
    assert state_of(client, run) == "RUNNING"
    ledger.release(claim)
    look(monkeypatch)
    assert state_of(client, run) == "CRASHED"


def test_the_claim_of_a_run_that_crashed_is_given_back_at_once(
    client: "SyncPrefectClient",
    start: "Callable[..., FlowRun]",
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.states import Crashed, Running

    by_ticket = ledger.claim(JOB, owner="watch", lease_seconds=300)
    assert by_ticket is not None
    start(Running(), key=f"{JOB}:{by_ticket.attempt}", fence=by_ticket.fence)
    assert look(monkeypatch) == []
    assert [c.fence for c in ledger.live_claims()] == [by_ticket.fence]

    crashed = start(Crashed())
    own = ledger.claim("b" * 64, owner=f"run:{crashed.id}", lease_seconds=300)
    assert own is not None
    ledger.want_staged("c" * 64, "eu", owner=f"run:{crashed.id}", lease_seconds=300)
    (told,) = look(monkeypatch)
    assert "attempt 1 of bbbbbbbbbbbb is given back: its run ended as Crashed" in told
    assert [c.fence for c in ledger.live_claims()] == [by_ticket.fence]
    assert ledger.desired().staged == ()


def test_a_claim_whose_dispatcher_died_before_it_made_a_run_is_given_back(
    start: "Callable[..., FlowRun]", ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.claim("d" * 64, owner="watch", lease_seconds=300)
    (told,) = look(monkeypatch)
    assert told.endswith("its run was never made")
    assert ledger.live_claims() == []


def test_a_late_run_whose_job_went_to_another_attempt_is_a_crash(
    client: "SyncPrefectClient", start: "Callable[..., FlowRun]", ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Scheduled

    late = start(Scheduled(), fence=1)
    look(monkeypatch)
    assert state_of(client, late) == "SCHEDULED"
    an_hour_later(monkeypatch)
    look(monkeypatch)
    assert state_of(client, late) == "CRASHED"
    claim = ledger.claim(JOB, owner="watch", lease_seconds=300)
    assert claim is not None
    waits = start(Scheduled(), fence=claim.fence, key=f"{JOB}:{claim.attempt}")
    look(monkeypatch)
    assert state_of(client, waits) == "SCHEDULED"  # its ticket holds: a queue may be long


def test_pauses_between_attempts_grow_and_a_persons_retry_ends_them(ledger: Ledger) -> None:
    from tasks.pauses import not_before, rested

    ref = ModelRef(repo_id="lab/x", revision="1" * 40)
    now = datetime.now(UTC)
    release = Release(family="llama-tiny", ref=ref, content_digest="2" * 64, released_at=now, seen_at=now)
    row = PlanRow(
        family="llama-tiny", target="eu", channel="eu", release=release, job_key=JOB, standing="due", reason="new"
    )
    assert not_before(row) is None
    assert rested([row]) == [row]
    pauses = []
    for _ in range(3):
        claim = ledger.claim(JOB, owner="watch", lease_seconds=300)
        assert claim is not None
        earliest = not_before(row)
        assert earliest is not None
        pauses.append(round((earliest - ledger.attempts_of(JOB)[-1].at).total_seconds()))
        ledger.release(claim)
        assert rested([row]) == []
    assert pauses == [100, 400, 1600]
    ledger.lift(JOB, "by a person")
    assert not_before(row) is None


def test_environment_of_an_installation_makes_runs_beat_four_times_before_they_count_as_gone(
    settings: Settings,
) -> None:
    from deployments.up import prefects
    from tasks.lost import SILENT_SECONDS

    assert int(prefects(settings)["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) * 4 == SILENT_SECONDS
    assert os.environ["EMPELT_HOME"] == str(settings.home)


def test_a_subflow_run_whose_parent_has_ended_is_a_crash(
    client: "SyncPrefectClient", start: "Callable[..., FlowRun]", monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Crashed, Running

    from flows.publish_model import publish_model

    subflows = {}
    for name, state in (("of a dead one", Crashed()), ("of a living one", Running())):
        parent = start(state)
        step = client.create_task_run(_step(), flow_run_id=parent.id, dynamic_key="publish-model-0", state=Running())
        subflows[name] = client.create_flow_run(
            publish_model, parameters={}, parent_task_run_id=step.id, state=Running()
        )
    # On a busy machine runs of the tests before may be found silent by now, and are told too.
    (told,) = [one for one in look(monkeypatch) if "its parent run" in one]
    assert told.endswith("its parent run ended as Crashed")
    found = {name: state_of(client, run) for name, run in subflows.items()}
    assert found == {"of a dead one": "CRASHED", "of a living one": "RUNNING"}


def _step() -> Any:
    from prefect import task

    @task
    def step() -> None:
        """Stands for the subflow in its parent's graph."""

    return step
