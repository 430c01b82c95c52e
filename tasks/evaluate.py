"""Prefect tasks that measure a model: put it up beside the live one, ask it all questions once, keep every answer."""

from collections.abc import Sequence
from datetime import UTC, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.gate import Gate
from tasks.domain.jobs import Candidate, Job
from tasks.domain.lineage import parent_roles
from tasks.domain.models import Digest, Evaluation
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.endpoints.protocol import Ready
from tasks.identity import record_outputs
from tasks.measuring import measured
from tasks.runs import is_transient
from tasks.scores import joined, stored
from tasks.stage import REFERENCE, staged


@task(
    name="evaluate", task_run_name="evaluate {label}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=is_transient
)
def evaluate_model(
    label: str, ready: Ready, benchmarks: Sequence[str], shares: tuple[float, ...] = (1.0,)
) -> Evaluation:
    """Scores of the model that answers at ``ready``: from the ledger where they are, and what is missing measured now.

    What is missing is asked in one run of lm-eval and stored benchmark by benchmark, so that no later target, gate or
    attempt asks it again. The last of ``shares`` is that of the items to be scored; those before are what may be on
    record of them, and is not asked again.
    """
    return measured(label, ready, benchmarks, shares)


def gate_of(job: Job) -> Gate:
    """The gate that the job's candidate must pass."""
    catalog = open_catalog()
    return catalog.gate_of(catalog.target(job.family, job.target))


def evaluate_candidate(job: Job, ready: Ready) -> tuple[Candidate, Evaluation]:
    """The candidate as it is served now, and its scores: at the gate's first look, where it has any."""
    candidate = Candidate(
        digest=ready.digest,
        folder=open_store().get(ready.digest).folder,
        model=ready.model,
        serving=dict(ready.serving),
        staged_at=datetime.now(UTC),
    )
    label = f"{job.name} (candidate)"
    record_answers(label, ready, open_catalog().target(job.family, job.target).languages)
    gate = gate_of(job)
    return candidate, evaluate_model(label, ready, gate.benchmarks, gate.shares[:1])


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
        return evaluate_model(label, ready, benchmarks, gate_of(job).shares)
