"""Prefect tasks that measure a model: put it up beside the live one, ask it all questions once, keep every answer."""

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.child import run_child
from tasks.domain.gate import Gate
from tasks.domain.jobs import Candidate, Job
from tasks.domain.lineage import parent_roles
from tasks.domain.models import Artifact, Digest, Evaluation
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.endpoints.protocol import Ready
from tasks.harness.child import arguments, read_result
from tasks.harness.suite import Cost
from tasks.identity import record_outputs
from tasks.runs import is_transient
from tasks.scores import joined, key_of, record, stored
from tasks.settings import settings
from tasks.stage import REFERENCE, staged


@task(
    name="evaluate", task_run_name="evaluate {label}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=is_transient
)
def evaluate_model(label: str, ready: Ready, benchmarks: Sequence[str]) -> Evaluation:
    """Scores of the model that answers at ``ready``: from the ledger where they are, and what is missing measured now.

    What is missing is asked in one run of lm-eval and stored benchmark by benchmark, so that no later target, gate or
    attempt asks it again.
    """
    artifact, logger = open_store().get(ready.digest), get_run_logger()
    known = stored(artifact, ready.serving, benchmarks)
    if missing := [name for name in benchmarks if name not in known]:
        for found in _measure(artifact, ready, missing):
            known[found.scores[0].benchmark] = record(label, found)
    logger.info("%s: %d benchmarks measured, %d from before", label, len(missing), len(benchmarks) - len(missing))
    for score in (score for name in benchmarks for score in known[name].scores):
        value = f"{score.value:.3f} +- {score.stderr:.3f} (n={score.n})"
        logger.info("%s: %s %s %s", label, score.benchmark, score.metric, value)
    return joined([known[name] for name in benchmarks])


def _key() -> dict[str, str]:
    """For the server that is asked, where it wants a key: our own gateway, or what the environment says."""
    key = settings().own_key or os.environ.get("EMPELT_API_KEY")
    return {"EMPELT_API_KEY": key} if key else {}


def _measure(artifact: Artifact, ready: Ready, benchmarks: Sequence[str]) -> list[Evaluation]:
    """One run of lm-eval; an evaluation for each benchmark, and among its facts what it cost."""
    scratch = open_store().scratch(f"eval-{artifact.short}-{uuid4().hex[:8]}")
    out = scratch / "result.json"
    run_child(
        "tasks.harness",
        arguments(f"{ready.base_url}/v1", ready.model, Path(artifact.folder), benchmarks, out),
        deadline_seconds=settings().evaluate_deadline_seconds,
        silence_seconds=settings().silence_seconds,
        records=settings().children,
        told=_key(),
    )
    measured = read_result(out)
    shutil.rmtree(scratch)
    found = []
    for name in benchmarks:
        key, facts = key_of(artifact, ready.serving, name)
        sent = {f"{what}:{name}": str(count) for what, count in measured.sent[name]._asdict().items()}
        scores = tuple(score for score in measured.scores if score.benchmark == name)
        found.append(Evaluation(eval_key=key, artifact_digest=artifact.digest, scores=scores, facts={**facts, **sent}))
    total = {what: sum(getattr(cost, what) for cost in measured.sent.values()) for what in Cost._fields}
    get_run_logger().info("sent %(prompts)d prompts in %(requests)d requests", total)
    return found


def gate_of(job: Job) -> Gate:
    """The gate that the job's candidate must pass."""
    catalog = open_catalog()
    return catalog.gate_of(catalog.target(job.family, job.target))


def evaluate_candidate(job: Job, ready: Ready) -> tuple[Candidate, Evaluation]:
    """The candidate as it is served now, and its scores."""
    candidate = Candidate(
        digest=ready.digest,
        folder=open_store().get(ready.digest).folder,
        model=ready.model,
        serving=dict(ready.serving),
        staged_at=datetime.now(UTC),
    )
    label = f"{job.name} (candidate)"
    record_answers(label, ready, open_catalog().target(job.family, job.target).languages)
    return candidate, evaluate_model(label, ready, gate_of(job).benchmarks)


@task(
    name="record-outputs",
    task_run_name="reference outputs of {label}",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=is_transient,
)
def record_answers(label: str, ready: Ready, languages: Sequence[str]) -> None:
    """What the candidate says to the fixed prompts, by which it is known again wherever it is served.

    First of all: a server that gives no log-probabilities is refused before hours of questions to it.
    """
    known = record_outputs(ready, languages)
    get_run_logger().info("%s: answers to %d fixed prompts are on record", label, len(known.answers))


def evaluate_references(job: Job, candidate: Candidate) -> dict[str, Evaluation]:
    """The parents' scores under the candidate's serving facts, on what the gate compares with them.

    A parent is put up only if something of that was never measured so.
    """
    wanted = {role: gate_of(job).benchmarks_of(role) for role in parent_roles(job.lineage)}
    return {
        role: evaluate_reference(job, candidate, f"{role} parent", digest, REFERENCE, wanted[role])
        for role, digest in parent_roles(job.lineage).items()
        if wanted[role]
    }


def evaluate_live(job: Job, candidate: Candidate) -> tuple[int, Evaluation | None]:
    """Generation of the channel, and the scores of what it serves: measured now if they were never stored."""
    state = open_ledger().channel(job.channel)
    if state is None:
        return 0, None
    label = f"live {state.release.slug}"
    benchmarks = gate_of(job).benchmarks
    return state.generation, evaluate_reference(job, candidate, label, state.artifact_digest, job.channel, benchmarks)


def evaluate_reference(
    job: Job, candidate: Candidate, label: str, digest: Digest, channel: str, benchmarks: Sequence[str]
) -> Evaluation:
    """Scores of another model under the candidate's serving facts."""
    known = stored(open_store().get(digest), candidate.serving, benchmarks)
    if len(known) == len(benchmarks):
        return joined([known[name] for name in benchmarks])
    with staged(job.family, digest, channel, None) as ready:
        return evaluate_model(label, ready, benchmarks)
