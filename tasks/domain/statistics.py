"""The statistics of a gate: paired differences, their bounds, intervals. Pure; standard library only.

Two models answer the same items, so what counts is the difference on each item: the variance that the items themselves
bring cancels. A score is ``sum(value) / sum(weight)``, which is a mean for right/wrong items (weight 1) and a ratio for
bits per byte (weight = bytes); one linearised formula serves both. Items of one passage or exam are right or wrong
together: where items name a cluster, residuals are added up by cluster before they are squared, and clusters are
counted instead of items (Miller 2024, arXiv 2411.00640). Differences of two models on right/wrong items without
clusters are judged from their table (``tasks.domain.statistics_paired``): exactly below 300 items. Here and not in
``tasks.harness``, since the gate (``tasks.domain.gate``) may import nothing but the domain.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple

from tasks.domain import statistics_paired as tables
from tasks.domain.models import Item, Score


class Difference(NamedTuple):
    """An estimated difference between two scores, with its uncertainty."""

    mean: float
    stderr: float
    n: int
    """Items behind it; the smaller of the two counts where items are not paired."""
    paired: bool

    clusters: int = 0
    """Clusters that the items fall into; 0 where each stands for itself."""
    table: tuple[int, int] | None = None
    """Items that only ours, and only theirs, has right; None where that does not say it all."""
    skew: float = 0.0
    """Skewness of the items' (or clusters') differences, over the root of their number."""
    kurtosis: float = 3.0
    """Of the same differences: 3 for normal ones, more where a few are far out. No bound uses it, power does."""

    @property
    def in_stderrs(self) -> float:
        """The difference in standard errors of its own; 0 where nothing differs at all."""
        if self.mean == 0:
            return 0.0
        return self.mean / self.stderr if self.stderr else math.copysign(math.inf, self.mean)

    @property
    def degrees(self) -> int:
        """Degrees of freedom of ``stderr``."""
        return (self.clusters or self.n) - 1

    def lower(self, confidence: float = 0.95, at: float = 0.0) -> float:
        """One-sided lower bound; ``at`` is the limit that it will be compared with, at which exact tests are exact."""
        if self.table is not None:
            return tables.bound(*self.table, self.n, tables.critical(self.n, at, 1 - confidence))
        if confidence >= 1 or not math.isfinite(self.stderr):
            return -math.inf
        return self.mean - self.wide(confidence) * self.stderr

    def upper(self, confidence: float = 0.95, at: float = 0.0) -> float:
        """One-sided upper bound; ``at`` as for ``lower``."""
        mirrored = self.mirrored()
        return -mirrored.lower(confidence, -at)

    def wide(self, confidence: float) -> float:
        """How many standard errors a one-sided lower bound is below the mean, where there is no table.

        Student's, corrected for skewness by Hall's transformation (J. R. Stat. Soc. B 54, 1992, p. 221), and wider by 2
        in ``n``, as a jackknife would make it: without that 50 texts passed .057 of models at the margin, and without
        Hall's correction 60 sums of three marks passed .095.
        """
        wide = hall(quantile(confidence, self.degrees), self.skew)
        if self.paired and self.degrees > 1:
            wide *= (self.degrees + 1) / (self.degrees - 1)
        return wide

    def mirrored(self) -> "Difference":
        """The same difference, seen from the other side."""
        turned = self.table and (self.table[1], self.table[0])
        return self._replace(mean=-self.mean, table=turned, skew=-self.skew)

    def standard(self, limit: float) -> float:
        """How far above ``limit`` the difference is, as a standard normal value if it is ``limit`` in truth."""
        if self.table is not None:
            return tables.score(*self.table, self.n, limit)
        return self._replace(mean=self.mean - limit).in_stderrs


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    low: float
    high: float


def is_binary(items: Sequence[Item]) -> bool:
    """Whether all items are right (1) or wrong (0), each counting once."""
    return all(i.value in (0.0, 1.0) and i.weight == 1.0 for i in items)


def mean_and_stderr(items: Sequence[Item]) -> tuple[float, float]:
    """The score over ``items`` and its standard error.

    Right/wrong: ``sqrt(p(1-p)/n)``. Else the ratio estimator's, with n-1 below the line. Clustered where items are.

    Raises:
        ValueError: if there are no items, or their weights do not add up to more than 0.
    """
    total = math.fsum(i.weight for i in items)
    if total <= 0:
        raise ValueError(f"{len(items)} items of total weight {total}: a score needs at least one item with weight")
    mean = math.fsum(i.value for i in items) / total
    residuals = [i.value - mean * i.weight for i in items]
    groups = _by_cluster(residuals, items)
    if groups is not None:
        return mean, _ratio_stderr(groups, total, binary=False)
    return mean, _ratio_stderr(residuals, total, binary=is_binary(items))


def paired_difference(ours: Sequence[Item], theirs: Sequence[Item]) -> Difference:
    """``ours - theirs`` over the same items, in any order.

    Right/wrong: stderr ``sqrt((p10 + p01 - (p01 - p10)^2) / n)`` with p10, p01 the shares of items that only one of the
    two has right. Bits per byte: byte-weighted, ``sqrt(n/(n-1) * sum(r^2)) / bytes`` over residuals
    ``r = difference in bits - mean * bytes``.

    Raises:
        ValueError: as ``paired_contrast``.
    """
    return paired_contrast([(1.0, ours), (-1.0, theirs)])


def paired_contrast(terms: Sequence[tuple[float, Sequence[Item]]]) -> Difference:
    """``sum(factor * score)`` over the same items, as in ``candidate - (1 - s) * instruct - s * tuned``.

    The sum is taken item by item before its spread is, so what the items themselves bring cancels.

    Raises:
        ValueError: if the item ids differ, an id occurs twice, or an item weighs differently on two sides.
    """
    sides = [(factor, {i.item_id: i for i in items}) for factor, items in terms]
    if any(len(side) != len(items) for (_, side), (_, items) in zip(sides, terms, strict=True)):
        raise ValueError("an item id occurs twice: items cannot be paired")
    first = sides[0][1]
    for _, other in sides[1:]:
        if first.keys() != other.keys():
            only = sorted(first.keys() ^ other.keys())
            raise ValueError(f"{len(only)} item ids are on one side only, the first being {only[0]!r}")
        heavier = [key for key, item in first.items() if item.weight != other[key].weight]
        if heavier:
            raise ValueError(f"{len(heavier)} items weigh differently on the two sides, the first being {heavier[0]!r}")
    total = math.fsum(i.weight for i in first.values())
    if total <= 0:
        raise ValueError(f"{len(first)} items of total weight {total}: nothing to compare")
    deltas = [(math.fsum(f * side[key].value for f, side in sides), item.weight) for key, item in first.items()]
    mean = math.fsum(d for d, _ in deltas) / total
    is_pair = all(is_binary(items) for _, items in terms) and [factor for factor, _ in terms] == [1.0, -1.0]
    residuals = [d - mean * w for d, w in deltas]
    groups = _by_cluster(residuals, first.values())
    if groups is not None:
        stderr = _ratio_stderr(groups, total, binary=False)
        return Difference(mean, stderr, len(first), True, len(groups), skew=skewness(groups), kurtosis=kurtosis(groups))
    if is_pair:
        table = (sum(d > 0.5 for d, _ in deltas), sum(d < -0.5 for d, _ in deltas))
        return Difference(mean, _ratio_stderr(residuals, total, binary=True), len(first), True, table=table)
    stderr = _ratio_stderr(residuals, total, binary=False)
    return Difference(mean, stderr, len(first), True, skew=skewness(residuals), kurtosis=kurtosis(residuals))


def hall(wide: float, skew: float) -> float:
    """A quantile of a standardised mean, corrected for its skew by Hall's transformation; wider for a skew < 0."""
    if abs(skew) <= 1e-6:
        return wide
    root = 1 + skew * (wide - skew / 6)
    return 3 / skew * (math.copysign(abs(root) ** (1 / 3), root) - 1)


