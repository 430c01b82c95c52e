"""Prefect tasks that turn scores into a verdict, and show it."""

from collections.abc import Mapping

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.jobs import Candidate, Job
from tasks.domain.keys import verdict_key
from tasks.domain.models import Evaluation
from tasks.domain.records import JobOutcome
from tasks.domain.report import decision_page, gate_rows
from tasks.domain.verdict import Verdict, judge
from tasks.doors import open_catalog, open_ledger
from tasks.settings import settings


@task(name="judge", task_run_name="judge {job.name}", cache_policy=NO_CACHE)
def judge_candidate(
    job: Job, scores: Evaluation, parents: Mapping[str, Evaluation], live: Evaluation | None
) -> Verdict:
    """The verdict of the target's gate, written to the ledger and shown as a table in the UI."""
    catalog = open_catalog()
    gate = catalog.gate_of(catalog.target(job.family, job.target))
    verdict = judge(gate, scores, parents, live)
    references = {role: found.artifact_digest for role, found in parents.items()}
    if live is not None:
        references["live"] = live.artifact_digest
    key = verdict_key(artifact=scores.artifact_digest, gate=gate.digest(), references=references)
    open_ledger().record_verdict(
        key, job.key, verdict.outcome, verdict.model_dump(mode="json"), family=job.family, target=job.target
    )
    create_table_artifact(
        gate_rows(verdict),
        key=f"gate-{job.family}-{job.target}",
        description=f"{job.name}: {verdict.outcome}. " + " ".join(verdict.reasons),
    )
    get_run_logger().info("%s: %s. %s", job.name, verdict.outcome, " ".join(verdict.reasons))
    return verdict


def verdict_name(job: Job, verdict: Verdict) -> tuple[str, JobOutcome]:
    """How a job ends by this verdict: the name of the flow run's state, and the ledger's word for it."""
    if verdict.outcome != "passed":
        return ("Rejected", "rejected") if verdict.outcome == "rejected" else ("Undecided", "held")
    if verdict.stronger_than_live is False:
        return "Kept", "kept"
    if open_catalog().family(job.family).publish == "never":
        return "Passed", "kept"
    return "Published", "published"


@task(name="explain", task_run_name="explain {job.name}: {ended}", cache_policy=NO_CACHE)
def explain(job: Job, verdict: Verdict, candidate: Candidate, ended: str, generation: int | None = None) -> None:
    """The decision page: why, scores, lineage, recipe, and the command that takes it back."""
    page = decision_page(
        job,
        verdict,
        ended=ended,
        digest=candidate.digest,
        generation=generation,
        serving=candidate.serving,
        prefix=settings().command_prefix,
    )
    create_markdown_artifact(page, key=f"decision-{job.family}-{job.target}", description=f"{job.name}: {ended}")
