"""Prefect tasks that measure a model: put it up beside the live one, ask it all questions once, keep every answer."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.errors import InputError
from tasks.domain.jobs import Candidate, Job
from tasks.domain.keys import eval_key
from tasks.domain.lineage import parent_roles
from tasks.domain.models import Artifact, Digest, Evaluation
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.endpoints.protocol import Ready
from tasks.harness.child import measure
from tasks.harness.facts import facts_of
from tasks.harness.suite import lm_eval_version, suite_digest
from tasks.runs import is_transient
from tasks.settings import settings
from tasks.stage import REFERENCE, staged


@task(
    name="evaluate", task_run_name="evaluate {label}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=is_transient
)
def evaluate_model(label: str, ready: Ready, benchmarks: Sequence[str]) -> Evaluation:
    """Scores of the model that answers at ``ready``: from the ledger if measured so before, else measured now."""
    artifact, ledger, logger = open_store().get(ready.digest), open_ledger(), get_run_logger()
    key, facts = key_of(artifact, ready.serving, benchmarks)
    if known := ledger.evaluation(key):
        logger.info("%s was measured before (eval_key %s)", label, key[:12])
        return known
    scratch = open_store().scratch(f"eval-{key[:12]}-{uuid4().hex[:8]}")
    measured = measure(
        base_url=f"{ready.base_url}/v1",
        model=ready.model,
        folder=Path(artifact.folder),
        benchmarks=benchmarks,
        out=scratch / "result.json",
        deadline_seconds=settings().evaluate_deadline_seconds,
    )
    shutil.rmtree(scratch)
    found = Evaluation(eval_key=key, artifact_digest=ready.digest, scores=measured.scores, facts=facts)
    try:
        ledger.record_evaluation(found)
    except InputError as other:  # somebody measured the same thing meanwhile: what was first recorded counts
        found = ledger.evaluation(key) or found
        logger.warning("%s: the scores recorded first are used; %s", label, other)
    for score in found.scores:
        value = f"{score.value:.3f} +- {score.stderr:.3f} (n={score.n})"
        logger.info("%s: %s %s %s", label, score.benchmark, score.metric, value)
    return found


def key_of(artifact: Artifact, serving: Mapping[str, str], benchmarks: Sequence[str]) -> tuple[Digest, dict[str, str]]:
    """The eval_key of a measurement, and its parts for people."""
    folder = Path(artifact.folder)
    # How an instance was started (forked or plainly) moves no score: same code, same flags.
    image = serving.get("image", "").removesuffix(" fork").removesuffix(" plain")
    template, measured_on = template_digest(folder), {**serving, "image": image}
    key = eval_key(
        artifact=artifact.digest,
        template=template,
        serving=measured_on,
        suite=suite_digest(benchmarks),
        lm_eval=lm_eval_version(),
    )
    return key, {**measured_on, "template": template, **facts_of(benchmarks, folder)}


def benchmarks_of(job: Job) -> tuple[str, ...]:
    """What the target's gate asks for."""
    catalog = open_catalog()
    return catalog.gate_of(catalog.target(job.family, job.target)).benchmarks


def evaluate_candidate(job: Job, ready: Ready) -> tuple[Candidate, Evaluation]:
    """The candidate as it is served now, and its scores."""
    candidate = Candidate(
        digest=ready.digest,
        folder=open_store().get(ready.digest).folder,
        model=ready.model,
        serving=dict(ready.serving),
        staged_at=datetime.now(UTC),
    )
    return candidate, evaluate_model(f"{job.name} (candidate)", ready, benchmarks_of(job))


def evaluate_references(job: Job, candidate: Candidate) -> dict[str, Evaluation]:
    """The parents' scores under the candidate's serving facts. A parent is put up only if it was never measured so."""
    return {
        role: evaluate_reference(job, candidate, f"{role} parent", digest, REFERENCE)
        for role, digest in parent_roles(job.lineage).items()
    }


def evaluate_live(job: Job, candidate: Candidate) -> tuple[int, Evaluation | None]:
    """Generation of the channel, and the scores of what it serves: measured now if they were never stored."""
    state = open_ledger().channel(job.channel)
    if state is None:
        return 0, None
    label = f"live {state.release.slug}"
    return state.generation, evaluate_reference(job, candidate, label, state.artifact_digest, job.channel)


def evaluate_reference(job: Job, candidate: Candidate, label: str, digest: Digest, channel: str) -> Evaluation:
    """Scores of another model on the candidate's benchmarks, under the candidate's serving facts."""
    artifact, benchmarks = open_store().get(digest), benchmarks_of(job)
    known = open_ledger().evaluation(key_of(artifact, candidate.serving, benchmarks)[0])
    if known is not None:
        return known
    with staged(job.family, digest, channel, None) as ready:
        return evaluate_model(label, ready, benchmarks)


def template_digest(folder: Path) -> str:
    """sha256 of a model's chat template; "" where it has none. Old models keep it in tokenizer_config.json."""
    own, configuration = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.exists():
        return hashlib.sha256(own.read_bytes()).hexdigest()
    known = json.loads(configuration.read_text(encoding="utf-8")) if configuration.exists() else {}
    template = known.get("chat_template")
    return hashlib.sha256(str(template).encode()).hexdigest() if template else ""
