"""Whether the items of a gate's pooled slices can carry their margins; as ``tasks.domain.lint`` for single checks."""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from tasks.domain.gate import Check, Gate
from tasks.domain.looks import ALPHA, cut_to
from tasks.domain.models import Score
from tasks.domain.slices import METRIC, Slice, checks_of
from tasks.domain.statistics_pooled import LEAST_UNITS, Stratum, detectable, power, stratum

if TYPE_CHECKING:
    from tasks.domain.lint import Carried, Trio

_MOST_TIMES = 64


def lint_slices(
    gate: Gate, items_of: Callable[[str], int], on_record: Callable[[Check], Sequence["Trio"]]
) -> list["Carried"]:
    """Every margin of the gate's slices, in order; the arguments as of ``lint``."""
    alpha = gate.sequential.levels[-1].to_pass if gate.sequential else ALPHA
    found = []
    for name, one in gate.slices.items():
        for role, margin in {**one.max_drop, **({"live": one.live_tolerance} if one.critical else {})}.items():
            found.append(_carried(gate, name, one, role, margin, items_of, on_record, alpha))
    return found


def _carried(
    gate: Gate,
    name: str,
    one: Slice,
    role: str,
    margin: float,
    items_of: Callable[[str], int],
    on_record: Callable[[Check], Sequence["Trio"]],
    alpha: float,
) -> "Carried":
    from tasks.domain.lint import CHANCE, Carried, Standing

    expected, is_assumed = [], False
    for check, chance in zip(checks_of(gate, one), one.benchmarks.values(), strict=True):
        if check is None:
            raise ValueError(f"slice {name}: a benchmark has no check; parse_gate refuses such a gate")
        seen = [found for trio in on_record(check) if (found := _seen(check, trio, role, chance)) is not None]
        is_assumed = is_assumed or not seen
        expected.append(_expected(items_of(check.benchmark), seen, chance))
    n, told = sum(s.n for s in expected), sum(s.won + s.lost for s in expected)
    units, few = min(s.units for s in expected), min(s.n for s in expected)
    least: float | None = None
    chance_to_pass: float | None = None
    needed: int | None = None
    standing: Standing = "refused"
    if few < one.min_items or units < LEAST_UNITS:
        why = f"a benchmark has {few} items in {units} units; {max(one.min_items, LEAST_UNITS)} items and"
        why += f" {LEAST_UNITS} units of each are needed: nothing would be decided"
    else:
        least, chance_to_pass = detectable(expected, alpha, CHANCE), power(expected, margin, alpha)
        why = f"an equal model passes with a chance of {chance_to_pass:.0%}"
        is_stated = not is_assumed and (role != "live" or "live_tolerance" in one.model_fields_set)
        is_refused = chance_to_pass < CHANCE and is_stated
        standing = "refused" if is_refused else "weak" if margin < 1.3 * least else "ok"
        if chance_to_pass < CHANCE:
            needed = _needed(expected, margin, alpha, CHANCE)
            why += f"; {needed} items or a margin of {least:.3g} would do" if needed else ""
    values = (margin, n, told / n, is_assumed, least, chance_to_pass, needed)
    return Carried(name, name, METRIC, role, *values, standing, why)


def _seen(check: Check, trio: "Trio", role: str, chance: float) -> Stratum | None:
    theirs: Score | None = trio.live if role == "live" else trio.parents.get(check.parent(role, trio.parents))
    if trio.candidate is None or theirs is None:
        return None
    other = cut_to(theirs, trio.candidate)
    if {item.item_id for item in other.items} != {item.item_id for item in trio.candidate.items}:
        return None
    return stratum(trio.candidate.items, other.items, chance)


def _expected(n: int, seen: Sequence[Stratum], chance: float) -> Stratum:
    """What ``n`` items of two equally good models are like; disagreement as on record, else as assumed."""
    from tasks.domain.lint import ASSUMED_DISCORDANCE

    share = median((s.won + s.lost) / s.n for s in seen) if seen else ASSUMED_DISCORDANCE
    units = median(s.units / s.n for s in seen) if seen else 1.0
    effect = median(s.effect for s in seen) if seen else 1.0
    return Stratum(n * share / 2, n * share / 2, n, max(1, round(n * units)), effect, 1 / (1 - chance))


def _needed(expected: Sequence[Stratum], margin: float, alpha: float, chance: float) -> int | None:
    """Items in all, of every benchmark as many times more, that carry ``margin``; None if 64 times do not."""

    def times(factor: float) -> list[Stratum]:
        return [
            s._replace(
                won=s.won * factor, lost=s.lost * factor, n=round(s.n * factor), units=max(1, round(s.units * factor))
            )
            for s in expected
        ]

    low, high = 1.0, float(_MOST_TIMES)
    if margin <= 0 or power(times(high), margin, alpha) < chance:
        return None
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if power(times(middle), margin, alpha) >= chance else (middle, high)
    return sum(s.n for s in times(high))