def skewness(residuals: Sequence[float]) -> float:
    """Of values whose mean is 0, over the root of their number: what a mean of them is skewed by; 0 where all are 0."""
    n, squares = len(residuals), math.fsum(r * r for r in residuals)
    if squares <= 0:
        return 0.0
    return float(math.fsum(r**3 for r in residuals) / n / (squares / n) ** 1.5 / math.sqrt(n))


def kurtosis(residuals: Sequence[float]) -> float:
    """Of values whose mean is 0: 3 for normal ones, and where all are 0."""
    n, squares = len(residuals), math.fsum(r * r for r in residuals)
    return float(math.fsum(r**4 for r in residuals) / n / (squares / n) ** 2) if squares > 0 else 3.0


def _by_cluster(residuals: Sequence[float], items: Iterable[Item]) -> list[float] | None:
    """Residuals added up by cluster; None where every item stands for itself."""
    sums: dict[tuple[str, str], float] = {}
    for residual, item in zip(residuals, items, strict=True):
        key = ("cluster", item.cluster) if item.cluster else ("item", item.item_id)
        sums[key] = sums.get(key, 0.0) + residual
    return list(sums.values()) if len(sums) < len(residuals) else None


def unpaired_difference(ours: Score, theirs: Score) -> Difference:
    """``ours - theirs`` where the items of one side are not stored: variances add up, so the interval is wider."""
    return unpaired_contrast([(1.0, ours), (-1.0, theirs)])


