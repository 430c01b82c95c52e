"""A/A: a model that is up is asked a few of its items again, once for each family and way of serving."""

import logging

from tasks.domain.gate import Gate
from tasks.domain.models import Evaluation, Score
from tasks.domain.repeats import differences, repeats_key, share_of
from tasks.doors import open_ledger, open_store
from tasks.endpoints.protocol import Ready
from tasks.harness.suite import chosen
from tasks.measuring import ask
from tasks.scores import record

logger = logging.getLogger(__name__)


def items_of(gate: Gate) -> dict[str, int]:
    """How many items the gate asks of each of its benchmarks."""
    return {name: len(chosen(name)) for name in gate.benchmarks}


def repeated(label: str, family: str, ready: Ready, gate: Gate, first: Evaluation) -> tuple[Score, ...]:
    """How far the server's answers differ when the same is asked twice: from the ledger, or asked now.

    Args:
        label: of the model, for the log.
        family: whose models are served so.
        ready: the model that answers; what is found counts for every other one that is served in the same way.
        gate: its benchmarks; those that no model was asked twice are asked now.
        first: what this model said the first time: the gate's first look, or all.
    """
    keys = {name: repeats_key(family, ready.serving, name) for name in gate.benchmarks}
    found = {name: known for name, key in keys.items() if (known := open_ledger().evaluation(key)) is not None}
    missing = [name for name in gate.benchmarks if name not in found]
    if missing:
        artifact = open_store().get(ready.digest)
        asked = ask(artifact, ready, missing, f"0:{share_of(items_of(gate), gate.shares[0]):g}")
        for name in missing:
            again = [score for score in asked.scores if score.benchmark == name]
            sent = {f"{what}:{AGAIN_OF}{name}": str(n) for what, n in asked.sent[name]._asdict().items()}
            told = {"artifact_digest": ready.digest, "scores": differences(first, again), "facts": sent}
            found[name] = record(label, Evaluation(eval_key=keys[name], **told))
        requests = sum(cost.requests for cost in asked.sent.values())
        logger.info("%s: %d benchmarks asked twice, in %d requests", label, len(missing), requests)
    return tuple(score for name in gate.benchmarks for score in found[name].scores)


AGAIN_OF = "again_"
"""Before a benchmark's name, for what asking it twice has cost."""
