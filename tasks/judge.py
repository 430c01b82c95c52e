"""Prefect tasks that turn scores into a verdict, and show it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.decision import Decision, Served
from tasks.domain.evidence import Evidence, behind, changes
from tasks.domain.examination import Examined
from tasks.domain.jobs import Candidate, Job
from tasks.domain.keys import verdict_key
from tasks.domain.looks import Stop
from tasks.domain.models import Evaluation
from tasks.domain.overview import page_key
from tasks.domain.records import JobOutcome
from tasks.domain.report import decision_page, gate_rows, plain
from tasks.domain.verdict import Verdict, judge_at, with_examined
from tasks.doors import open_catalog, open_ledger
from tasks.evaluate import gate_of
from tasks.order import in_order
from tasks.runs import warn_of
from tasks.settings import settings


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
        _key(verdict), job.key, verdict.outcome, verdict.model_dump(mode="json"), family=job.family, target=job.target
    )
    said = f"{job.name}: {verdict.outcome}. {' '.join(verdict.reasons)}"
    key = page_key("gate", job.family, job.target)
    create_table_artifact(gate_rows(verdict), key=key, description=plain(said))
    get_run_logger().info("%s", said)
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
    page = explained(job, verdict, candidate, ended, generation)
    create_markdown_artifact(page, key=page_key("decision", job.family, job.target), description=f"{job.name}: {ended}")


def explained(job: Job, verdict: Verdict, candidate: Candidate, ended: str, generation: int | None) -> str:
    """Write the decision as a file, and return it as markdown."""
    # Before matplotlib is imported, which is here and not above: it takes 2 s, and flows load this file.
    os.environ.setdefault("MPLCONFIGDIR", str(settings().home / "cache" / "matplotlib"))
    from tasks.pictures.page import draw, html_page

    evidence = _evidence(job, verdict)
    decision = Decision(
        job=job,
        verdict=verdict,
        ended=ended,
        digest=candidate.digest,
        generation=generation,
        serving=candidate.serving,
        live=_served(job, verdict, generation),
        changes=changes(evidence) if evidence else (),
        prefix=settings().command_prefix,
        cost=open_ledger().merge_cost(job.merge_key, candidate.digest),
    )
    pictures = draw(decision, evidence) if evidence else ()
    report = str(report_path(settings().home, job, verdict))
    try:
        _write(Path(report), html_page(decision, pictures))
    except OSError as error:  # a full disk takes the file away, not the decision
        get_run_logger().warning("%s was not written: %s", report, error)
        report = ""
    return decision_page(decision, pictures, report=report)


def report_path(home: Path, job: Job, verdict: Verdict) -> Path:
    """Where the page of a verdict lies as a file: the same verdict has one page, that of its last run."""
    return home / "reports" / f"{job.family}-{job.target}" / f"{job.release.ref.slug}-{_key(verdict)[:12]}.html"


def _key(verdict: Verdict) -> str:
    references = dict(verdict.parent_digests)
    if verdict.live_digest is not None:
        references["live"] = verdict.live_digest
    return verdict_key(artifact=verdict.candidate_digest, gate=verdict.gate_digest, references=references)


def _evidence(job: Job, verdict: Verdict) -> Evidence | None:
    """What the verdict was made from; None where the gate's file has changed since: its limits would be other ones."""
    gate = gate_of(job)
    digests = {"candidate": verdict.candidate_digest, "live": verdict.live_digest, **verdict.parent_digests}
    ledger = open_ledger()
    found = {role: behind(ledger.evaluations_of(digest), verdict, role) for role, digest in digests.items() if digest}
    candidate, live = found.pop("candidate"), found.pop("live", None)
    if candidate is None or gate.digest() != verdict.gate_digest:
        return None
    return Evidence(gate, candidate, {role: known for role, known in found.items() if known is not None}, live)


def _served(job: Job, verdict: Verdict, generation: int | None) -> Served | None:
    """What the channel served when the verdict was made."""
    for past in open_ledger().promotions(job.channel):
        if past.artifact_digest == verdict.live_digest and (generation is None or past.generation < generation):
            return Served(past.release, past.artifact_digest, past.generation)
    return None


def _write(path: Path, text: str) -> None:
    """Whole or not at all: somebody may be reading the page that this one replaces."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(text, encoding="utf-8")
    half.replace(path)
