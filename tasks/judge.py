"""Prefect tasks that turn scores into a verdict, and show it."""

from collections.abc import Mapping, Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.examination import Examined
from tasks.domain.jobs import Candidate, Job
from tasks.domain.looks import Stop
from tasks.domain.models import Evaluation
from tasks.domain.overview import page_key
from tasks.domain.records import JobOutcome
from tasks.domain.report import gate_rows
from tasks.domain.report_text import plain
from tasks.domain.verdict import Verdict, judge_at, with_examined
from tasks.doors import open_catalog, open_ledger
from tasks.evaluate import gate_of
from tasks.explained import explained, key_of_verdict
from tasks.order import in_order
from tasks.runs import warn_of
from tasks.timed import stage_seconds


@task(name="judge", task_run_name="judge {job.name}", cache_policy=NO_CACHE)
def judge_candidate(
    job: Job,
    scores: Evaluation,
    parents: Mapping[str, Evaluation],
    live: Evaluation | None,
    by_itself: bool = False,
    stop: Stop | None = None,
    examined: Sequence[Examined] = (),
) -> Verdict:
    """The verdict of the target's gate, in the ledger and as a table in the UI; ``by_itself``: nobody asked for it."""
    judged = with_examined(judge_at(gate_of(job), scores, parents, live, stop), examined)
    return record_judged(job, in_order(job, judged) if by_itself else judged)


def record_judged(job: Job, verdict: Verdict) -> Verdict:
    """Put a verdict down: in the ledger, as the gate's table in the UI, in the log."""
    open_ledger().record_verdict(
        key_of_verdict(verdict),
        job.key,
        verdict.outcome,
        verdict.model_dump(mode="json"),
        family=job.family,
        target=job.target,
    )
    create_table_artifact(
        gate_rows(verdict),
        key=page_key("gate", job.family, job.target),
        description=plain(f"{job.name}: {verdict.outcome}. " + " ".join(verdict.reasons)),
    )
    get_run_logger().info("%s: %s. %s", job.name, verdict.outcome, " ".join(verdict.reasons))
    return verdict


def verdict_name(job: Job, verdict: Verdict) -> tuple[str, JobOutcome]:
    """How a job ends by this verdict: the name of the flow run's state, and the ledger's word for it."""
    if verdict.outcome != "passed":
        return ("Rejected", "rejected") if verdict.outcome == "rejected" else ("Undecided", "held")
    if verdict.stronger_than_live is False:
        return ("Published", "published") if _is_live_by(job, verdict) else ("Kept", "kept")
    policy = open_catalog().family(job.family).publish
    if policy == "ask":
        return "AwaitingApproval", "awaiting"
    return ("Passed", "kept") if policy == "never" else ("Published", "published")


def _is_live_by(job: Job, verdict: Verdict) -> bool:
    """Whether an earlier attempt at this very job made the candidate live and died before it wrote that down."""
    if verdict.live_digest is None or verdict.live_digest != verdict.candidate_digest:
        return False
    switches = open_ledger().promotions(job.channel)
    return bool(switches) and (switches[0].artifact_digest, switches[0].claim_key) == (verdict.live_digest, job.key)


def show_decision(job: Job, verdict: Verdict, candidate: Candidate, ended: str, generation: int | None = None) -> None:
    """The decision page. What was decided stands without it: a page that cannot be made is a failed task, no more."""
    warn_of(explain(job, verdict, candidate, ended, generation, return_state=True), f"decision page of {job.name}")


@task(name="explain", task_run_name="explain {job.name}: {ended}", cache_policy=NO_CACHE)
def explain(job: Job, verdict: Verdict, candidate: Candidate, ended: str, generation: int | None = None) -> None:
    """The decision page, in the UI and as a file: what became of the candidate, what changed, why, and the way back."""
    page = explained(job, verdict, candidate, ended, generation, stage_seconds())
    create_markdown_artifact(page, key=page_key("decision", job.family, job.target), description=f"{job.name}: {ended}")
