"""Scores in the ledger: one evaluation for each model and benchmark, found by its eval_key and joined for a gate."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from prefect.logging import get_run_logger

from tasks.domain.errors import InputError
from tasks.domain.keys import eval_key, joined_key
from tasks.domain.models import Artifact, Digest, Evaluation
from tasks.doors import open_ledger
from tasks.harness.facts import facts_of
from tasks.harness.suite import lm_eval_version, suite_digest


def stored(artifact: Artifact, serving: Mapping[str, str], benchmarks: Collection[str]) -> dict[str, Evaluation]:
    """What the ledger has of these benchmarks, by name."""
    ledger = open_ledger()
    found = {name: ledger.evaluation(key_of(artifact, serving, name)[0]) for name in benchmarks}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}


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
        get_run_logger().warning("%s: the scores recorded first are used; %s", label, other)
        return open_ledger().evaluation(found.eval_key) or found
    return found


def key_of(artifact: Artifact, serving: Mapping[str, str], benchmark: str) -> tuple[Digest, dict[str, str]]:
    """The eval_key of one benchmark's measurement, and its parts for people."""
    folder = Path(artifact.folder)
    # How an instance was started (forked or plainly) moves no score: same code, same flags.
    image = serving.get("image", "").removesuffix(" fork").removesuffix(" plain")
    template, measured_on = template_digest(folder), {**serving, "image": image}
    key = eval_key(
        artifact=artifact.digest,
        template=template,
        serving=measured_on,
        suite=suite_digest([benchmark]),
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
