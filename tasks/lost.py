"""What no longer lives and has not said so: runs, children, scratch. Found by every watch; events are only hints.

    a run whose process ended           the worker says Crashed; its job's claim is given back here at once
    a zombie: Running, no heartbeat     marked Crashed (the automation does the same, where its events came through)
    a subflow run whose parent run has ended                                                    marked Crashed
    stuck in Pending, or Late for a job that another attempt has taken over                     marked Crashed
    a claim whose dispatcher died before it made a run                                          given back
    children and scratch folders of runs that are gone                                          ended, removed

What this frees is dispatched again by the same watch, after a pause that grows with each attempt, three times at most.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed

from tasks.domain.records import Claim
from tasks.domain.words import moment
from tasks.doors import open_ledger, open_store
from tasks.processes import end_orphans
from tasks.settings import settings

TAG = "empelt"
"""Every deployment of ours has it; runs of others on a shared server are none of our business."""
SILENT_SECONDS = 240
"""Four heartbeats of a flow run, as `empelt up` sets them."""


@task(name="find-lost", cache_policy=NO_CACHE)
def find_lost() -> list[str]:
    """Put right what crashed; what was done, for people. It is the caller's turn: nobody dispatches now."""
    told = [f"ended {name}: its run is gone" for name in end_orphans(settings().children)]
    told += [f"removed {path.name}: the process that wrote it is gone" for path in open_store().drop_orphans()]
    with get_client(sync_client=True) as client:
        for run, why in (*_lost_runs(client), *_orphans(client)):
            ended = Cancelled if run.state and run.state.is_cancelling() else Crashed
            client.set_flow_run_state(run.id, ended(message=why), force=True)
            told.append(f"{run.name}: {why}")
        told += [line for claim in open_ledger().live_claims() if (line := _give_back(client, claim))]
    for line in told:
        get_run_logger().warning("%s", line)
    return told


def _now() -> datetime:
    return datetime.now(UTC)


def _lost_runs(client: SyncPrefectClient) -> Iterator[tuple[FlowRun, str]]:
    """Runs that will never go on by themselves, and why that is so."""
    now, patience = _now(), timedelta(seconds=settings().pending_seconds)
    live = open_ledger().live_claims()
    fences, owners = {(claim.job_key, claim.fence) for claim in live}, {claim.owner for claim in live}

    def holds(run: FlowRun) -> bool:
        ticket = run.parameters.get("claim") or {}
        return f"run:{run.id}" in owners or (ticket.get("job_key"), ticket.get("fence")) in fences

    for run in _runs(client, StateType.RUNNING, StateType.CANCELLING):
        # While the server was away heartbeats were lost; a claim is renewed past it, by the run itself.
        if str(run.id) == flow_run.get_id() or holds(run) or (heard := _last_heard(client, run)) is None:
            continue
        if now - heard > timedelta(seconds=SILENT_SECONDS):
            yield run, f"no heartbeat since {moment(heard)}: its process is gone"
    for run in _runs(client, StateType.PENDING):
        if run.state and now - run.state.timestamp > patience:
            yield run, f"pending since {moment(run.state.timestamp)}: whoever took it up is gone"
    for run in _runs(client, StateType.SCHEDULED):
        waited = run.expected_start_time is not None and now - run.expected_start_time > patience
        if run.parameters.get("claim") and waited and not holds(run):
            yield run, f"no worker has taken it up within {patience.seconds} s; its job is free for another attempt"


def _orphans(client: SyncPrefectClient) -> Iterator[tuple[FlowRun, str]]:
    """Subflow runs that were in the process of a run that has ended: no worker knows them, so nobody says Crashed."""
    unended = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    inside = FlowRunFilter(state=unended, parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=False))
    for run in client.read_flow_runs(flow_run_filter=inside, limit=200):
        if run.deployment_id is not None or run.parent_task_run_id is None:
            continue
        above = client.read_task_run(run.parent_task_run_id).flow_run_id
        parent = client.read_flow_run(above) if above else None
        if parent and TAG in parent.tags and parent.state and parent.state.is_final():
            yield run, f"its parent run ended as {parent.state.name}"


def _runs(client: SyncPrefectClient, *states: StateType) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))),
        deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])),
        limit=200,
    )


def _last_heard(client: SyncPrefectClient, run: FlowRun) -> datetime | None:
    """When a run last gave a sign of life; None while it has only just begun."""
    begun = run.state.timestamp if run.state else None
    if begun is None or _now() - begun < timedelta(seconds=SILENT_SECONDS):
        return None
    run_id = EventResourceFilter(id=[f"prefect.flow-run.{run.id}"])
    asked = EventFilter(event=EventNameFilter(prefix=["prefect.flow-run."]), resource=run_id)
    found = client.read_events(asked, limit=1).events  # the newest first
    return max(begun, found[0].occurred) if found else begun


def _give_back(client: SyncPrefectClient, claim: Claim) -> str | None:
    """Free the job of a claim whose run has ended or was never made; what is said about it, or None."""
    kind, _, identity = claim.owner.partition(":")
    if kind == "run" and identity == flow_run.get_id():
        return None
    run: FlowRun | None = None
    if kind == "run":
        try:
            run = client.read_flow_run(UUID(identity))
        except (ObjectNotFound, ValueError):
            return None  # a run by hand, or one of another server: its lease decides
    elif kind == "watch":
        key = FlowRunFilterIdempotencyKey(any_=[f"{claim.job_key}:{claim.attempt}"])
        run = next(iter(client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key))), None)
    else:
        return None
    if run is not None and not (run.state and run.state.is_final()):
        return None
    if not open_ledger().release(claim):
        return None
    if run is not None:
        open_ledger().unstage_all(f"run:{run.id}")
    why = f"its run ended as {run.state.name}" if run and run.state else "its run was never made"
    return f"attempt {claim.attempt} of {claim.description.get('name', claim.job_key[:12])} is given back: {why}"
