"""Prefect tasks of the audit: does each channel answer with the model that it should serve?"""

import http.client
import json
import time
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.audit import AuditFact, AuditOutcome, audit_page, summary
from tasks.domain.errors import EndpointUnavailable, InputError
from tasks.domain.models import ChannelState
from tasks.domain.prompts import prompts_for
from tasks.doors import open_catalog, open_ledger
from tasks.endpoints.outputs import ask_outputs
from tasks.endpoints.probe import ask_http
from tasks.identity import verify_public
from tasks.settings import settings

PAGE = "audit-serving"
"""Key of the artifact in the UI."""


def channels_to_audit(channel: str | None = None) -> list[str]:
    """The names of all channels that have ever served; of one, if it is given.

    Raises:
        InputError: if it has never served anything.
    """
    known = [state.channel for state in open_ledger().channels()]
    if channel is not None and channel not in known:
        raise InputError(f"channel {channel!r} has never served anything; channels: {known}")
    return known if channel is None else [channel]


@task(name="audit-channel", task_run_name="audit {channel}", cache_policy=NO_CACHE)
def audit_channel(channel: str) -> AuditFact:
    """Look at one channel, and record what was found."""
    found = look_at(channel)
    tell = get_run_logger().error if found.is_bad else get_run_logger().info
    tell("%s generation %d: %s", channel, found.generation, ". ".join([found.outcome, found.said, *found.problems]))
    return found


@task(name="show-audit", cache_policy=NO_CACHE)
def show_audit(found: Sequence[AuditFact]) -> str:
    """The page in the UI; a sentence with everything that is wrong."""
    create_markdown_artifact(audit_page(found), key=PAGE, description=summary(found))
    wrong = [f"{one.channel}: {text}" for one in found if one.is_bad for text in one.problems or (one.said,)]
    return "\n".join([summary(found), *wrong])


def look_at(channel: str) -> AuditFact:
    """Look at one channel, and record what was found; once more if it was switched meanwhile."""
    for _ in range(2):
        state = open_ledger().channel(channel)
        if state is None:
            raise InputError(f"channel {channel!r} has never served anything")
        found = _found(state)
        now = open_ledger().channel(channel)
        if now is not None and now.generation == state.generation:
            break
    open_ledger().record_audit(found)
    return found


def _found(state: ChannelState) -> AuditFact:
    began, said, problems = time.monotonic(), "", []
    outcome: AuditOutcome = "proved"
    try:
        problems += _wrong_route(state)
        proof = verify_public(state)
        said = f"{proof}{_mapped(state)}"
        if proof.unproven:
            outcome = "unproven"
            problems += _says_nothing(state)
    except EndpointUnavailable as error:
        outcome, said = "silent", str(error)
        problems += list(error.problems) or [said]
    except InputError as error:
        said = str(error).partition("\n")[0]
        problems += list(error.problems) or [said]
    return AuditFact(
        channel=state.channel,
        generation=state.generation,
        artifact_digest=state.artifact_digest,
        outcome="wrong" if problems and outcome != "silent" else outcome,
        said=said,
        problems=tuple(problems),
        seconds=time.monotonic() - began,
        at=open_ledger().now(),
    )


def _wrong_route(state: ChannelState) -> list[str]:
    """What the ledger and the gateway's public list say of the channel that is not as it should be."""
    problems = []
    if state.acknowledged_generation < state.generation:
        problems.append(f"generation {state.generation} is wanted, {state.acknowledged_generation} was acknowledged")
    url = settings().gateway_url
    try:
        reply = ask_http(url, "GET", "/v1/models", key=settings().own_key, timeout_seconds=10.0)
        listed = {one["id"]: one for one in json.loads(reply.body)["data"]}
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        raise EndpointUnavailable(f"{url}/v1/models did not answer: {type(error).__name__}: {error}") from error
    route = listed.get(state.channel)
    if route is None:
        return [*problems, f"{url}/v1/models does not list {state.channel}, only {sorted(listed)}"]
    told = (route.get("root"), route.get("generation"))
    if told != (state.artifact_digest, state.generation):
        problems.append(
            f"{state.channel} is routed to artifact {told[0]} as generation {told[1]}, "
            f"expected {state.artifact_digest} as generation {state.generation}"
        )
    return problems


def _mapped(state: ChannelState) -> str:
    """What the agent saw of its weight files when it came up."""
    for one in open_ledger().instances():
        if (one.channel, one.digest) == (state.channel, state.artifact_digest) and one.mapped:
            return f"; {one.mapped}"
    return ""


def _says_nothing(state: ChannelState) -> list[str]:
    """Of a channel that nothing can be proved of: whether it answers at least some of the fixed prompts."""
    families = open_catalog().families
    family = families.get(state.family)
    target = family.targets.get(state.target) if family else None
    prompts = [one for one in prompts_for(target.languages if target else ()) if one.kind == "chat"]
    heard = ask_outputs(settings().gateway_url, state.channel, prompts, key=settings().own_key)
    if any(answer.text.strip() for answer in heard.answers):
        return []
    return [f"{state.channel} answers nothing to any of {len(prompts)} prompts: {[one.text for one in prompts]}"]
