"""A pooled slice: one limit over several benchmarks of a gate, judged by the macro mean of their adjusted differences.

    slices:
      eu.knowledge:
        benchmarks: {eu_trivia: 0.25, eu_exams: 0.25}   # benchmark: what a guesser scores
        max_drop: {instruct: 0.02}

A small drop that is spread over five benchmarks shows here though none of them shows it, and one noisy benchmark does
not block. Every benchmark of a slice has a check of its own, which says metric and language, has it measured, and stays
as a wide limit against a catastrophe in one of them. Drops and gains are chance-adjusted: ``(score - chance) /
(1 - chance)``, so .02 with four choices is .015 of accuracy. ``{language}`` in the name makes one slice for each
language of the target.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from tasks.domain.models import Noun

if TYPE_CHECKING:
    from tasks.domain.gate import Check, Gate

METRIC = "pooled"
"""Stands in a row for the metrics of a slice's benchmarks."""
POOLED_METRICS = ("acc", "strict")
"""Right or wrong, more is better, with a chance level."""
_PLACEHOLDER = "{language}"
Problem = tuple[tuple[str | int, ...], str]
"""Where in the gate's file, and what is wrong."""


class Slice(Noun):
    """The limits on several benchmarks together. Drops, gains and tolerances are chance-adjusted."""

    benchmarks: Mapping[str, float] = Field(min_length=2)
    """Benchmark to what a guesser scores, from 0 to below 1: .25 with four choices, 0 where answers are written."""
    max_drop: Mapping[str, float] = Field(default_factory=dict)
    """As of a check."""
    min_gain: Mapping[str, float] = Field(default_factory=dict)
    """As of a check."""
    tier: Literal["critical", "supporting", "advisory"] = "supporting"
    """As of a check."""
    min_items: int = Field(default=30, ge=30)
    """With fewer scored items of any of the benchmarks the slice is undecided; fewer than 30 were never simulated."""
    live_tolerance: float = Field(default=0.03, ge=0)
    """How much worse than the live model still counts as not worse, for a critical slice."""

    @property
    def critical(self) -> bool:
        """Whether it counts in the comparison with the live model."""
        return self.tier == "critical"

    @property
    def roles(self) -> frozenset[str]:
        """The parents that it compares with, as the gate file names them."""
        return frozenset(self.max_drop) | frozenset(self.min_gain)

    @property
    def limit(self) -> str:
        """The limits in words, for the table of a verdict."""
        parts = [f"{role}: at most {drop:g} worse" for role, drop in sorted(self.max_drop.items())]
        parts += [f"{role}: more than {gain:g} better" for role, gain in sorted(self.min_gain.items())]
        return f"mean of {len(self.benchmarks)}, {'; '.join(parts)}"

    @model_validator(mode="after")
    def _limits_are_of_use(self) -> "Slice":
        if not self.roles:
            raise ValueError("no limit at all: it would never block. Give max_drop or min_gain")
        if both := sorted(set(self.max_drop) & set(self.min_gain)):
            raise ValueError(f"max_drop and min_gain of {', '.join(both)}: the second says more; drop the first")
        for name, amounts in (("max_drop", self.max_drop), ("min_gain", self.min_gain)):
            for role, amount in amounts.items():
                if not 0 <= amount < math.inf:
                    raise ValueError(f"{name}.{role} is {amount:g}: give a number >= 0")
        for name, chance in self.benchmarks.items():
            if not 0 <= chance < 1:
                raise ValueError(f"benchmarks.{name} is {chance:g}: give what a guesser scores, from 0 to below 1")
        return self


def check_of(gate: "Gate", benchmark: str) -> "Check | None":
    """The check that says how ``benchmark`` is pooled; None if there is none, or not exactly one."""
    found = [check for check in gate.checks if check.benchmark == benchmark and check.metric in POOLED_METRICS]
    return found[0] if len(found) == 1 else None


def checks_of(gate: "Gate", pooled: Slice) -> tuple["Check | None", ...]:
    """``check_of`` each of a slice's benchmarks, in its order."""
    return tuple(check_of(gate, name) for name in pooled.benchmarks)


def expanded_slices(slices: Mapping[str, Slice], languages: Iterable[str]) -> dict[str, Slice]:
    """Slices with ``{language}`` in their name once for each language, others as they are."""
    codes, found = tuple(languages), {}
    for name, one in slices.items():
        for code in codes if _PLACEHOLDER in name else ("",):
            filled = {key.replace(_PLACEHOLDER, code) if code else key: c for key, c in one.benchmarks.items()}
            found[name.replace(_PLACEHOLDER, code)] = one.model_copy(update={"benchmarks": filled})
    return found


def wrong_slices(gate: "Gate", roles: Sequence[str]) -> list[Problem]:
    """What of a gate's slices could never be judged, each with its place in the file.

    Args:
        gate: as its file says.
        roles: the references that a gate may name, ``tuned:<language>`` beside them.
    """
    problems: list[Problem] = []
    taken = {check.benchmark for check in gate.checks}
    if gate.slices and gate.rule == "point":
        problems.append((("slices",), "with rule point: a pooled difference is judged by its bounds. Use confident"))
    for name, one in gate.slices.items():
        place = ("slices", name)
        if name in taken:
            problems.append((place, "a check's benchmark has the same name; give the slice another"))
        for role in sorted(one.roles):
            if role not in roles and not re.fullmatch(r"tuned:[a-z]{2,3}", role):
                known = ", ".join((*roles, "tuned:<language>"))
                problems.append((place, f"unknown reference {role}; known: {known}"))
        for benchmark in one.benchmarks:
            at = (*place, "benchmarks", benchmark)
            if _PLACEHOLDER in benchmark and _PLACEHOLDER not in name:
                problems.append((at, f"{_PLACEHOLDER} here, and not in the slice's name; put it in both"))
            if check_of(gate, benchmark) is None:
                wanted = " or ".join(POOLED_METRICS)
                problems.append((at, f"needs exactly one check of its own with metric {wanted}, with a wide max_drop"))
    return problems
