"""Moves a channel to an artifact that a gate has passed: switch, confirm through the gateway, announce."""

from prefect import flow

from tasks.domain.jobs import PublishRequest
from tasks.domain.models import ChannelState
from tasks.publish import announce, confirm_visible, switch_channel


@flow(name="publish-model", flow_run_name="publish {request.channel}")
def publish_model(request: PublishRequest) -> ChannelState:
    """Make ``request`` live. The model that was live stays live until the new one answers, and if anything fails."""
    state = switch_channel(request)
    confirm_visible(state)
    announce(state, request.reason)
    return state
