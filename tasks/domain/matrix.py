"""A verdict as a matrix: languages by capabilities, and in each cell the differences to every reference.

Nothing is decided here. Differences and their bounds are those of the gate (``tasks.domain.findings``).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from tasks.domain.evidence import Evidence, interval, mark, score_of
from tasks.domain.findings import compare
from tasks.domain.gate import Check
from tasks.domain.models import Noun
from tasks.domain.statistics import Interval
from tasks.domain.verdict import Verdict

LIVE = "live"
FAR = 100.0
"""Stands for a bound that one item alone leaves open: JSON knows no infinity."""


class Against(Noun):
    """A candidate's difference to one reference on one slice; positive is better, whatever the metric's direction."""

    role: str
    theirs: float
    """The reference's score, on the items that the candidate was asked too."""
    gain: float
    low: float
    """One-sided 95 % bounds, as the gate uses them."""
    high: float
    paired: bool
    limit: float | None = None
    """The least difference that the gate lets through; None where it limits none against this reference."""

    @property
    def word(self) -> str:
        """What the bounds allow to be said."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


class Cell(NamedTuple):
    """One check of the gate."""

    language: str
    capability: str
    check: Check
    score: float | None
    interval: Interval | None
    """Two-sided 95 %."""
    n: int
    end: str
    """``pass``, ``FAIL``, ``undecided`` or ``not gated``."""
    against: tuple[Against, ...]
    """Instruct first, then tuned parents by name, other references, and the live model last."""


def language_of(check: Check) -> str:
    """The language that a check is about: as stated, else the prefix of its benchmark, else ``all``."""
    prefix = re.match(r"([a-z]{2,3})_", check.benchmark)
    return check.language or (prefix[1] if prefix else "all")


def capability_of(check: Check) -> str:
    """What a check is about: as stated, else its benchmark without language and length."""
    named = check.benchmark.removeprefix(f"{language_of(check)}_").removesuffix("_short")
    return check.capability or named


def cells(verdict: Verdict, evidence: Evidence) -> tuple[Cell, ...]:
    """Every check of the gate, by language and then in the gate's order; the languages in the gate's order too."""
    rows = {(row.benchmark, row.metric): row for row in verdict.rows}
    found = []
    for check in evidence.gate.checks:
        score, row = score_of(evidence.candidate, check), rows.get((check.benchmark, check.metric))
        found.append(
            Cell(
                language=language_of(check),
                capability=capability_of(check),
                check=check,
                score=score.value if score else None,
                interval=interval(score) if score else None,
                n=score.n if score else 0,
                end=mark(row) if row else "not gated",
                against=_against(check, evidence),
            )
        )
    order = list(dict.fromkeys(cell.language for cell in found))
    return tuple(sorted(found, key=lambda cell: order.index(cell.language)))


def references(found: tuple[Cell, ...]) -> tuple[str, ...]:
    """The columns of references that any cell is compared with, in the order in which they are shown.

    Where no slice has more than one tuned parent, that of its own language, one column ``tuned`` serves all of them.
    """
    roles = {one.role for cell in found for one in cell.against}
    if all(sum(one.role.startswith("tuned:") for one in cell.against) < 2 for cell in found):
        roles = {"tuned" if role.startswith("tuned:") else role for role in roles}
    return tuple(sorted(roles, key=_place))


def at(cell: Cell, column: str) -> Against | None:
    """What a cell has in one column of ``references``."""
    exact = next((one for one in cell.against if one.role == column), None)
    if exact is not None or column != "tuned":
        return exact
    return next((one for one in cell.against if one.role.startswith("tuned:")), None)


def grid(found: tuple[Cell, ...]) -> tuple[tuple[str, ...], tuple[str, ...], Mapping[tuple[str, str], list[Cell]]]:
    """Languages, capabilities, and the cells of each pair that has some."""
    by_place: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        by_place.setdefault((cell.language, cell.capability), []).append(cell)
    languages = tuple(dict.fromkeys(cell.language for cell in found))
    return languages, tuple(dict.fromkeys(cell.capability for cell in found)), by_place


def _against(check: Check, evidence: Evidence) -> tuple[Against, ...]:
    ours = score_of(evidence.candidate, check)
    others = {**evidence.parents, **({LIVE: evidence.live} if evidence.live else {})}
    limits = {check.parent(role, others): -drop for role, drop in check.max_drop.items()}
    limits |= {check.parent(role, others): gain for role, gain in check.min_gain.items()}
    limits |= {LIVE: -check.tolerance} if check.critical else {}
    found = []
    for role in sorted(others, key=_place):
        theirs = score_of(others[role], check)
        if ours is None or theirs is None:
            continue
        gain = compare(check, ours, theirs)
        before = ours.value - gain.mean if check.higher_is_better else ours.value + gain.mean
        told = {"role": role, "theirs": before, "gain": gain.mean, "paired": gain.paired}
        told["limit"] = limits.get(role)
        found.append(Against(**told, low=max(gain.lower(), -FAR), high=min(gain.upper(), FAR)))
    return tuple(found)


def _place(role: str) -> tuple[int, str]:
    return (0 if role == "instruct" else 1 if role.startswith("tuned") else 3 if role == LIVE else 2, role)
