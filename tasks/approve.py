"""Prefect tasks around a person's approval: asking for it, finding what was meant, writing down what was decided.

Nothing is suspended: a run that waits for months would have to live through restarts, upgrades and Prefect's own
clean-up. The wish is a fact in the ledger, and a flow of its own with a form takes it up.
"""

from typing import Literal

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.jobs import Job, PublishRequest
from tasks.domain.models import Digest
from tasks.domain.records import Approval
from tasks.doors import open_ledger, open_store
from tasks.forms import refresh_forms
from tasks.settings import settings
from tasks.waiting import find_waiting, name_of


@task(name="ask-approval", task_run_name="ask approval for {request.channel}", cache_policy=NO_CACHE)
def ask_approval(request: PublishRequest, reason: str) -> None:
    """Write down that this candidate waits for a person, and put it into the form of ``approve_release``."""
    run_id = flow_run.get_id()
    open_ledger().ask_approval(request, reason, str(run_id) if run_id else None, fence=request.fence)
    refresh_forms(settings())
    url = f"{settings().prefect_url}/v2/deployments"
    get_run_logger().info("waits for approval: run approve-release/by-hand (%s)", url)


@task(name="open-approval", task_run_name="open {candidate}", cache_policy=NO_CACHE)
def open_approval(candidate: str, decision: Literal["publish", "reject"]) -> tuple[Approval, Job]:
    """The waiting candidate that a person means, and its job, with the recipe that made it.

    Raises:
        InputError: nothing of that name waits; what does is listed.
        ModelRefused: it shall be published, and its artifact is not in the store any more.
    """
    waiting = find_waiting(candidate)
    fact = open_ledger().job(waiting.job_key)
    if fact is None:
        raise InputError(f"{name_of(waiting)} waits, but its job {waiting.job_key[:12]} is not on record")
    if decision == "publish" and not open_store().use(waiting.request.artifact_digest):
        raise ModelRefused(
            f"{name_of(waiting)} cannot be published: its artifact {waiting.request.artifact_digest} is not in the "
            "store any more. Reject it, or run its job again from the form of remerge-release"
        )
    return waiting, _as_made(fact.job, waiting.request.artifact_digest)


def _as_made(job: Job, digest: Digest) -> Job:
    """The job with the recipe of the artifact: on record it has the one that it began with, before its search."""
    made = open_ledger().lineage(digest) if job.search is not None else None
    if made is None or (made.target, made.ingredients) != (job.target, job.lineage.ingredients):
        return job
    found = job.trying(made.recipe)
    return job if found.merge_key == job.merge_key else found


@task(name="still-waiting", task_run_name="still waiting: {waiting.request.channel}", cache_policy=NO_CACHE)
def how_it_stands(waiting: Approval) -> tuple[Literal["waiting", "decided", "live"], str]:
    """What has become of a candidate since it was looked up; ask once its job is claimed: then nobody else decides.

    Returns:
        ``waiting``; ``decided`` by somebody else meanwhile; or ``live``: an earlier run made it live, and ended before
        it wrote that down. And a sentence about it.
    """
    now = open_ledger().approval(waiting.job_key)
    if now is None or now.state != "waiting" or now.request.artifact_digest != waiting.request.artifact_digest:
        word = f"{now.state} by {now.by or 'nobody'}: {now.reason}" if now else "not asked for"
        return "decided", f"{name_of(waiting)} does not wait any more: {word}"
    state = open_ledger().channel(waiting.request.channel)
    if state is not None and state.artifact_digest == waiting.request.artifact_digest:
        switch = open_ledger().promotions(state.channel)[0]
        if switch.claim_key == waiting.job_key:
            run = f"run {switch.flow_run_id}" if switch.flow_run_id else "an earlier run"
            return "live", f"generation {switch.generation} by {run}, which did not come to its end: {switch.reason}"
    return "waiting", waiting.reason


@task(name="record-decision", task_run_name="record: {state}", cache_policy=NO_CACHE)
def record_decision(
    waiting: Approval, state: Literal["published", "rejected"], by: str, comment: str, fence: int | None = None
) -> None:
    """Append what was decided and by whom, under the claim with ``fence``; the form then no longer offers it."""
    decide(waiting, state, by, comment, fence)
    get_run_logger().info("%s: %s by %s", name_of(waiting), state, by)
    refresh_forms(settings())


def decide(
    waiting: Approval, state: Literal["published", "rejected"], by: str, comment: str, fence: int | None = None
) -> None:
    """Append what was decided, as the end of the job too.

    Raises:
        InputError: if somebody else has decided meanwhile.
        PromotionFailed: if the attempt with ``fence`` is over: somebody else may be deciding.
    """
    ledger, run_id, key = open_ledger(), flow_run.get_id(), waiting.job_key
    run, digest = str(run_id) if run_id else None, waiting.request.artifact_digest
    reason = f"{state} by {by}" + (f": {comment}" if comment else "")
    asked, end = ledger.approval(key), ledger.job_end(key)
    # The end first: were it second, a crash in between would leave a decided job that is due again.
    open_still = asked is not None and asked.state in ("waiting", "superseded")
    if open_still and (end is None or (end.outcome, end.artifact_digest) != (state, digest)):
        ledger.record_job_end(key, state, reason, artifact_digest=digest, flow_run_id=run, fence=fence)
    ledger.decide(key, state, by=by, reason=comment, flow_run_id=run)
