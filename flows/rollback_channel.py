"""Takes a channel back to an artifact that it has served before, by the machinery that published it."""

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.domain.jobs import Promoted
from tasks.promote import drain, stage, verify
from tasks.promotions import promotion
from tasks.publish import announce, choose_previous, confirm_visible, switch_channel


@flow(name="rollback-channel", flow_run_name="roll back {channel}")
def rollback_channel(channel: str, to: str = "previous", reason: str = "by hand") -> State[Promoted]:
    """Switch ``channel`` back: at once where what it served before is still up, else when that has come up again.

    Args:
        channel: the served name.
        to: ``previous``, or the (beginning of the) digest of an artifact that the channel has served.
        reason: recorded, and shown in the UI.
    """
    request = choose_previous(channel, to, reason)
    with promotion(request, back=True) as way:
        stage(way)
        verify(way)
        state = switch_channel(request)
        confirm_visible(state)
        drain(way, state)
        announce(state, request.reason)
    return way.ended()
