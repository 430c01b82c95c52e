"""Scores in the ledger: one evaluation for each model and benchmark, found by its eval_key and joined for a gate."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tasks.domain.errors import InputError
from tasks.domain.keys import eval_key, joined_key
from tasks.domain.models import Artifact, Digest, Evaluation
from tasks.domain.replay import first_items
from tasks.domain.statistics import mean_and_stderr
from tasks.doors import open_ledger
from tasks.harness.facts import facts_of
from tasks.harness.suite import lm_eval_version, permuted, suite_digest

logger = logging.getLogger(__name__)


def stored(
    artifact: Artifact, serving: Mapping[str, str], benchmarks: Collection[str], share: float = 1.0
) -> dict[str, Evaluation]:
    """What the ledger has of the first ``share`` of these benchmarks' items, by name."""
    ledger = open_ledger()
    found = {name: ledger.evaluation(key_of(artifact, serving, name)[0]) for name in benchmarks}
    for name in [name for name in benchmarks if share < 1]:
        whole, part = found[name], ledger.evaluation(key_of(artifact, serving, name, share)[0])
        found[name] = part or (whole and without_cost(first_items(whole, share, permuted)))
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}


def longer(before: Evaluation | None, more: Evaluation | None, key: Digest, facts: Mapping[str, str]) -> Evaluation:
    """One benchmark's scores on the items of two evaluations, one after the other; either may lack, not both."""
    parts = [part for part in (before, more) if part is not None]
    if len(parts) == 1:
        return parts[0].model_copy(update={"eval_key": key})
    scores = []
    for old, new in zip(parts[0].scores, parts[1].scores, strict=True):
        items = (*old.items, *new.items)
        value, stderr = mean_and_stderr(items)
        scores.append(new.model_copy(update={"items": items, "n": len(items), "value": value, "stderr": stderr}))
    cost = {name: str(sum(int(part.facts.get(name, 0)) for part in parts)) for name in parts[1].facts if _is_cost(name)}
    return parts[1].model_copy(update={"eval_key": key, "scores": tuple(scores), "facts": {**facts, **cost}})


def without_cost(evaluation: Evaluation) -> Evaluation:
    """``evaluation`` without what it cost: that was paid for something else."""
    return evaluation.model_copy(update={"facts": {k: v for k, v in evaluation.facts.items() if not _is_cost(k)}})


def requests_in(evaluation: Evaluation, benchmarks: Collection[str]) -> int:
    """HTTP requests that these scores took."""
    return sum(int(evaluation.facts.get(f"requests:{name}", 0)) for name in benchmarks)


def _is_cost(fact: str) -> bool:
    return fact.startswith(("prompts:", "requests:"))


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """The scores of one model on several benchmarks, as a gate wants them: facts together, a key of all keys."""
    return Evaluation(
        eval_key=joined_key(part.eval_key for part in parts),
        artifact_digest=parts[0].artifact_digest,
        scores=tuple(score for part in parts for score in part.scores),
        facts={name: value for part in parts for name, value in part.facts.items()},
    )


def record(label: str, found: Evaluation) -> Evaluation:
    """Store what was measured; what counts is what was recorded first, should somebody have measured it meanwhile."""
    try:
        open_ledger().record_evaluation(found)
    except InputError as other:
        logger.warning("%s: the scores recorded first are used; %s", label, other)
        return open_ledger().evaluation(found.eval_key) or found
    return found


def key_of(
    artifact: Artifact, serving: Mapping[str, str], benchmark: str, share: float = 1.0
) -> tuple[Digest, dict[str, str]]:
    """The eval_key of one benchmark's measurement, or of its first ``share`` of items, and its parts for people."""
    folder = Path(artifact.folder)
    # How an instance was started (forked or plainly) moves no score: same code, same flags.
    image = serving.get("image", "").removesuffix(" fork").removesuffix(" plain")
    template, measured_on = template_digest(folder), {**serving, "image": image}
    key = eval_key(
        artifact=artifact.digest,
        template=template,
        serving=measured_on,
        suite=suite_digest([benchmark], share=share),
        lm_eval=lm_eval_version(),
    )
    return key, {**measured_on, "template": template, **facts_of([benchmark], folder)}


def template_digest(folder: Path) -> str:
    """sha256 of a model's chat template; "" where it has none. Old models keep it in tokenizer_config.json."""
    own, configuration = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if own.exists():
        return hashlib.sha256(own.read_bytes()).hexdigest()
    known = json.loads(configuration.read_text(encoding="utf-8")) if configuration.exists() else {}
    template = known.get("chat_template")
    return hashlib.sha256(str(template).encode()).hexdigest() if template else ""