def unpaired_contrast(terms: Sequence[tuple[float, Score]]) -> Difference:
    """``paired_contrast`` without items."""
    mean = math.fsum(factor * score.value for factor, score in terms)
    stderr = math.hypot(*(factor * score.stderr for factor, score in terms))
    return Difference(mean, stderr, min(score.n for _, score in terms), paired=False)


def _ratio_stderr(residuals: Sequence[float], total_weight: float, *, binary: bool) -> float:
    n = len(residuals)
    # One item tells nothing about its spread: inf keeps a gate from passing on it, 0 would let it.
    if n < 2:
        return math.inf
    correction = 1.0 if binary else n / (n - 1)
    return math.sqrt(correction * math.fsum(r * r for r in residuals)) / total_weight


def quantile(probability: float, degrees: int) -> float:
    """Student's t quantile, by Abramowitz and Stegun 26.7.5; within 0.0001 of scipy from 8 degrees of freedom on.

    Below 8 the series is too short, so half the tail is taken: wider than the truth, never narrower. One degree is the
    Cauchy distribution, which has a closed form.
    """
    if degrees <= 1:
        return math.tan(math.pi * (probability - 0.5))
    z: float = NormalDist().inv_cdf(probability if degrees >= 8 else 1 - (1 - probability) / 2)
    v = float(max(degrees, 3))
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return float(z + g1 / v + g2 / v**2 + g3 / v**3 + g4 / v**4)


def mcnemar_exact(only_ours: int, only_theirs: int) -> float:
    """Two-sided exact p-value that two models are equally often right, from the counts of discordant items."""
    n = only_ours + only_theirs
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(only_ours, only_theirs) + 1))
    return min(1.0, 2 * tail / (1 << n))


def discordant(ours: Sequence[Item], theirs: Sequence[Item]) -> tuple[int, int]:
    """How many items only ours, and only theirs, has right: the input of ``mcnemar_exact``."""
    other = {i.item_id: i.value for i in theirs}
    return (
        sum(1 for i in ours if i.value > other[i.item_id]),
        sum(1 for i in ours if i.value < other[i.item_id]),
    )


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Two-sided Wilson score interval of a share; unlike the normal one it holds near 0 and 1 and for small n."""
    if n <= 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))
