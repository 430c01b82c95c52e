"""Moves a channel to an artifact that a gate has passed, step by step, and takes it back where real requests say so."""

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.domain.jobs import Promoted, PublishRequest
from tasks.promote import drain, stage, try_canary, verify, warm
from tasks.promotions import promotion
from tasks.publish import announce, confirm_visible, switch_channel


@flow(name="publish-model", flow_run_name="publish {request.channel}")
def publish_model(request: PublishRequest) -> State[Promoted]:
    """Make ``request`` live: stage, verify, warm, try it on a part of the requests, switch, confirm, drain the old one.

    The model that was live stays live until the new one answers, and if anything fails. A run that is started again
    finds where the one before it stood. A refusal is a normal end: the run completes as Refused, with the figures.
    """
    with promotion(request) as way:
        stage(way)
        verify(way)
        warm(way)
        for step in way.steps:
            try_canary(way, step)
        state = switch_channel(request)
        confirm_visible(state)
        drain(way, state)
        announce(state, request.reason)
    return way.ended()
