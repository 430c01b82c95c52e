"""From lm-eval's logged samples to our scores, item by item; runs that cannot be what they seem are refused.

lm-eval's own aggregates are not used: its stderr is "N/A" for bits per byte, and says nothing about paired differences.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tasks.domain.errors import ModelRefused
from tasks.domain.models import Item, Score
from tasks.domain.statistics import mean_and_stderr

ANSWER_LENGTH = 200
"""Characters of an answer that are kept with its item."""
ENOUGH_TO_SUSPECT = 20
"""Items from which on one and the same choice every time is no accident: 4^-19 for a model that guesses."""

Metric = Literal["acc", "strict", "lenient", "bits_per_byte", "in_language", "followed"]


def scores_of(benchmark: str, samples: Sequence[Mapping[str, Any]]) -> tuple[Score, ...]:
    """The scores of one benchmark: one; strict and lenient for answers in words; three for instructions.

    Raises:
        ModelRefused: if the model chose the same place on every item, or found all choices equally likely.
    """
    if "acc_bytes" in samples[0]:
        _refuse_constant(benchmark, samples)
        return (_score(benchmark, "acc", [_marked(s, float(s["acc_bytes"]), _picked(s)) for s in samples]),)
    if "bits_per_byte" in samples[0]:
        return (_score(benchmark, "bits_per_byte", [_bits(s) for s in samples], higher_is_better=False),)
    if "followed" in samples[0]:
        return _instructed(benchmark, samples)
    if "in_language" in samples[0]:
        marked = [_marked(s, float(s["in_language"]), str(s["filtered_resps"][0])[:ANSWER_LENGTH]) for s in samples]
        return (_score(benchmark, "in_language", marked),)
    said = [str(s["filtered_resps"][0])[:ANSWER_LENGTH] for s in samples]
    strict = [_marked(s, float(s["strict"]), text) for s, text in zip(samples, said, strict=True)]
    lenient = [_marked(s, float(s["lenient"]), text) for s, text in zip(samples, said, strict=True)]
    return _score(benchmark, "strict", strict), _score(benchmark, "lenient", lenient)


def _instructed(benchmark: str, samples: Sequence[Mapping[str, Any]]) -> tuple[Score, ...]:
    """Strict, followed and in_language; items too short to be in a language are not among those of the last."""
    said = [str(s["filtered_resps"][0])[:ANSWER_LENGTH] for s in samples]
    strict = [_marked(s, float(s["strict"]), text) for s, text in zip(samples, said, strict=True)]
    parts = [(item, *s["followed"]) for item, s in zip(strict, samples, strict=True)]
    followed = [i.model_copy(update={"value": float(done), "weight": float(of)}) for i, done, of in parts]
    told = [
        item.model_copy(update={"value": float(s["in_language"])})
        for item, s in zip(strict, samples, strict=True)
        if not math.isnan(s["in_language"])
    ]
    scores: list[tuple[Metric, list[Item]]] = [("strict", strict), ("followed", followed), ("in_language", told)]
    return tuple(_score(benchmark, metric, items) for metric, items in scores if items)


def _marked(sample: Mapping[str, Any], value: float, answer: str = "") -> Item:
    doc = sample["doc"]
    return Item(item_id=str(doc["id"]), value=value, answer=answer, cluster=str(doc.get("cluster") or ""))


def _bits(sample: Mapping[str, Any]) -> Item:
    log_likelihood, size_bytes = sample["bits_per_byte"]
    return Item(item_id=str(sample["doc"]["id"]), value=-log_likelihood / math.log(2), weight=float(size_bytes))


def _score(benchmark: str, metric: Metric, items: Sequence[Item], *, higher_is_better: bool = True) -> Score:
    value, stderr = mean_and_stderr(items)
    return Score(
        benchmark=benchmark,
        metric=metric,
        value=value,
        stderr=stderr if math.isfinite(stderr) else 0.0,
        n=len(items),
        higher_is_better=higher_is_better,
        items=tuple(items),
    )


def _refuse_constant(benchmark: str, samples: Sequence[Mapping[str, Any]]) -> None:
    """A server without prompt log-likelihoods, or a broken model, scores exact chance and no error is seen anywhere.

    lm-eval takes the first choice where all are equal, and gold answers are spread evenly, hence "chance".
    """
    if len(samples) < ENOUGH_TO_SUSPECT:
        return
    likelihoods = [[pair[0] for pair in s["filtered_resps"]] for s in samples]
    if all(max(row) == min(row) for row in likelihoods):
        raise ModelRefused(
            f"{benchmark}: all choices of all {len(samples)} items got the same log-likelihood"
            f" ({likelihoods[0][0]:g} on the first item): broken weights, or a server that does not score prompts"
        )
    picked = {_pick(row, s["doc"]["choices"]) for row, s in zip(likelihoods, samples, strict=True)}
    gold = {int(s["doc"]["answer"]) for s in samples}
    if len(picked) == 1 and len(gold) > 1:
        raise ModelRefused(
            f"{benchmark}: choice {picked.pop()} was picked on all {len(samples)} items, whose answers are"
            f" {sorted(gold)}: the model or the server does not look at the choices"
        )


def _picked(sample: Mapping[str, Any]) -> str:
    """The choice that the model found likeliest, in words."""
    choices = sample["doc"]["choices"]
    return str(choices[_pick([pair[0] for pair in sample["filtered_resps"]], choices)])[:ANSWER_LENGTH]


def _pick(likelihoods: Sequence[float], choices: Sequence[str]) -> int:
    per_byte = [value / len(choice.encode()) for value, choice in zip(likelihoods, choices, strict=True)]
    return per_byte.index(max(per_byte))
