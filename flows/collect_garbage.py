"""Removes what nothing refers to any more. Every night; may run at any moment, beside running jobs."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.garbage import collect_and_show


@flow(name="collect-garbage", flow_run_name="collect garbage")
def collect_garbage(dry_run: bool = False) -> State[None]:
    """Remove artifacts that nothing refers to, what dead processes have left half-done, and the oldest reports.

    Args:
        dry_run: show what would be removed, remove nothing.
    """
    return Completed(message=collect_and_show(dry_run))
