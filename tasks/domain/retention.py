"""Retention: what share of a tuned parent's gain on the instruct parent a candidate kept, with the interval of a ratio.

    retention = (candidate - instruct) / (tuned - instruct)

Both parts are estimated from the same items, so the interval is Fieller's (J. R. Stat. Soc. B 16, 1954, p. 175): all
shares ``s`` at which ``candidate - instruct - s * (tuned - instruct)`` is not told from 0. That difference is taken
item by item and bounded as the gate bounds it (``tasks.domain.findings.kept_gain``), so the lower end is above a gate's
``keep_gain`` exactly where the gate says that it is met. An interval that took the parents' gain for a known number
would be too narrow: it is measured on the same few hundred items.
"""

from collections.abc import Callable
from typing import NamedTuple

from tasks.domain.findings import ENOUGH_APART, compare, kept_gain
from tasks.domain.gate import Check
from tasks.domain.models import Score

CONFIDENCE = 0.95
"""Of each end by itself, as a gate asks it."""
WIDEST = 50.0
"""Shares further from the estimate than this are not looked at: the end is then said to be unknown."""
_STEPS = 20
"""Of bisection: the ends are right to a millionth of the first bracket."""


class Retention(NamedTuple):
    """A share, 1.0 being all of the gain, and its one-sided 95 % bounds."""

    share: float
    low: float
    high: float


def retention(check: Check, candidate: Score, instruct: Score, tuned: Score) -> Retention | None:
    """What ``candidate`` kept; None where the parents are too close for a gain to be kept, or an end is unbounded."""
    apart = compare(check, tuned, instruct)
    if apart.in_stderrs < ENOUGH_APART:
        return None
    gain = kept_gain(check, 0.0, tuned, instruct, tuned).mean
    at_none = kept_gain(check, 0.0, candidate, instruct, tuned).mean
    at_all = kept_gain(check, 1.0, candidate, instruct, tuned).mean
    share = at_none / (at_none - at_all) if at_none != at_all else at_none / gain
    spread = max(abs(kept_gain(check, share, candidate, instruct, tuned).stderr / (at_none - at_all or gain)), 1e-6)

    def above(at: float) -> float:
        return kept_gain(check, at, candidate, instruct, tuned).lower(CONFIDENCE)

    def below(at: float) -> float:
        return kept_gain(check, at, candidate, instruct, tuned).upper(CONFIDENCE)

    low, high = _end(above, share, -spread), _end(below, share, spread)
    return None if low is None or high is None else Retention(share, low, high)


def _end(bound: Callable[[float], float], share: float, step: float) -> float | None:
    """Where ``bound`` changes its sign on the way from ``share`` by steps that grow; None if it never does."""
    inside, sign = share, 1 if step < 0 else -1
    while sign * bound(share + step) <= 0:
        inside, step = share + step, 2 * step
        if abs(step) > WIDEST:
            return None
    outside = share + step
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if sign * bound(middle) > 0 else (middle, outside)
    return (inside + outside) / 2
