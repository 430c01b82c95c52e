"""How likely a difference without a table of disagreements is shown: several models' marks, bits per byte, clusters.

Such a difference is shown when ``mean - wide * stderr`` is above its limit (``Difference.wide``), and mean, standard
error and the skewness in ``wide`` are of the same items. Where a few items are far below the rest (a candidate that is
wrong where its parents are right), samples with fewer of them have a higher mean and a smaller standard error at once,
and the others the reverse: the bound varies more than the mean alone. With ``g`` and ``k`` the skewness and kurtosis of
the differences of ``u`` items (or clusters), its variance over the mean's is

    1 - wide * g / sqrt(u) + wide^2 * (k - 1) / (4 * u) + (1 + 2 * wide^2) / 3 * (k - 3 - 1.5 * g^2) / u

The first three terms are of mean and standard error: the covariance of a mean and a variance is ``g * sd^3 / u``, the
variance of a variance ``(k - 1) * sd^4 / u``. The last is of the mean and Hall's correction, whose slope in
``g / sqrt(u)`` is ``-(1 + 2 * wide^2) / 6``; the covariance of a mean and a skewness is
``(k - 3 - 1.5 * g^2) * sd / u``. Without them, and without Hall's correction, .93 and .98 were stated of kept gains
that passed .87 and .82 of 20,000 simulated evaluations (``tests/calibration``). Standard library only.
"""

import math
from statistics import NormalDist

from tasks.domain.statistics import Difference

_MOST_FIFTIES = 20_000
_LEAST = 0.5
"""Of that variance: with a dozen items the last term, whose own remainder is left out, could make it negative."""


def power_of(record: Difference, n: int, margin: float, alpha: float) -> float:
    """The chance that ``n`` items like those of ``record`` show a true difference to be above a limit.

    Args:
        record: of the same models, or of such as they are; without a table.
        n: items.
        margin: how far the true difference is above the limit.
        alpha: one-sided error that the bound may make.
    """
    like = scaled(record, n)
    if not math.isfinite(like.stderr):
        return 0.0
    if like.stderr == 0:
        return float(margin > 0)
    wide = like.wide(1 - alpha)
    return NormalDist().cdf((margin / like.stderr - wide) / _spread(like, wide))


def detectable_of(record: Difference, n: int, alpha: float, chance: float) -> float:
    """The smallest margin that ``n`` items like those of ``record`` show with ``chance``."""
    like = scaled(record, n)
    if like.stderr == 0 or not math.isfinite(like.stderr):
        return like.stderr
    wide = like.wide(1 - alpha)
    return (wide + NormalDist().inv_cdf(chance) * _spread(like, wide)) * like.stderr


def items_needed_of(record: Difference, margin: float, alpha: float, chance: float) -> int | None:
    """How many items like those of ``record`` show a margin with ``chance``, in fifties; None if a million do not."""
    low, high = 1, _MOST_FIFTIES
    if power_of(record, 50 * high, margin, alpha) < chance:
        return None
    while low < high:
        middle = (low + high) // 2
        found = power_of(record, 50 * middle, margin, alpha) >= chance
        low, high = (low, middle) if found else (middle + 1, high)
    return 50 * low


def scaled(record: Difference, n: int) -> Difference:
    """What ``n`` items, in as many clusters each, would say of the same difference."""
    units = record.clusters or record.n
    clusters = max(1, round(record.clusters * n / record.n)) if record.clusters else 0
    root = math.sqrt(units / (clusters or n))
    return record._replace(
        stderr=record.stderr * math.sqrt(record.n / n), n=n, clusters=clusters, skew=record.skew * root
    )


def _spread(like: Difference, wide: float) -> float:
    """Standard deviation of the bound over that of the mean."""
    units, squared = like.degrees + 1, wide * wide
    heavy = like.kurtosis - 3 - 1.5 * like.skew**2 * units
    variance = 1 - wide * like.skew + (squared * (like.kurtosis - 1) / 4 + (1 + 2 * squared) / 3 * heavy) / units
    return math.sqrt(max(variance, _LEAST))
