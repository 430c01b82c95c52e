"""One release, one target: fetch, then merge, evaluate and judge; where that is rejected, once more by a search."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.judge_recipe import judge_recipe
from flows.search_recipe import search_recipe
from tasks.approve import ask_approval
from tasks.cancelled import hold_on_cancel
from tasks.disk import WAITS_FOR_ROOM, reserve_room
from tasks.domain.errors import DiskFull
from tasks.domain.jobs import ClaimTicket, Job, ReleaseText
from tasks.domain.models import ModelRef
from tasks.hub import fetch_all
from tasks.jobs import name_of_run, open_job
from tasks.judge import show_decision
from tasks.ledger import claimed, end_job, unclaimed
from tasks.overview import reported


@flow(name="remerge-release", flow_run_name=name_of_run, on_cancellation=[hold_on_cancel])
def remerge_release(
    family: str, release: ModelRef | ReleaseText, target: str, claim: ClaimTicket | None = None
) -> State[None]:
    """Bring one instruct release to one target.

    A refused candidate is a normal end: the run completes as Rejected and keeps its report; the channel stays.

    Args:
        family: name of a family in the catalog.
        release: the instruct model: pinned, or ``owner/name`` for its head, or ``owner/name@<sha, tag or branch>``.
        target: name of one of the family's targets.
        claim: filled in by the watch; leave it empty when starting a run by hand.
    """
    job = open_job(family, release, target)
    try:
        return _carry_out(job, claim)
    except DiskFull as full:
        return Completed(name="WaitsForRoom", message=f"{WAITS_FOR_ROOM}: {full}")


def _carry_out(job: Job, claim: ClaimTicket | None) -> State[None]:
    with reported(job), claimed(job, claim) as held:
        if held is None:
            name, why = unclaimed(job)
            return Completed(name=name, message=why)
        reserve_room(job)
        inputs = fetch_all(job)
        end = judge_recipe(job, inputs, held.fence, by_itself=claim is not None)
        if end.outcome == "rejected" and job.search and end.candidate.serving:
            # Its own recipe first: a search is asked only where that is not good enough. One whose files were refused
            # was never served, and no other weight changes whose tokenizer and template a merge has.
            better = search_recipe(job, inputs, held.fence, end.candidate.serving)
            job = better or job
            end = judge_recipe(job, inputs, held.fence, by_itself=claim is not None) if better else end
        if end.outcome == "awaiting" and end.request:
            ask_approval(end.request, end.verdict.reasons[-1])
        end_job(job, end.outcome, end.reasons, end.candidate.digest, held.fence)
        now = end.generation if end.outcome == "published" else None
        show_decision(job, end.verdict, end.candidate, end.ended, now)
    told = f"{job.channel} serves {job.release.ref} as generation {now}" if now is not None else None
    return Completed(name=end.ended, message=told or end.reasons)
