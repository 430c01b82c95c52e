"""The registry against a real Prefect server: applied twice it is there once, and as it promises to be."""

import importlib
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

pytestmark = pytest.mark.system

NAMES = {
    "watch-hub/schedule": "control",
    "remerge-release/by-hand-or-watch": "control",
    "merge-candidate/gpu": "gpu",
    "publish-model/by-hand": "control",
    "upload-model/by-hand-or-watch": "control",
    "rollback-channel/by-hand": "control",
    "approve-release/by-hand": "control",
    "backfill-base/by-hand": "control",
    "collect-garbage/nightly": "control",
    "audit-serving/nightly": "control",
}


@pytest.fixture
def settings(prefect_server: int, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, prefect_port=prefect_server, families="llama-tiny")


@pytest.fixture
def found(client: "SyncPrefectClient", settings: Settings) -> "dict[str, DeploymentResponse]":
    """Every deployment on the server after two registrations, by ``flow/deployment``."""
    from deployments.registry import register

    for version in ("1", "2"):
        assert sorted(register(settings, version)) == sorted(NAMES)
    stored = client.read_deployments(limit=200)
    flows = {d.flow_id: client.read_flow(d.flow_id).name for d in stored}
    names = [f"{flows[d.flow_id]}/{d.name}" for d in stored]
    assert sorted(names) == sorted(NAMES)  # each once
    return dict(zip(names, stored, strict=True))


def test_registering_twice_leaves_one_of_each_in_its_pool(found: "dict[str, DeploymentResponse]") -> None:
    assert {name: deployment.work_pool_name for name, deployment in found.items()} == NAMES
    assert {deployment.version for deployment in found.values()} == {"2"}


def test_both_pools_start_processes(client: "SyncPrefectClient", found: "dict[str, DeploymentResponse]") -> None:
    pools = {pool.name: pool.type for pool in client.read_work_pools()}
    assert {name: kind for name, kind in pools.items() if name in ("control", "gpu")} == {
        "control": "process",
        "gpu": "process",
    }


def test_the_watch_has_a_poll_and_a_nightly_rescan(found: "dict[str, DeploymentResponse]") -> None:
    schedules: dict[str, Any] = {entry.slug: entry for entry in found["watch-hub/schedule"].schedules}
    assert sorted(schedules) == ["nightly", "poll"]
    assert all(entry.active for entry in schedules.values())
    assert schedules["poll"].schedule.interval == timedelta(seconds=600)
    nightly = schedules["nightly"]
    assert (nightly.schedule.cron, nightly.schedule.timezone) == ("30 2 * * *", "Europe/Madrid")
    assert nightly.parameters == {"full_rescan": True}


def test_nothing_but_the_watch_the_collection_and_the_audit_starts_by_itself(
    found: "dict[str, DeploymentResponse]",
) -> None:
    alone = sorted(name for name, deployment in found.items() if deployment.schedules)
    assert alone == ["audit-serving/nightly", "collect-garbage/nightly", "watch-hub/schedule"]
    (audit,) = found["audit-serving/nightly"].schedules
    assert (audit.schedule.cron, audit.schedule.timezone) == ("0 5 * * *", "Europe/Madrid")
    (nightly,) = found["collect-garbage/nightly"].schedules
    assert (nightly.schedule.cron, nightly.schedule.timezone) == ("30 4 * * *", "Europe/Madrid")


def test_an_entrypoint_is_a_module_that_a_worker_can_import_from_anywhere(
    found: "dict[str, DeploymentResponse]",
) -> None:
    from prefect import Flow

    for name, deployment in found.items():
        assert deployment.entrypoint is not None
        module, attribute = deployment.entrypoint.rsplit(".", 1)
        flow = getattr(importlib.import_module(module), attribute)
        assert isinstance(flow, Flow)
        assert flow.name == name.split("/")[0]
        assert not deployment.pull_steps
        assert not deployment.storage_document_id


def test_no_long_run_can_end_by_a_lost_lease(found: "dict[str, DeploymentResponse]") -> None:
    # A deployment's concurrency limit is held by a lease; a run that loses it is crashed, however healthy it is.
    for name in ("remerge-release/by-hand-or-watch", "merge-candidate/gpu"):
        assert found[name].global_concurrency_limit is None
        assert found[name].concurrency_options is None


def test_a_changed_interval_replaces_the_old_one(
    client: "SyncPrefectClient", found: "dict[str, DeploymentResponse]", settings: Settings
) -> None:
    from deployments.registry import register

    register(settings.model_copy(update={"watch_interval_seconds": 15}), "3")
    schedules = client.read_deployment(found["watch-hub/schedule"].id).schedules
    intervals = [s.schedule.interval for s in schedules if s.slug == "poll"]
    assert intervals == [timedelta(seconds=15)]
    assert len(schedules) == 2


def test_runs_of_a_server_that_died_are_crashed_and_runs_to_come_are_kept(
    client: "SyncPrefectClient", found: "dict[str, DeploymentResponse]", settings: Settings
) -> None:
    from prefect.states import Cancelling, Completed, Pending, Running, Scheduled

    from deployments.registry import crash_stray_runs

    crash_stray_runs(settings)  # other files' tests leave runs on the server that they share with this one
    identity = found["rollback-channel/by-hand"].id
    states = {"Running": Running(), "Pending": Pending(), "Cancelling": Cancelling(), "Completed": Completed()}
    runs = {
        name: client.create_flow_run_from_deployment(identity, parameters={"channel": "eu"}, state=Scheduled())
        for name in (*states, "Scheduled")
    }
    client.set_flow_run_state(runs["Cancelling"].id, Running(), force=True)  # else the server cancels it at once
    for name, state in states.items():
        client.set_flow_run_state(runs[name].id, state, force=True)
    assert crash_stray_runs(settings) == 3
    after = {}
    for name, run in runs.items():
        state = client.read_flow_run(run.id).state
        assert state is not None
        after[name] = state.type.value
    assert after == {
        "Running": "CRASHED",
        "Pending": "CRASHED",
        "Cancelling": "CANCELLED",  # a person's word outlives a restart
        "Completed": "COMPLETED",
        "Scheduled": "SCHEDULED",
    }
    crashed = client.read_flow_run(runs["Running"].id).state
    assert crashed is not None
    assert crashed.message == "ended together with `empelt up`"
    assert crash_stray_runs(settings) == 0
