"""Cancel means hold: a job whose run was cancelled in the UI is left alone until a person takes it up again.

Twice over. A hook acts at once, but Prefect does not promise that it runs; and a run that was cancelled before it
started has none. So each watch looks at the cancelled runs themselves, after it has planned and before it dispatches: a
job that the plan found free because its run was being cancelled is then seen here.
"""

from datetime import UTC, datetime
from typing import Any

from prefect import Flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging import get_run_logger

from tasks.domain.due import PlanRow
from tasks.domain.models import Digest
from tasks.domain.words import moment
from tasks.doors import open_ledger
from tasks.standing import standing

FLOW = "remerge-release"
FLOWS = [FLOW, "upload-model"]
MOST = 200
"""Cancelled runs that are looked at, the latest first."""


def hold_on_cancel(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect's hook, called in the worker when a run has been cancelled."""
    if key := job_of(flow_run):
        hold_job(key, flow_run, state)


@task(name="hold-cancelled", cache_policy=NO_CACHE)
def hold_cancelled(rows: list[PlanRow]) -> list[PlanRow]:
    """Put on hold what was cancelled in the UI since it was last taken up; the plan, with that in it."""
    held = {}
    for run in cancelled_runs():
        key = job_of(run) or _job_by_parameters(run, rows)
        if key and key not in held and run.state and (reason := hold_job(key, run, run.state)):
            held[key] = reason
            get_run_logger().warning("%s: %s", run.name, reason)
    changes = {key: {"standing": "held", "reason": reason} for key, reason in held.items()}
    return [row.model_copy(update=changes.get(row.job_key, {})) for row in rows]


def hold_job(key: Digest, run: FlowRun, state: State[Any]) -> str | None:
    """Hold a job for a cancelled run of it, and end what that run has left; the reason, or None if it is not so.

    It is not so when the job has ended, is on hold already, or was taken up again after that.
    """
    ledger, owner = open_ledger(), f"run:{run.id}"
    if standing(key).standing in ("published", "rejected", "kept", "waiting", "held"):
        return None
    lifted = ledger.lifted_at(key)
    if lifted is not None and state.timestamp <= lifted:
        return None
    reason = f"cancelled in the UI at {moment(state.timestamp)} (run {run.name}); `empelt retry` lifts it"
    ledger.record_hold(key, reason)
    fence = (run.parameters.get("claim") or {}).get("fence")
    for claim in ledger.live_claims():
        if claim.job_key == key and (claim.owner == owner or claim.fence == fence):
            ledger.release(claim)
    ledger.unstage_all(owner)
    return reason


def cancelled_runs() -> list[FlowRun]:
    """Runs of jobs that are cancelled, or being so; the latest first."""
    states = FlowRunFilterStateType(any_=[StateType.CANCELLED, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=FLOWS)),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=states)),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=MOST,
        )
    return sorted(found, key=_since, reverse=True)


def _since(run: FlowRun) -> datetime:
    return run.state.timestamp if run.state else datetime.min.replace(tzinfo=UTC)


def job_of(run: FlowRun) -> Digest | None:
    """The job that a run is for: by its ticket, or by what it claimed. None if it never came to a claim."""
    ticket = run.parameters.get("claim") or {}
    return ticket.get("job_key") or open_ledger().job_of(f"run:{run.id}")


def _job_by_parameters(run: FlowRun, rows: list[PlanRow]) -> Digest | None:
    """Of a run by hand that was cancelled before it claimed: by its form, if that means one row of the plan.

    Only of jobs that were on record when it was cancelled: it cannot have meant a release or an ingredient that came
    later, and its run stays among the cancelled ones for ever.
    """
    asked = run.parameters
    release = asked.get("release")
    text = f"{release['repo_id']}@{release['revision']}" if isinstance(release, dict) else str(release)
    here = [row for row in rows if (row.family, row.target) == (asked.get("family"), asked.get("target"))]
    repo_id, _, revision = text.partition("@")
    same = [row for row in here if row.release.ref.repo_id == repo_id and _on_record(row.job_key, _since(run))]
    exact = [row for row in same if revision and row.release.ref.revision.startswith(revision)]
    # Rows are newest first, and without a sha the head was meant.
    chosen = exact or ([] if len(revision) == 40 else same)
    return chosen[0].job_key if chosen else None


def _on_record(key: Digest, then: datetime) -> bool:
    fact = open_ledger().job(key)
    return fact is not None and fact.at <= then
