"""One run of lm-eval against a served model: what is missing of its scores, put behind what is on record."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from tasks.child import run_child
from tasks.domain.models import Artifact, Evaluation
from tasks.doors import open_store
from tasks.endpoints.protocol import Ready
from tasks.harness.child import Measured, arguments, read_result
from tasks.harness.suite import Cost, chosen, spanned
from tasks.scores import joined, key_of, longer, record, stored
from tasks.settings import settings

logger = logging.getLogger(__name__)


def measured(label: str, ready: Ready, benchmarks: Sequence[str], shares: tuple[float, ...] = (1.0,)) -> Evaluation:
    """What ``tasks.evaluate.evaluate_model`` does; needs no flow run."""
    artifact = open_store().get(ready.digest)
    known = stored(artifact, ready.serving, benchmarks, shares[-1])
    missing = [name for name in benchmarks if name not in known]
    for after, names, before in _begun(artifact, ready, missing, shares):
        for name, found in measure_missing(artifact, ready, names, after, shares[-1], before).items():
            known[name] = record(label, found)
    logger.info("%s: %d benchmarks measured, %d from before", label, len(missing), len(benchmarks) - len(missing))
    for score in (score for name in benchmarks for score in known[name].scores):
        value = f"{score.value:.3f} +- {score.stderr:.3f} (n={score.n})"
        logger.info("%s: %s %s %s", label, score.benchmark, score.metric, value)
    return joined([known[name] for name in benchmarks])


def _begun(
    artifact: Artifact, ready: Ready, missing: Sequence[str], shares: tuple[float, ...]
) -> Iterator[tuple[float, list[str], Mapping[str, Evaluation]]]:
    """What is missing by how much of it is on record: the share, the benchmarks, and their scores so far."""
    left = list(missing)
    for share in sorted(shares[:-1], reverse=True):
        before = stored(artifact, ready.serving, left, share)
        if before:
            yield share, list(before), before
        left = [name for name in left if name not in before]
    if left:
        yield 0.0, left, {}


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
    measured = ask(artifact, ready, asked, span) if asked else Measured((), {}, {})
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
    logger.info("sent %(prompts)d prompts in %(requests)d requests", total)
    return found


def ask(artifact: Artifact, ready: Ready, benchmarks: Sequence[str], span: str) -> Measured:
    """One run of lm-eval over the items between two shares; nothing of it is stored."""
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
