"""Prefect tasks that move a channel. The switch is one compare-and-swap in the ledger; the rest waits for it."""

import time

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.domain.errors import EndpointUnavailable, InputError, PromotionFailed
from tasks.domain.jobs import PublishRequest
from tasks.domain.models import ChannelState
from tasks.domain.overview import page_key
from tasks.domain.report import channel_page
from tasks.domain.report_text import plain
from tasks.doors import open_endpoint, open_ledger, open_store
from tasks.endpoints.wishes import KEEP_PREVIOUS
from tasks.identity import verify_public
from tasks.promotions import as_served, policy_of, require_stored
from tasks.settings import settings
from tasks.steps import record_confirmed, record_once


@task(name="switch", task_run_name="switch {request.channel}", cache_policy=NO_CACHE)
def switch_channel(request: PublishRequest) -> ChannelState:
    """Point the channel at the artifact, if nothing has moved since it was judged.

    Raises:
        PromotionFailed: if the channel or the claim has moved on. Nothing is changed then.
        ModelRefused: if a person's request names an artifact that the store has not got. Nothing is changed then.
    """
    if request.claim_key is None:  # a job's candidate answers at this moment; what a person names may be long gone
        require_stored(request)
    run_id, began = flow_run.get_id(), time.monotonic()
    state = open_ledger().switch_channel(
        request.channel,
        digest=request.artifact_digest,
        release=request.release,
        target=request.target,
        family=request.family,
        expected_generation=request.expected_generation,
        fence=request.fence,
        claim_key=request.claim_key,
        flow_run_id=str(run_id) if run_id else None,
        reason=request.reason,
        extra=as_served(request) if request.claim_key is None else None,
        more={KEEP_PREVIOUS: policy_of(request).keep_previous_seconds},
    )
    if state.generation == request.expected_generation + 1:
        record_once(state, "switch", time.monotonic() - began, f"to generation {state.generation}")
    return state


@task(name="confirm", task_run_name="confirm {state.channel} generation {state.generation}", cache_policy=NO_CACHE)
def confirm_visible(state: ChannelState) -> None:
    """Wait until the gateway routes by this generation, and ask who answers; switch back if that is not as it should.

    Raises:
        PromotionFailed: naming the agent's last heartbeat, and what the channel serves again.
    """
    try:
        seen = open_endpoint().wait_visible(
            state.channel, generation=state.generation, deadline_seconds=settings().visible_deadline_seconds
        )
        proof = verify_public(state)
    except (EndpointUnavailable, InputError) as error:
        raise PromotionFailed(f"{state.channel}: {error}. {_switch_back(state, str(error))}") from error
    tell = get_run_logger().warning if proof.unproven else get_run_logger().info
    tell("%s", record_confirmed(state, seen.seconds, str(proof)))


def _switch_back(state: ChannelState, reason: str) -> str:
    before = next((p for p in open_ledger().promotions(state.channel) if p.generation == state.generation - 1), None)
    if before is None:
        return "Nothing was served before, so the channel stays as it is."
    if not open_store().use(before.artifact_digest):
        return f"What was served before, {before.release}, is not in the store any more, so the channel stays as it is."
    back = open_ledger().switch_channel(
        state.channel,
        digest=before.artifact_digest,
        release=before.release,
        target=before.target,
        family=before.family,
        expected_generation=state.generation,
        reason=f"generation {state.generation} was not confirmed: {reason}",
    )
    return (
        f"Switched back to {before.release} (artifact {before.artifact_digest[:12]}) as generation {back.generation}."
    )


@task(name="announce", task_run_name="announce {state.channel}", cache_policy=NO_CACHE)
def announce(state: ChannelState, reason: str) -> None:
    """Show in the UI what the channel serves now, and a link to the endpoint."""
    before = next(
        (p.release for p in open_ledger().promotions(state.channel) if p.artifact_digest == state.previous_digest), None
    )
    page = channel_page(
        state, endpoint=settings().gateway_url, reason=reason, previous=before, prefix=settings().command_prefix
    )
    what = f"{state.channel}: {state.release}, generation {state.generation}"
    create_markdown_artifact(page, key=page_key("channel", state.channel), description=what)
    create_link_artifact(
        f"{settings().gateway_url}/v1/models",
        key=page_key("endpoint", state.channel),
        link_text=what,
        description=plain(reason),
    )


@task(name="choose-previous", task_run_name="what {channel} served before", cache_policy=NO_CACHE)
def choose_previous(channel: str, to: str, reason: str) -> PublishRequest:
    """The request that takes a channel back: to what it served before, or to an artifact named by digest.

    Raises:
        InputError: if the channel has never served such an artifact; what it has served is listed.
        ModelRefused: if it has, and the store has not got it any more; what is there is listed.
    """
    state = open_ledger().channel(channel)
    if state is None:
        known = [c.channel for c in open_ledger().channels()]
        raise InputError(f"channel {channel!r} has never served anything; channels: {known}")
    history = open_ledger().promotions(channel)
    if to == "previous":  # not what the last switch replaced: that may be one that never came up, and was taken back
        found = next(iter(open_ledger().served_before(channel)), None)
    else:
        found = next((p for p in history if to and p.artifact_digest.startswith(to)), None)
    if found is None:
        served = [f"{p.artifact_digest[:12]} ({p.release}, generation {p.generation})" for p in history]
        raise InputError(f"{channel!r} cannot go back to {to!r}: it has served only this", problems=served)
    request = PublishRequest(
        family=found.family,
        target=found.target,
        channel=channel,
        artifact_digest=found.artifact_digest,
        release=found.release,
        expected_generation=state.generation,
        reason=f"rolled back from {state.release} (generation {state.generation}): {reason}",
    )
    require_stored(request)
    return request
