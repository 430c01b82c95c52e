"""The one list of Prefect deployments, with their pools and schedules; applied on every `empelt up`.

Module-path entrypoints: the project is installed, so a worker imports `flows.x.y` from anywhere. No deployment has a
concurrency limit: the ledger's claims and compare-and-swap decide who may do what, and losing a limit's lease would
crash a healthy run (PrefectHQ/prefect#21064, #18839).
"""

import sys
from datetime import timedelta
from typing import Any, NamedTuple, cast

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.schedules import Cron, Interval
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Crashed
from prefect.types.entrypoint import EntrypointType

from deployments.automations import apply_automations, automations
from flows.approve_release import approve_release
from flows.backfill_base import backfill_base
from flows.merge_candidate import merge_candidate
from flows.publish_model import publish_model
from flows.remerge_release import remerge_release
from flows.rollback_channel import rollback_channel
from flows.watch_hub import watch_hub
from tasks.forms import refresh_forms as refresh_forms
from tasks.settings import Settings

CONTROL, GPU = "control", "gpu"
POOLS = {
    CONTROL: "Watching, judging, publishing: work that needs no device.",
    GPU: "Merges: a slot is held for the work that needs the device, and no longer.",
}


class Entry(NamedTuple):
    """One deployment without schedule."""

    flow: Flow[..., Any]
    name: str
    pool: str
    description: str


ENTRIES = (
    Entry(remerge_release, "by-hand-or-watch", CONTROL, "One release, one target: fetch, merge, judge, publish."),
    Entry(merge_candidate, "gpu", GPU, "The merge itself, on a worker that owns a device."),
    Entry(publish_model, "by-hand", CONTROL, "Moves a channel to a judged artifact."),
    Entry(backfill_base, "by-hand", CONTROL, "Brings releases on record to targets that lack them, oldest first."),
    Entry(rollback_channel, "by-hand", CONTROL, "Takes a channel back to what it served before."),
    Entry(approve_release, "by-hand", CONTROL, "Publishes or rejects a candidate that waits for approval."),
)


def deployments(settings: Settings, version: str) -> list[RunnerDeployment]:
    """Every deployment, built from ``settings``."""
    common: dict[str, Any] = {
        "version": version,
        "entrypoint_type": EntrypointType.MODULE_PATH,
        # Without a command prefect 3.9 starts a second Python for each run, to prepare a workspace that we have not:
        # 3 s of CPU for each run on the machine this was written on.
        "job_variables": {"command": f"{sys.executable} -m prefect.engine"},
    }
    watch = watch_hub.to_deployment(
        name="schedule",
        description="Finds new releases, plans what is due, dispatches it.",
        schedules=[
            Interval(timedelta(seconds=settings.watch_interval_seconds), slug="poll"),
            Cron(settings.nightly_cron, timezone=settings.timezone, slug="nightly", parameters={"full_rescan": True}),
        ],
        work_pool_name=CONTROL,
        tags=["empelt", "watch"],
        **common,
    )
    rest = [
        entry.flow.to_deployment(
            name=entry.name,
            description=entry.description,
            work_pool_name=entry.pool,
            tags=["empelt"],
            **common,
        )
        for entry in ENTRIES
    ]
    return [cast(RunnerDeployment, deployment) for deployment in (watch, *rest)]


def register(settings: Settings, version: str) -> list[str]:
    """Create or update pools, deployments and automations; the names of the deployments. Safe to repeat."""
    # Prefect reads its settings when it is imported, which may have been before there was a server: say it again here.
    with temporary_settings({PREFECT_API_URL: f"{settings.prefect_url}/api"}):
        return _register(settings, version)


def _register(settings: Settings, version: str) -> list[str]:
    with get_client(sync_client=True) as client:
        for name, text in POOLS.items():
            try:
                client.create_work_pool(WorkPoolCreate(name=name, type="process", description=text))
            except ObjectAlreadyExists:
                client.update_work_pool(name, WorkPoolUpdate(description=text))
    names = []
    for deployment in deployments(settings, version):
        deployment.apply()
        names.append(f"{deployment.flow_name}/{deployment.name}")
    refresh_forms(settings)
    with get_client(sync_client=True) as client:
        watch = client.read_deployment_by_name("watch-hub/schedule").id
        apply_automations(client, automations(settings, watch))
    return names


def crash_stray_runs(settings: Settings) -> int:
    """Mark runs that say they are running as crashed; how many. Only for when every process that runs any has ended.

    Prefect would show them as running for ever (PrefectHQ/prefect#16746). The watch claims their jobs again when their
    leases end. One that was being cancelled is cancelled: a person's word outlives a restart.
    """
    states = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    wanted, crashed = FlowRunFilter(state=FlowRunFilterState(type=states)), 0
    with temporary_settings({PREFECT_API_URL: f"{settings.prefect_url}/api"}), get_client(sync_client=True) as client:
        while stray := client.read_flow_runs(flow_run_filter=wanted, limit=200):
            for run in stray:
                ended = Cancelled if run.state and run.state.is_cancelling() else Crashed
                client.set_flow_run_state(run.id, ended(message="ended together with `empelt up`"), force=True)
            crashed += len(stray)
    return crashed
