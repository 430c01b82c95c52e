"""One release, one target: fetch, merge, put up beside the live model, evaluate, judge, publish what is stronger."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.publish_model import publish_model
from tasks.approve import ask_approval
from tasks.cancelled import hold_on_cancel
from tasks.disk import WAITS_FOR_ROOM, reserve_room
from tasks.domain.errors import DiskFull
from tasks.domain.examination import refused
from tasks.domain.jobs import ClaimTicket, Job, ReleaseText
from tasks.domain.models import ModelRef
from tasks.evaluate import evaluate_candidate, evaluate_live, evaluate_references
from tasks.examine import examine_files, examine_served, refuse
from tasks.hub import fetch_all
from tasks.jobs import name_of_run, open_job
from tasks.judge import judge_candidate, show_decision, verdict_name
from tasks.ledger import claimed, end_job, unclaimed
from tasks.merge import merge_on_gpu
from tasks.overview import reported
from tasks.promotions import published
from tasks.stage import staged
from tasks.taking_looks import take_looks


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
        digest = merge_on_gpu(job, inputs, held.fence)
        files = examine_files(job, digest)
        if refused(files):
            return Completed(name="Rejected", message=refuse(job, digest, held.fence, files))
        with staged(job.family, digest, job.channel, job.release.ref) as ready:
            examined = examine_served(job, ready, files)
            if refused(examined):
                return Completed(name="Rejected", message=refuse(job, digest, held.fence, examined))
            candidate, scores = evaluate_candidate(job, ready)
            parents = evaluate_references(job, candidate)
            generation, live = evaluate_live(job, candidate)
            scores, stop = take_looks(job, ready, scores, parents, live)
            verdict = judge_candidate(job, scores, parents, live, claim is not None, stop, examined)
            (ended, outcome), reasons = verdict_name(job, verdict), " ".join(verdict.reasons)
            request = job.request(digest, generation, held.fence, verdict.reasons[-1])
            if outcome == "published":
                ended, outcome, generation, reasons = published(publish_model(request), reasons)
        if outcome == "awaiting":
            ask_approval(request, verdict.reasons[-1])
        end_job(job, outcome, reasons, digest, held.fence)
        show_decision(job, verdict, candidate, ended, generation if outcome == "published" else None)
    told = f"{job.channel} serves {job.release.ref} as generation {generation}" if outcome == "published" else None
    return Completed(name=ended, message=told or reasons)
