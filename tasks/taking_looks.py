"""The looks at a candidate after its first: more items as long as what is there decides nothing."""

import logging
from collections.abc import Callable, Mapping
from itertools import pairwise

from tasks.domain.gate import Gate
from tasks.domain.jobs import Job
from tasks.domain.looks import Stop
from tasks.domain.models import Evaluation
from tasks.domain.verdict import is_final, judge
from tasks.endpoints.protocol import Ready
from tasks.evaluate import evaluate_model, gate_of
from tasks.harness.suite import requests_of
from tasks.scores import requests_in

logger = logging.getLogger(__name__)


def take_looks(
    job: Job, ready: Ready, scores: Evaluation, parents: Mapping[str, Evaluation], live: Evaluation | None
) -> tuple[Evaluation, Stop | None]:
    """The candidate's scores when they decide, from those of the first look on; None for a gate without looks.

    What a look asked is on record when it ends, so an attempt that was cut off goes on after its last one.
    """
    gate = gate_of(job)

    def ask(number: int) -> Evaluation:
        label = f"{job.name} (candidate, look {number})"
        return evaluate_model(label, ready, gate.benchmarks, gate.shares[:number])

    return looked(job.name, gate, ask, scores, parents, live)


def looked(
    name: str,
    gate: Gate,
    ask: Callable[[int], Evaluation],
    scores: Evaluation,
    parents: Mapping[str, Evaluation],
    live: Evaluation | None,
) -> tuple[Evaluation, Stop | None]:
    """``take_looks`` for whoever can ``ask`` for the scores of a look by its number; needs no flow run."""
    if gate.sequential is None:
        return scores, None
    looks, totals = gate.sequential.levels, [0]
    for number, levels in enumerate(looks, start=1):
        if number > 1:
            scores = ask(number)
        totals.append(max(totals[-1], requests_in(scores, gate.benchmarks)))
        verdict = judge(gate, scores, parents, live, levels)
        stop = Stop(
            look=number,
            of=len(looks),
            share=levels.share,
            requests=tuple(after - before for before, after in pairwise(totals)),
            planned=sum(requests_of(name) for name in gate.benchmarks),
            items={score.benchmark: score.n for score in scores.scores},
        )
        logger.info("%s: look %d of %d says %s", name, number, len(looks), verdict.outcome)
        if is_final(verdict):
            break
    logger.info("%s: %s", name, stop.sentence)
    return scores, stop
