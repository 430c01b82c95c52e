"""Prefect tasks that measure a model: put it up beside the live one, ask it all questions once, keep every answer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.child import run_child
from tasks.domain.jobs import Candidate, Job
from tasks.domain.keys import eval_key
from tasks.domain.lineage import parent_roles
from tasks.domain.models import Artifact, Digest, Evaluation, Score
from tasks.endpoints.protocol import Ready
from tasks.harness.suite import definition, lm_eval_version, suite_digest
from tasks.runs import is_transient
from tasks.settings import open_catalog, open_ledger, open_store, settings
from tasks.stage import REFERENCE, staged


@task(
    name="evaluate", task_run_name="evaluate {label}", retries=1, retry_condition_fn=is_transient, cache_policy=NO_CACHE
)
def evaluate_model(label: str, ready: Ready, benchmarks: Sequence[str], whole: Sequence[str]) -> Evaluation:
    """Scores of the model that answers at ``ready``: from the ledger if it was measured so before, else measured now.

    Args:
        label: for people.
        ready: where it answers, and how it is served.
        benchmarks: those to ask.
        whole: all that the gate asks for; recorded, so that a verdict compares only what belongs together.
    """
    artifact, logger = open_store().get(ready.digest), get_run_logger()
    key, facts = key_of(artifact, ready.serving, benchmarks, whole)
    if known := open_ledger().evaluation(key):
        logger.info("%s was measured before (eval_key %s)", label, key[:12])
        return known
    out = open_store().scratch(f"eval-{key[:12]}") / f"{uuid4()}.json"
    run_child(
        "tasks.harness",
        [
            *("--base-url", f"{ready.base_url}/v1", "--model", ready.model, "--folder", artifact.folder),
            *("--benchmarks", ",".join(benchmarks), "--out", str(out), "--json-lines"),
        ],
        deadline_seconds=settings().evaluate_deadline_seconds,
    )
    found = Evaluation(eval_key=key, artifact_digest=ready.digest, scores=read_scores(out), facts=facts)
    out.unlink()
    open_ledger().record_evaluation(found)
    for score in found.scores:
        logger.info(
            "%s %s %s: %.3f +- %.3f (n=%d)", label, score.benchmark, score.metric, score.value, score.stderr, score.n
        )
    return found


def key_of(
    artifact: Artifact, serving: Mapping[str, str], benchmarks: Sequence[str], whole: Sequence[str]
) -> tuple[Digest, dict[str, str]]:
    """The eval_key of a measurement, and its parts for people."""
    template, version = template_digest(Path(artifact.folder)), lm_eval_version()
    # How an instance was started (forked or plainly) moves no score: same code, same flags.
    measured_on = {**serving, "image": serving.get("image", "").removesuffix(" fork").removesuffix(" plain")}
    suite = suite_digest(benchmarks)
    key = eval_key(artifact=artifact.digest, template=template, serving=measured_on, suite=suite, lm_eval=version)
    return key, {**serving, "template": template, "suite": suite_digest(whole), "lm_eval": version}


def benchmarks_of(job: Job) -> tuple[str, ...]:
    """What the target's gate asks for."""
    catalog = open_catalog()
    return catalog.gate_of(catalog.target(job.family, job.target)).benchmarks


def evaluate_candidate(job: Job, ready: Ready) -> tuple[Candidate, Evaluation]:
    """The candidate as it is served now, and its scores."""
    benchmarks = benchmarks_of(job)
    candidate = Candidate(
        digest=ready.digest,
        folder=open_store().get(ready.digest).folder,
        model=ready.model,
        serving=dict(ready.serving),
        staged_at=datetime.now(UTC),
    )
    return candidate, evaluate_model(f"{job.name} (candidate)", ready, benchmarks, benchmarks)


def evaluate_references(job: Job, candidate: Candidate) -> dict[str, Evaluation]:
    """The parents' scores under the candidate's serving facts. A parent is put up only if it was never measured so."""
    whole, found = benchmarks_of(job), {}
    for role, digest in parent_roles(job.lineage).items():
        artifact = open_store().get(digest)
        asked = (
            whole
            if template_digest(Path(artifact.folder))
            else [b for b in whole if definition(b)["output_type"] != "generate_until"]
        )
        known = open_ledger().evaluation(key_of(artifact, candidate.serving, asked, whole)[0])
        if known is None:
            with staged(job.family, digest, REFERENCE, None) as ready:
                known = evaluate_model(f"{role} parent", ready, asked, whole)
        # What a gate of another name asked for may have been recorded with the same key: say what is compared now.
        found[role] = known.model_copy(update={"facts": {**known.facts, "suite": suite_digest(whole)}})
    return found


def evaluate_live(job: Job, candidate: Candidate) -> tuple[int, Evaluation | None]:
    """Generation of the channel, and the scores of what it serves: measured now if they were never stored."""
    state, whole = open_ledger().channel(job.channel), benchmarks_of(job)
    if state is None:
        return 0, None
    artifact = open_store().get(state.artifact_digest)
    known = open_ledger().evaluation(key_of(artifact, candidate.serving, whole, whole)[0])
    if known is None:
        with staged(job.family, state.artifact_digest, job.channel, state.release) as ready:
            known = evaluate_model(f"live {state.release.slug}", ready, whole, whole)
    return state.generation, known


def template_digest(folder: Path) -> str:
    """sha256 of a model's chat template; "" where it has none. Old models keep it in tokenizer_config.json."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return hashlib.sha256(own.read_bytes()).hexdigest()
    configuration = folder / "tokenizer_config.json"
    known = json.loads(configuration.read_text(encoding="utf-8")) if configuration.exists() else {}
    template = known.get("chat_template")
    return hashlib.sha256(str(template).encode()).hexdigest() if template else ""


def read_scores(path: Path) -> tuple[Score, ...]:
    """The scores that the harness wrote."""
    return tuple(Score.model_validate(score) for score in json.loads(path.read_text(encoding="utf-8"))["scores"])
