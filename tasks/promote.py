"""Prefect tasks of a promotion around its switch, one for each step, so that the UI shows where it stands.

The steps themselves are plain Python in ``tasks.endpoints.promotion``; what outlives a crash is in the ledger.
"""

import time
from typing import Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.errors import InputError
from tasks.domain.models import ChannelState
from tasks.domain.promotion import CanaryStep
from tasks.doors import open_catalog, open_ledger
from tasks.endpoints.promotion import step_name
from tasks.identity import verify_staged
from tasks.promotions import Way, as_served
from tasks.settings import settings
from tasks.stage import NoRoom, staged


@task(name="stage", task_run_name="stage {way.request.channel}", cache_policy=NO_CACHE)
def stage(way: Way) -> None:
    """Have it up beside what is live until the promotion ends; at once where it is up already.

    Raises:
        PromotionRefused: it does not fit beside what is live, and its target's policy says to leave the channel then.
        ModelRefused: it cannot be served.
        EndpointUnavailable: it was not ready in time.
    """
    request, began = way.request, time.monotonic()
    if way.standing.is_live:
        return
    try:
        what = (request.family, request.artifact_digest, request.channel, request.release)
        way.ready = way.up.enter_context(staged(*what, needs_room=True, extra=as_served(request) if way.back else None))
    except NoRoom as full:
        if way.policy.no_room == "refuse":
            way.promoter.refuse("stage", time.monotonic() - began, (str(full),), {})
        said = f"no room beside what is live: that is stopped first, and requests are held meanwhile ({full})"
        way.promoter.record("stage", time.monotonic() - began, said, ended="skipped")
        get_run_logger().warning("%s", said)
        return
    way.promoter.record("stage", time.monotonic() - began, f"{way.ready.model} is up")


@task(name="verify", task_run_name="verify {way.request.channel}", cache_policy=NO_CACHE)
def verify(way: Way) -> None:
    """Ask the staged instance what the judged model was asked, before any traffic.

    Raises:
        PromotionRefused: it is not the model that was judged, or cannot show that it is.
        EndpointUnavailable: it does not answer.
    """
    if way.ready is None:
        return
    serves, began = open_ledger().channel(way.request.channel), time.monotonic()
    try:
        proof = verify_staged(way.ready, previous=serves.artifact_digest if serves else None)
    except InputError as wrong:
        way.promoter.refuse("verify", time.monotonic() - began, wrong.problems or (str(wrong),), {})
    ended: Literal["done", "skipped"] = "skipped" if proof.unproven else "done"
    way.promoter.record("verify", time.monotonic() - began, str(proof), ended=ended)
    get_run_logger().info("%s before the switch: %s", way.ready.model, proof)


@task(name="warm", task_run_name="warm {way.request.channel}", cache_policy=NO_CACHE)
def warm(way: Way) -> None:
    """Ask the new instance before anybody else does.

    Raises:
        PromotionRefused: it does not answer as it should.
    """
    if way.ready is not None and not way.back:
        get_run_logger().info("%s", way.promoter.warm(way.ready, way.policy.warm_requests).said)


@task(name="canary", task_run_name="canary {way.request.channel} {step.weight:g} %", cache_policy=NO_CACHE)
def try_canary(way: Way, step: CanaryStep) -> None:
    """Send it a part of the channel's requests, for as long as its target's policy says.

    Raises:
        PromotionRefused: by the limits of the policy; with the figures. The channel never moved.
        PromotionFailed: the channel moved on, or the claim was superseded.
    """
    target = open_catalog().target(way.request.family, way.request.target)
    done = way.promoter.canary(step, way.policy.abort, target.languages)
    get_run_logger().info("%s: %s %s", step_name(step), done.said, dict(done.figures))


@task(name="drain", task_run_name="drain {state.channel}", cache_policy=NO_CACHE)
def drain(way: Way, state: ChannelState) -> None:
    """Wait until what was served before has ended what it had under way; it then stays warm as the policy says."""
    if state.previous_digest is None or way.standing.is_live:
        return
    done = way.promoter.drained(
        state.previous_digest, deadline_seconds=settings().drain_seconds, keep_seconds=way.policy.keep_previous_seconds
    )
    get_run_logger().info("%s", done.said)
