"""How long the stages of this run took, as Prefect has seen its task runs: for a page, never for a decision."""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run

from tasks.domain.cost import seconds_by_stage

MOST = 200
"""Task runs of one run that are looked at."""


def stage_seconds() -> dict[str, float]:
    """Seconds by stage of the flow run that this is a part of; nothing outside of one.

    An attempt that goes on where another was ended knows its own time only: what is on record already took none.
    """
    run_id = flow_run.get_id()
    if not run_id:
        return {}
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run_id)])), limit=MOST)
    return seconds_by_stage([(r.name, r.start_time, r.end_time) for r in runs if r.start_time and r.end_time])
