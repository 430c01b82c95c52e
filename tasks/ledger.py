"""Prefect tasks around the ledger: open a job, hold its claim while a flow works, write down how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.disk import WAITS
from tasks.domain.errors import DiskFull, InputError, PromotionFailed
from tasks.domain.jobs import ClaimTicket, Job, Work
from tasks.domain.models import Digest
from tasks.domain.publication import Upload
from tasks.domain.records import Claim, Hold, JobOutcome
from tasks.doors import open_ledger
from tasks.renewal import Renewal
from tasks.runs import own_name
from tasks.settings import settings
from tasks.standing import stopped

UPLOAD = "upload"
"""The kind of a claim on a publication, which takes no place in the window of jobs: it needs no instance."""


class Held(Renewal):
    """The claim of a job, renewed for as long as the flow works on it."""

    def __init__(self, claim: Claim) -> None:
        # Until it is superseded: we may finish then, we cannot publish, since the switch compares the fence.
        super().__init__("claim", settings().lease_seconds / 4, lambda: open_ledger().renew(claim))
        self.claim = claim


@contextmanager
def claimed(job: Work, ticket: ClaimTicket | None, *, hold_refusals: bool = True) -> Iterator[Claim | None]:
    """Hold the claim of ``job``; None if another live attempt has it, or if the job is on hold and nobody asked.

    The watch claims when it dispatches and hands the run a ticket. A run that a person started, by hand or with *Retry*
    in the UI, claims for itself, and takes any hold off the job.
    """
    claim = take_claim(job, ticket)
    if claim is None:
        yield None
        return
    held = Held(claim)
    try:
        yield claim
    except (InputError, DiskFull) as refusal:
        # Trying again would change nothing: the watch leaves the job alone until the hold is released or there is room.
        if hold_refusals:
            waits = WAITS if isinstance(refusal, DiskFull) else ""
            with suppress(PromotionFailed):  # another attempt is under way, or has ended the job
                open_ledger().record_hold(job.key, f"{waits}{job.name}: {refusal}", fence=claim.fence)
        raise
    finally:
        held.end()
        open_ledger().release(claim)


def description_of(job: Work) -> dict[str, str]:
    """What a claim says of its work: an upload takes no place among the jobs, and one at a time writes to a place."""
    if isinstance(job, Upload):
        return {"name": job.name, "kind": UPLOAD, "place": f"{job.endpoint}/{job.repo_id}"}
    return {"name": job.name}


def take_claim(job: Work, ticket: ClaimTicket | None) -> Claim | None:
    """The claim that ``ticket`` stands for if it is still the newest, else a new one, else None."""
    ledger, owner = open_ledger(), own_name()
    by_a_person = ticket is None or (flow_run.get_run_count() or 1) > 1
    claim = next((c for c in ledger.live_claims() if ticket and (c.job_key, c.fence) == (job.key, ticket.fence)), None)
    if claim is None or not ledger.renew(claim):
        if not by_a_person and any(hold.key == job.key for hold in ledger.holds()):
            return None  # its ticket lapsed in a queue, and meanwhile somebody has stopped the job
        claim = ledger.claim(job.key, owner, settings().lease_seconds, description_of(job), only_open=not by_a_person)
    if claim is not None and by_a_person:
        ledger.lift(job.key, f"taken up by a person: {owner}")
    return claim


def unclaimed(job: Work) -> tuple[str, str]:
    """Name and message of the state in which a run ends that did not get the claim of its job."""
    hold = next((h for h in open_ledger().holds() if h.key == job.key), None)
    if hold is not None and all(claim.job_key != job.key for claim in open_ledger().live_claims()):
        return "Held", f"the job is on hold: {hold.reason}"
    return "AlreadyClaimed", "another run is working on this job"


def lift_hold(key: str, reason: str = "by hand") -> list[Hold]:
    """Take holds off and give used-up jobs new attempts: what ``empelt retry`` does; the watch takes them up again.

    Args:
        key: as ``tasks.standing.stopped`` takes it: a key, the beginning of a job's, a job's name, or a release.
        reason: recorded.

    Returns:
        What was held, each with the reason that it was held for; empty if nothing of that name is stopped.

    Raises:
        InputError: if ``key`` is empty, which would mean everything.
    """
    if not key.strip():
        raise InputError("name what to retry: a key as `empelt status` shows it, a job's name, or a release")
    found = stopped(key.strip())
    for hold in found:
        open_ledger().lift(hold.key, reason)
    return found


@task(name="end-job", task_run_name="end-job: {outcome}", cache_policy=NO_CACHE)
def end_job(job: Job, outcome: JobOutcome, reason: str, digest: Digest | None, fence: int) -> None:
    """Append how the job ended. The watch does not dispatch a job that has ended well or was refused.

    Raises:
        PromotionFailed: if the attempt with ``fence`` is over: another one says how the job ends.
    """
    run_id = flow_run.get_id()
    if outcome == "held":
        open_ledger().record_hold(job.key, f"{job.name}: {reason}", fence=fence)
    run = str(run_id) if run_id else None
    open_ledger().record_job_end(job.key, outcome, reason, artifact_digest=digest, flow_run_id=run, fence=fence)
    get_run_logger().info("%s: %s (%s)", job.name, outcome, reason)
