"""One recipe of a job: merge, examine, put up beside the live model, evaluate, judge, publish what is stronger."""

from typing import NamedTuple

from flows.publish_model import publish_model
from tasks.domain.examination import Examined, refused
from tasks.domain.jobs import Candidate, Job, PublishRequest
from tasks.domain.models import Digest
from tasks.domain.records import JobOutcome
from tasks.domain.verdict import Verdict
from tasks.evaluate import evaluate_candidate, evaluate_live, evaluate_references
from tasks.examine import examine_files, examine_repeats, examine_served, refuse
from tasks.judge import judge_candidate, verdict_name
from tasks.merge import merge_on_gpu
from tasks.promotions import published
from tasks.stage import staged
from tasks.taking_looks import take_looks


class Judged(NamedTuple):
    """How one recipe of a job ended."""

    ended: str
    """Name of the state of the job's run."""
    outcome: JobOutcome
    reasons: str
    request: PublishRequest | None
    """What would make it live, or has; None where it was refused before it was judged."""
    verdict: Verdict
    candidate: Candidate
    generation: int
    """Of the channel now."""


def judge_recipe(job: Job, inputs: dict[str, Digest], fence: int, *, by_itself: bool) -> Judged:
    """Bring the job's recipe to an end, which a rejection is too.

    Args:
        job: the lineage has the recipe.
        inputs: role -> digest of the models that are merged.
        fence: of the claim: a stale attempt publishes nothing.
        by_itself: whether the watch started the run.
    """
    digest = merge_on_gpu(job, inputs, fence)
    files = examine_files(job, digest)
    if refused(files):
        return _refused(job, digest, fence, files, {})
    with staged(job.family, digest, job.channel, job.release.ref) as ready:
        examined = examine_served(job, ready, files)
        if refused(examined):
            return _refused(job, digest, fence, examined, dict(ready.serving))
        candidate, scores = evaluate_candidate(job, ready)
        examined = (*examined, *examine_repeats(job, ready, scores))
        parents = evaluate_references(job, candidate)
        generation, live = evaluate_live(job, candidate)
        scores, stop = take_looks(job, ready, scores, parents, live)
        verdict = judge_candidate(job, scores, parents, live, by_itself, stop, examined)
        (ended, outcome), reasons = verdict_name(job, verdict), " ".join(verdict.reasons)
        request = job.request(digest, generation, fence, verdict.reasons[-1])
        if outcome == "published":
            ended, outcome, generation, reasons = published(publish_model(request), reasons)
    return Judged(ended, outcome, reasons, request, verdict, candidate, generation)


def _refused(job: Job, digest: Digest, fence: int, examined: tuple[Examined, ...], serving: dict[str, str]) -> Judged:
    verdict, candidate, generation = refuse(job, digest, examined, serving)
    request = job.request(digest, generation, fence, verdict.reasons[-1])
    return Judged("Rejected", "rejected", " ".join(verdict.reasons), request, verdict, candidate, generation)
