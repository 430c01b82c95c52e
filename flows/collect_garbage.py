"""Removes what nothing refers to any more. Every night; may run at any moment, beside running jobs."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.garbage import collect_and_show
from tasks.packing import pack_bases


@flow(name="collect-garbage", flow_run_name="collect garbage")
def collect_garbage(dry_run: bool = False) -> State[None]:
    """Pack tuned bases that are to be packed; remove artifacts that nothing refers to, half-done work, old reports.

    Args:
        dry_run: show what would be removed, remove nothing.
    """
    packed = pack_bases(dry_run)
    return Completed(message="; ".join([collect_and_show(dry_run), *packed]))
