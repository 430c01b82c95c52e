"""A/A: one model asked the same items twice, in other company. How far it differs from itself is noise. Pure.

Two runs of one model need not agree: batches of other sizes add numbers in another order, and a tie between two words
falls the other way. A gate compares models by items, so what a server does by itself looks like a difference between
them. So it is measured, once for each way of serving, and held against what the gate lets through: a server whose
answers change too often decides nothing, and neither does a margin that noise alone could cross.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from tasks.domain.examination import Examined
from tasks.domain.gate import Check, Gate
from tasks.domain.lineage import fingerprint
from tasks.domain.models import Digest, Evaluation, Item, Score
from tasks.domain.outputs import measured_facts

AGAIN = "again"
"""Metric under which the ledger keeps the differences; no gate knows it."""
REPEATED_ITEMS = 60
"""Of all benchmarks together; 60 answers show a server that changes one in ten with a chance of .73."""
REPEATED_REQUESTS = 70
"""The most that asking them takes; part of a gate's budget. More than the items, as each benchmark has one at least."""
MOST_FLIPS = 0.02
"""Share of right answers turned wrong, or the reverse, that is let through."""
LEVEL = 0.01
"""Of the test against it, so that one flip among 60 condemns no server: it takes five."""
NOISE = "noise:"
"""Begins the name of each check of a margin; the benchmark follows."""


def repeats_key(family: str, serving: Mapping[str, str], benchmark: str) -> Digest:
    """What the noise of a benchmark is looked up by: image, flags and device class, not the model that was asked."""
    return fingerprint(kind="repeats", family=family, serving=measured_facts(serving), benchmark=benchmark)


def share_of(items: Mapping[str, int], most: float) -> float:
    """The share of each benchmark's items that is asked again: ``REPEATED_ITEMS`` in all, and ``most`` at most."""
    return min(most, REPEATED_ITEMS / max(1, sum(items.values())))


def differences(first: Evaluation, again: Sequence[Score]) -> tuple[Score, ...]:
    """For each score of the second run how far each item is from the first: value in the metric's units, weight kept.

    Items that the first run lacks are left out; so is a score of which none is left.
    """
    before = {(s.benchmark, s.metric): {item.item_id: item.value for item in s.items} for s in first.scores}
    found = []
    for score in again:
        known = before.get((score.benchmark, score.metric), {})
        items = tuple(
            Item(item_id=item.item_id, value=abs(item.value - known[item.item_id]), weight=item.weight)
            for item in score.items
            if item.item_id in known
        )
        if items:
            name, mean = f"{score.benchmark}:{score.metric}", _total(items) / math.fsum(i.weight for i in items)
            more = {"stderr": 0.0, "n": len(items), "higher_is_better": False, "items": items}
            found.append(Score(benchmark=name, metric=AGAIN, value=mean, **more))
    return tuple(found)


def of_repeats(gate: Gate, found: Iterable[Score], items: Mapping[str, int]) -> tuple[Examined, ...]:
    """Whether the server repeats itself, and whether each margin of ``gate`` is twice what noise does to its benchmark.

    Args:
        gate: its checks that decide.
        found: ``differences``, of any model served so.
        items: how many the gate asks of each benchmark.
    """
    scores = {one.benchmark: one for one in found}
    checks = [(c, scores[name]) for c in gate.checks if c.decides and (name := f"{c.benchmark}:{c.metric}") in scores]
    if not checks:
        return ()
    shares = {score.benchmark: score for check, score in checks if check.higher_is_better}
    noise = {
        check.benchmark: _noise(check, deviation(score, items[check.benchmark]), score.n) for check, score in checks
    }
    return (*_flips(list(shares.values())), *(one for one in noise.values() if one is not None))


def held_to(gate: Gate, examined: Sequence[Examined]) -> tuple[Examined, ...]:
    """``examined`` with its margins as ``gate`` states them; it may have been found for another gate."""
    noise = {one.name.removeprefix(NOISE): one for one in examined if one.name.startswith(NOISE)}
    others = [one for one in examined if not one.name.startswith(NOISE)]
    decide = [check for check in gate.checks if check.decides and check.benchmark in noise]
    anew = {c.benchmark: _noise(c, noise[c.benchmark].value or 0.0, noise[c.benchmark].n) for c in decide}
    return (*others, *(one for one in anew.values() if one is not None))


def deviation(score: Score, n: int) -> float:
    """Standard deviation of a score of ``n`` items between two runs of one model, in the metric's units.

    The differences of single items have mean 0 if the runs are alike, so their mean square is the variance of one;
    that of a mean of n is its n-th part.
    """
    weight = math.fsum(item.weight for item in score.items) / len(score.items)
    square = math.fsum((item.value / weight) ** 2 for item in score.items) / len(score.items)
    return math.sqrt(square / n)


def _flips(shares: Sequence[Score]) -> tuple[Examined, ...]:
    values = [item.value / item.weight for score in shares for item in score.items]
    if not values:
        return ()
    n, k = len(values), sum(value > 0 for value in values)
    too_many = k > 0 and _tail_from(k, n) <= LEVEL
    why = (
        f"{k} of {n} answers changed when the same questions were asked again, at most {MOST_FLIPS:.0%} may: this"
        " server cannot be judged with. Serve it with batch-invariant kernels, or with fewer requests at a time"
    )
    told = {"value": k / n, "limit": MOST_FLIPS, "n": n, "reasons": (why,) if too_many else ()}
    return (Examined(name="repeats", stage="server", ok=None if too_many else True, **told),)


def _noise(check: Check, spread: float, n: int) -> Examined | None:
    """None for a check that allows no difference to anything."""
    margins = [value for value in (*check.max_drop.values(), *check.min_gain.values()) if value > 0]
    margins += [check.tolerance] if check.critical and check.tolerance > 0 else []
    if not margins:
        return None
    too_much = 2 * spread > min(margins)
    why = (
        f"its margin of {min(margins):g} is less than twice the {spread:.4f} by which one model's runs differ here;"
        " ask more items, or state a wider margin"
    )
    told = {"value": spread, "limit": min(margins) / 2, "n": n, "reasons": (why,) if too_much else ()}
    return Examined(name=f"{NOISE}{check.benchmark}", stage="server", ok=None if too_much else True, **told)


def _tail_from(k: int, n: int) -> float:
    """Chance of at least ``k`` flips of ``n``, each with ``MOST_FLIPS``."""
    return math.fsum(math.comb(n, i) * MOST_FLIPS**i * (1 - MOST_FLIPS) ** (n - i) for i in range(k, n + 1))


def _total(items: Sequence[Item]) -> float:
    return math.fsum(item.value for item in items)
