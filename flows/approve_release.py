"""A person's word on a candidate of a family whose policy is ``ask``: publish it, or reject it."""

from typing import Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.publish_model import publish_model
from tasks.approve import how_it_stands, open_approval, record_decision
from tasks.evaluate import evaluate_candidate, evaluate_live, evaluate_references
from tasks.examine import examine_files, examine_repeats, examine_served
from tasks.judge import judge_candidate, show_decision, verdict_name
from tasks.ledger import claimed
from tasks.overview import reported
from tasks.promotions import outcome_of
from tasks.stage import staged
from tasks.taking_looks import take_looks


@flow(name="approve-release", flow_run_name="{decision} {candidate}")
def approve_release(candidate: str, decision: Literal["publish", "reject"], by: str, comment: str = "") -> State[None]:
    """Publish or reject a candidate that waits.

    It is judged again against what is live now, from stored scores; one that is not stronger any more is not published,
    and goes on waiting.

    Args:
        candidate: as the form lists it, or the beginning of its artifact's digest.
        decision: publish or reject.
        by: who decides; recorded.
        comment: recorded, and shown with the channel.
    """
    waiting, job = open_approval(candidate, decision)
    with reported(job), claimed(job, None, hold_refusals=False) as held:
        if held is None:
            return Completed(name="AlreadyClaimed", message="another run is working on this job")
        standing, told = how_it_stands(waiting)
        if standing == "decided":
            return Completed(name="AlreadyDecided", message=told)
        if standing == "live":
            done = outcome_of(publish_model(waiting.request))  # it switches nothing, and waits for the gateway
            wanted = decision == "publish"
            record_decision(waiting, "published", by if wanted else "an earlier run", told, held.fence)
            message = f"{done.channel} serves it already, as {told}"
            return Completed(name="Published" if wanted else "Refused", message=message)
        if decision == "reject":
            record_decision(waiting, "rejected", by, comment, held.fence)
            return Completed(name="Rejected", message=f"rejected by {by}: {comment}")
        digest = waiting.request.artifact_digest
        with staged(job.family, digest, job.channel, job.release.ref) as ready:
            examined = examine_served(job, ready, examine_files(job, digest))
            model, scores = evaluate_candidate(job, ready)
            examined = (*examined, *examine_repeats(job, ready, scores))
            parents = evaluate_references(job, model)
            generation, live = evaluate_live(job, model)
            scores, stop = take_looks(job, ready, scores, parents, live)
            verdict = judge_candidate(job, scores, parents, live, stop=stop, examined=examined)
            ended, outcome = verdict_name(job, verdict)
            if outcome not in ("awaiting", "published"):
                return Completed(name="Refused", message=f"not published, now {ended}: " + " ".join(verdict.reasons))
            reason = f"approved by {by}. {comment} {verdict.reasons[-1]}"
            changes = {"expected_generation": generation, "fence": held.fence, "reason": reason}
            done = outcome_of(publish_model(waiting.request.model_copy(update=changes)))
            if done.refused:
                return Completed(name="Refused", message=f"not published, and it goes on waiting: {done.refused}")
        record_decision(waiting, "published", by, comment, held.fence)
        show_decision(job, verdict, model, "Published", done.generation)
    return Completed(name="Published", message=f"{done.channel} serves generation {done.generation}; {reason}")
