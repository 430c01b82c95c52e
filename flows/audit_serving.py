"""Holds what the channels answer against what they should serve. Every night; may run at any moment."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from tasks.audit import audit_channel, channels_to_audit, show_audit


@flow(name="audit-serving", flow_run_name="audit")
def audit_serving(channel: str | None = None) -> State[None]:
    """Ask each channel, through the public address, what its model said when it was judged.

    Nothing is changed: a channel that answers wrongly goes on, the run fails, and the metrics say so.

    Args:
        channel: only this one; all of them if it is left out.
    """
    found = [audit_channel(name) for name in channels_to_audit(channel)]
    told = show_audit(found)
    if any(one.is_bad for one in found):
        return Failed(message=told)
    return Completed(name="Unproven" if any(one.outcome == "unproven" for one in found) else None, message=told)
