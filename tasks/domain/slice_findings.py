"""What is found about one pooled slice: each of its limits looked at, in a sentence with numbers.

A benchmark of which a score is missing fails the slice; one whose answers are not stored item by item leaves it
undecided. Missing is never a pass.
"""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from tasks.domain.findings import Finding, judged
from tasks.domain.gate import Check, Gate
from tasks.domain.looks import WHOLE, Levels, cut_to
from tasks.domain.models import Evaluation, Score
from tasks.domain.slices import Slice, checks_of
from tasks.domain.statistics_pooled import Pooled, Stratum, stratum


class Judged(NamedTuple):
    """A slice, looked at: what a row of the verdict tells."""

    score: float | None
    """Macro mean of the chance-adjusted scores; None if a benchmark is unscored."""
    stderr: float | None
    n: int
    """Items of all benchmarks."""
    parents: dict[str, float | None]
    live: float | None
    findings: tuple[Finding, ...]


def look_at(
    gate: Gate,
    pooled: Slice,
    candidate: Evaluation,
    parents: Mapping[str, Evaluation],
    live: Evaluation | None,
    levels: Levels = WHOLE,
) -> Judged:
    """Each limit of ``pooled`` at one look; the arguments as of ``tasks.domain.verdict.judge``."""
    ours = {name: _score(candidate, check) for name, check in _checks(gate, pooled)}
    scale = math.fsum((s.stderr / (1 - pooled.benchmarks[name])) ** 2 for name, s in ours.items() if s is not None)
    return Judged(
        score=_macro(pooled, ours),
        stderr=math.sqrt(scale) / len(ours) if None not in ours.values() else None,
        n=sum(s.n for s in ours.values() if s is not None),
        parents={role: _macro(pooled, _theirs(gate, pooled, parents, role, ours)) for role in _roles(pooled, parents)},
        live=_macro(pooled, {name: _score(live, check) for name, check in _checks(gate, pooled)}),
        findings=tuple(_findings(gate, pooled, ours, parents, levels)),
    )


def against(gate: Gate, pooled: Slice, candidate: Evaluation, other: Evaluation) -> Pooled | str:
    """How much better ``candidate`` is than ``other``, or in words why that is not known."""
    ours = {name: _score(candidate, check) for name, check in _checks(gate, pooled)}
    theirs = {name: _score(other, check) for name, check in _checks(gate, pooled)}
    return _pool(pooled, ours, theirs)[0]


def _findings(
    gate: Gate, pooled: Slice, ours: Mapping[str, Score | None], parents: Mapping[str, Evaluation], levels: Levels
) -> list[Finding]:
    missing = [name for name, score in ours.items() if score is None or not math.isfinite(score.value)]
    if missing:
        return [Finding(False, f"the candidate is unscored on {', '.join(missing)}")]
    found = []
    asked = [(role, "drop", -drop) for role, drop in sorted(pooled.max_drop.items())]
    for role, what, limit in [*asked, *((role, "gain", gain) for role, gain in sorted(pooled.min_gain.items()))]:
        theirs = _theirs(gate, pooled, parents, role, ours)
        difference, is_missing = _pool(pooled, ours, theirs)
        if isinstance(difference, str):
            found.append(Finding(False if is_missing else None, f"{what} against {role}: {difference}"))
            continue
        said = f"{_told(pooled, difference, levels)} against {role}"
        above, given_up = judged(difference, limit, levels)
        found.append(Finding(above, f"{said}, {given_up or _words(what, limit, above)}"))
    few = [f"{name} ({s.n})" for name, s in ours.items() if s is not None and s.n < pooled.min_items]
    if levels.is_last and few:
        found.insert(0, Finding(None, f"{pooled.min_items} items of each are needed to decide, not {', '.join(few)}"))
    if pooled.tier == "advisory":
        return [Finding(True, f"advisory: {f.text}", gated=False) for f in found]
    return found


def _words(what: str, limit: float, above: bool | None) -> str:
    amount = f"a drop of {-limit:g}" if what == "drop" else f"a gain of more than {limit:g}"
    if above is None:
        return f"{amount} can be neither shown nor ruled out with these items"
    if what == "drop":
        return f"{amount} is {'ruled out' if above else 'exceeded'}"
    return f"{amount} is {'shown' if above else 'ruled out'}"


def _told(pooled: Slice, difference: Pooled, levels: Levels) -> str:
    """``mean of 3 +0.012, bounds -0.010 to +0.030 (95 and 99 %), eu_a +0.020, eu_b ..., n=300``; chance-adjusted."""
    low, high = difference.lower(1 - levels.to_pass), difference.upper(1 - levels.to_reject)
    sure = " and ".join(
        f"{100 * (1 - error):.4g}" for error in sorted({levels.to_pass, levels.to_reject}, reverse=True)
    )
    each = ", ".join(f"{name} {s.mean:+.3f}" for name, s in zip(pooled.benchmarks, difference.strata, strict=True))
    return (
        f"{difference.mean:+.3f} in the mean of {len(difference.strata)} ({sure} % bounds {low:+.3f} to {high:+.3f},"
        f" chance-adjusted, n={difference.n}: {each})"
    )


def _pool(
    pooled: Slice, ours: Mapping[str, Score | None], theirs: Mapping[str, Score | None]
) -> tuple[Pooled | str, bool]:
    """The difference or why there is none, and whether that is for a missing score."""
    strata: list[Stratum] = []
    for name, chance in pooled.benchmarks.items():
        mine, other = ours.get(name), theirs.get(name)
        if mine is None or other is None:
            return f"{name} is unscored for {'the candidate' if mine is None else 'the reference'}", True
        found = stratum(mine.items, cut_to(other, mine).items, chance)
        if found is None:
            return f"the items of {name} are not stored as right or wrong on both sides", False
        strata.append(found)
    return Pooled(tuple(strata)), False


def _theirs(
    gate: Gate, pooled: Slice, parents: Mapping[str, Evaluation], role: str, ours: Mapping[str, Score | None]
) -> dict[str, Score | None]:
    """Scores of a reference; ``tuned`` is that of each benchmark's own language. On the candidate's items."""
    found = {}
    for name, check in _checks(gate, pooled):
        score = _score(parents.get(check.parent(role, parents)), check) if check else None
        mine = ours.get(name)
        found[name] = cut_to(score, mine) if score is not None and mine is not None else score
    return found


def _checks(gate: Gate, pooled: Slice) -> list[tuple[str, Check | None]]:
    return list(zip(pooled.benchmarks, checks_of(gate, pooled), strict=True))


def _roles(pooled: Slice, parents: Collection[str]) -> list[str]:
    return sorted({*pooled.roles, *parents})


def _score(evaluation: Evaluation | None, check: Check | None) -> Score | None:
    if evaluation is None or check is None:
        return None
    named = (s for s in evaluation.scores if s.benchmark == check.benchmark and s.metric == check.metric)
    return next(named, None)


def _macro(pooled: Slice, scores: Mapping[str, Score | None]) -> float | None:
    values = [
        (score.value - pooled.benchmarks[name]) / (1 - pooled.benchmarks[name])
        for name, score in scores.items()
        if score is not None
    ]
    return math.fsum(values) / len(values) if values and len(values) == len(scores) else None
