"""One release, one target: fetch, merge, put up beside the live model, evaluate, judge, publish what is stronger."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.publish_model import publish_model
from tasks.domain.jobs import ClaimTicket, PublishRequest
from tasks.domain.models import ModelRef
from tasks.evaluate import evaluate_candidate, evaluate_live, evaluate_references
from tasks.hub import fetch_all
from tasks.jobs import name_of_run, open_job
from tasks.judge import explain, judge_candidate, verdict_name
from tasks.ledger import claimed, end_job
from tasks.merge import merge_on_gpu
from tasks.stage import staged


@flow(name="remerge-release", flow_run_name=name_of_run)
def remerge_release(family: str, release: ModelRef, target: str, claim: ClaimTicket | None = None) -> State[None]:
    """Bring one instruct release to one target.

    A refused candidate is a normal end: the run completes as Rejected and keeps its report; the channel stays.

    Args:
        family: name of a family in the catalog.
        release: the instruct model, pinned by its 40-digit revision.
        target: name of one of the family's targets.
        claim: filled in by the watch; leave it empty when starting a run by hand.
    """
    job = open_job(family, release, target)
    with claimed(job, claim) as held:
        if held is None:
            return Completed(name="AlreadyClaimed", message="another run is working on this job")
        inputs = fetch_all(job)
        digest = merge_on_gpu(job, inputs, held.fence)
        with staged(family, digest, job.channel, release) as ready:
            candidate, scores = evaluate_candidate(job, ready)
            parents = evaluate_references(job, candidate)
            generation, live = evaluate_live(job, candidate)
            verdict = judge_candidate(job, scores, parents, live)
            ended, outcome = verdict_name(job, verdict)
            if outcome != "published":
                explain(job, verdict, candidate, ended)
                end_job(job, outcome, " ".join(verdict.reasons), digest)
                return Completed(name=ended, message=" ".join(verdict.reasons))
            state = publish_model(
                PublishRequest(
                    family=family,
                    target=target,
                    channel=job.channel,
                    artifact_digest=digest,
                    release=release,
                    expected_generation=generation,
                    fence=held.fence,
                    claim_key=job.key,
                    reason=verdict.reasons[-1],
                )
            )
        explain(job, verdict, candidate, ended, state.generation)
        end_job(job, "published", " ".join(verdict.reasons), digest)
    return Completed(name="Published", message=f"{job.channel} serves {release} as generation {state.generation}")
