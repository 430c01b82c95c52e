"""One run of lm-eval against a served model: what is missing of its scores, put behind what is on record."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from prefect.logging import get_run_logger

from tasks.child import run_child
from tasks.domain.models import Artifact, Evaluation
from tasks.doors import open_store
from tasks.endpoints.protocol import Ready
from tasks.harness.child import Measured, arguments, read_result
from tasks.harness.suite import Cost, chosen, spanned
from tasks.scores import key_of, longer
from tasks.settings import settings


def measure_missing(
    artifact: Artifact,
    ready: Ready,
    benchmarks: Sequence[str],
    after: float,
    until: float,
    before: Mapping[str, Evaluation],
) -> dict[str, Evaluation]:
    """One run of lm-eval; an evaluation for each benchmark, with what was scored before, and what it cost."""
    span = f"{after:g}:{until:g}"
    asked = [name for name in benchmarks if len(set(spanned(span, len(chosen(name))))) > 1]
    measured = _ask(artifact, ready, asked, span) if asked else Measured((), {}, {})
    found = {}
    for name in benchmarks:
        key, facts = key_of(artifact, ready.serving, name, until)
        more = None
        if name in asked:
            sent = {f"{what}:{name}": str(count) for what, count in measured.sent[name]._asdict().items()}
            scores = tuple(score for score in measured.scores if score.benchmark == name)
            digest = artifact.digest
            more = Evaluation(eval_key=key, artifact_digest=digest, scores=scores, facts={**facts, **sent})
        found[name] = longer(before.get(name), more, key, facts)
    total = {what: sum(getattr(cost, what) for cost in measured.sent.values()) for what in Cost._fields}
    get_run_logger().info("sent %(prompts)d prompts in %(requests)d requests", total)
    return found


def _ask(artifact: Artifact, ready: Ready, benchmarks: Sequence[str], span: str) -> Measured:
    scratch = open_store().scratch(f"eval-{artifact.short}-{uuid4().hex[:8]}")
    out = scratch / "result.json"
    run_child(
        "tasks.harness",
        [*arguments(f"{ready.base_url}/v1", ready.model, Path(artifact.folder), benchmarks, out), "--span", span],
        deadline_seconds=settings().evaluate_deadline_seconds,
        silence_seconds=settings().silence_seconds,
        records=settings().children,
        told=_key(),
    )
    measured = read_result(out)
    shutil.rmtree(scratch)
    return measured


def _key() -> dict[str, str]:
    """For the server that is asked, where it wants a key: our own gateway, or what the environment says."""
    key = settings().own_key or os.environ.get("EMPELT_API_KEY")
    return {"EMPELT_API_KEY": key} if key else {}
