"""Takes a channel back to an artifact that it has served before, by the machinery that published it."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.publish import announce, choose_previous, confirm_visible, switch_channel


@flow(name="rollback-channel", flow_run_name="roll back {channel}")
def rollback_channel(channel: str, to: str = "previous", reason: str = "by hand") -> State[None]:
    """Switch ``channel`` back.

    Args:
        channel: the served name.
        to: ``previous``, or the (beginning of the) digest of an artifact that the channel has served.
        reason: recorded, and shown in the UI.
    """
    request = choose_previous(channel, to, reason)
    state = switch_channel(request)
    confirm_visible(state)
    announce(state, request.reason)
    return Completed(name="RolledBack", message=f"{channel} serves {state.release} as generation {state.generation}")
