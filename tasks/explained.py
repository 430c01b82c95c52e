"""A decision's page as it is made: what the ledger has of a verdict, as markdown, as an HTML file and as JSON."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from prefect.logging import get_run_logger

from tasks.domain.cost import costs
from tasks.domain.decision import Decision, Served
from tasks.domain.evidence import Evidence, behind, changes
from tasks.domain.insight import insight
from tasks.domain.jobs import Candidate, Job
from tasks.domain.keys import verdict_key
from tasks.domain.models import Digest
from tasks.domain.report import decision_page
from tasks.domain.trend import TrendPoint, trend
from tasks.domain.verdict import Verdict
from tasks.domain.verdict_document import SCHEMA_FILE, verdict_document, verdict_schema
from tasks.doors import open_ledger
from tasks.evaluate import gate_of
from tasks.questions import asker
from tasks.settings import settings


def explained(
    job: Job,
    verdict: Verdict,
    candidate: Candidate,
    ended: str,
    generation: int | None,
    seconds: Mapping[str, float] | None = None,
) -> str:
    """Write the decision as files, and return it as markdown; ``seconds`` are those of the stages that were timed."""
    # Before matplotlib is imported, which is here and not above: it takes 2 s, and flows load this file.
    os.environ.setdefault("MPLCONFIGDIR", str(settings().home / "cache" / "matplotlib"))
    from tasks.pictures.page import draw, html_page

    evidence, cost = _evidence(job, verdict), open_ledger().merge_cost(job.merge_key, candidate.digest)
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
        cost=cost,
        more=insight(
            verdict,
            evidence,
            ask=asker(evidence) if evidence else None,
            costs=costs(verdict, evidence, cost, seconds or {}),
            trend=_trend(job),
        ),
    )
    pictures = draw(decision, evidence) if evidence else ()
    report = str(report_path(settings().home, job, verdict))
    try:
        _write(Path(report), html_page(decision, pictures))
        _write(Path(report).with_suffix(".json"), document_of(decision))
        _write(settings().home / "reports" / SCHEMA_FILE, json.dumps(verdict_schema(), indent=1))
    except OSError as error:  # a full disk takes the files away, not the decision
        get_run_logger().warning("%s was not written: %s", report, error)
        report = ""
    return decision_page(decision, pictures, report=report)


def document_of(decision: Decision) -> str:
    """The decision as JSON, by the schema beside it."""
    job = decision.job
    document = verdict_document(
        decision.verdict,
        decision.more,
        family=job.family,
        target=job.target,
        ended=decision.ended,
        sentence=decision.sentence,
        release=job.release.ref,
        verdict_key=key_of_verdict(decision.verdict),
        job_key=job.key,
        generation=decision.generation,
    )
    return document.model_dump_json(indent=1)


def report_path(home: Path, job: Job, verdict: Verdict) -> Path:
    """Where the page of a verdict lies as a file: the same verdict has one page, that of its last run."""
    name = f"{job.release.ref.slug}-{key_of_verdict(verdict)[:12]}.html"
    return home / "reports" / f"{job.family}-{job.target}" / name


def key_of_verdict(verdict: Verdict) -> Digest:
    """What the ledger knows the verdict by."""
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


def _trend(job: Job) -> tuple[TrendPoint, ...]:
    """What became of the target's releases, in the order in which they came out."""
    ledger = open_ledger()
    jobs = [fact.job for fact in ledger.jobs(job.family) if fact.job.target == job.target]
    ordered = sorted([*jobs, job], key=lambda one: (one.release.released_at, one.key))
    return trend(ledger.verdicts(job.family, job.target), {one.key: one.release.ref.slug for one in ordered})


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
