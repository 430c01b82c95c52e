"""The macro mean of several benchmarks' paired differences: each benchmark weighs the same, each item what is left.

A benchmark's difference is chance-adjusted, ``(won - lost) / n / (1 - chance)``: 0 is a guesser's, 1 a perfect model's,
so benchmarks with two and with four choices can be added up. Benchmarks are strata: independent, and their variances
add. No exact test exists for such a mean. Used is the score test of stratified shares (Miettinen and Nurminen,
Statistics in Medicine 4, 1985, p. 213) with Tango's variance for pairs (17, 1998, p. 891) in each stratum: the variance
as it would be if the mean were the limit, every stratum moved by the same adjusted amount. It is never below that with
half an item added to each cell (Agresti and Min, Statistics in Medicine 24, 2005, p. 729), so equal answers have no
interval of width 0. Degrees of freedom: Satterthwaite, Biometrics Bulletin 2, 1946, p. 110.

The half items alone, without the variance at the limit, passed up to .064 of models at the margin in 3 x 60 and .087
in 2 x 100; both together never above .055 (``tests/domain/test_statistics_pooled.py``).

Items of one cluster are right or wrong together, in four places: the variance is multiplied by the design effect; the
half items weigh as much as the effect; the variance is never below that of whole clusters that are lost at the limit's
rate, since of 50 clusters one that all is lost in may not be among the drawn ones; and the quantile is widened for a
skew to the worse side by Hall's transformation (J. R. Stat. Soc. B 54, 1992, p. 221). Clusters of unlike sizes count
as Kish's ``n^2 / sum(size^2)``. The design effect alone passed up to .17 of models at the margin (BENCHMARKS.md).
Standard library only.
"""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from tasks.domain.models import Item
from tasks.domain.statistics import discordant, hall, is_binary, paired_difference, quantile
from tasks.domain.statistics_paired import least_share

LEAST_UNITS = 30
"""Items, or clusters, of each benchmark without which nothing is decided; simulated from 30 on."""
_HALF = 0.5


class Stratum(NamedTuple):
    """Two models on one benchmark."""

    won: float
    """Items that only ours has right."""
    lost: float
    """Items that only theirs has right."""
    n: int
    units: int
    """Clusters, as many as ones of like size would be; items where each stands for itself."""
    effect: float = 1.0
    """Variance of the difference over what it would be without clusters; at least 1."""
    scale: float = 1.0
    """``1 / (1 - chance)``."""
    third: float = 0.0
    """Third central moment of ``(won - lost) / n`` that the clusters show; 0 without clusters."""

    @property
    def mean(self) -> float:
        """The difference, chance-adjusted."""
        return self.scale * (self.won - self.lost) / self.n

    def variance(self, by: float) -> float:
        """Of ``mean``, if the truth were the observed one moved ``by`` a chance-adjusted amount."""
        true = min(1.0, max(-1.0, (self.won - self.lost) / self.n + by / self.scale))
        won, lost = (self.lost, self.won) if true > 0 else (self.won, self.lost)
        margin, half = abs(true), _HALF * self.effect
        n = self.n + 4 * half
        at_limit = (2 * least_share(won, lost, self.n, margin) + margin * (1 - margin)) / self.n
        smoothed = ((won + lost + 2 * half) / n - ((won - lost) / n) ** 2) / n
        whole = margin * (1 - margin) / self.units
        return self.scale**2 * max(self.effect * at_limit, self.effect * smoothed, whole)

    @property
    def turned(self) -> "Stratum":
        """The other model against this one."""
        return self._replace(won=self.lost, lost=self.won, third=-self.third)


class Pooled(NamedTuple):
    """A macro mean of differences; used as ``tasks.domain.statistics.Difference`` is. Positive is better."""

    strata: tuple[Stratum, ...]

    @property
    def mean(self) -> float:
        """Chance-adjusted, each stratum weighing the same."""
        return math.fsum(one.mean for one in self.strata) / len(self.strata)

    @property
    def n(self) -> int:
        """Items of all strata."""
        return sum(one.n for one in self.strata)

    @property
    def clusters(self) -> int:
        """Units of the stratum that has fewest."""
        return min(one.units for one in self.strata)

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the stratum that has fewest."""
        return self.clusters - 1

    @property
    def table(self) -> None:
        """No table says it all."""
        return

    def standard(self, limit: float) -> float:
        """How far above ``limit`` the mean is, as a standard normal value if it is ``limit`` in truth."""
        return (self.mean - limit) / math.sqrt(self._variance(limit)[0])

    def lower(self, confidence: float = 0.95, at: float = 0.0) -> float:
        """One-sided lower bound; no limit is treated apart, so ``at`` changes nothing."""
        mean, low = self.mean, -math.fsum(one.scale for one in self.strata) / len(self.strata)
        if confidence >= 1 or self.clusters < 2 or not self._is_above(low, confidence):
            return -math.inf
        high = mean
        for _ in range(48):
            middle = (low + high) / 2
            low, high = (middle, high) if self._is_above(middle, confidence) else (low, middle)
        return low

    def upper(self, confidence: float = 0.95, at: float = 0.0) -> float:
        """One-sided upper bound; ``at`` as for ``lower``."""
        return -Pooled(tuple(one.turned for one in self.strata)).lower(confidence, -at)

    def _is_above(self, limit: float, confidence: float) -> bool:
        variance, degrees = self._variance(limit)
        third = math.fsum((one.scale / len(self.strata)) ** 3 * one.third for one in self.strata)
        # A skew to the better side would make the bound narrower, on the word of few clusters: not believed.
        wide = hall(quantile(confidence, degrees), min(0.0, third / variance**1.5))
        return (self.mean - limit) / math.sqrt(variance) > wide

    def _variance(self, limit: float) -> tuple[float, int]:
        """Of the mean if it were ``limit``, and its degrees of freedom after Satterthwaite."""
        by, count = limit - self.mean, len(self.strata)
        parts = [one.variance(by) / count**2 for one in self.strata]
        below = math.fsum(part**2 / max(one.units - 1, 1) for part, one in zip(parts, self.strata, strict=True))
        total = math.fsum(parts)
        return total, int(total**2 / below)


def stratum(ours: Sequence[Item], theirs: Sequence[Item], chance: float) -> Stratum | None:
    """Two models on the same right/wrong items of one benchmark; None where items are not stored or not right/wrong.

    Raises:
        ValueError: if the item ids differ, an id occurs twice, or chance is not from 0 to below 1.
    """
    if not 0 <= chance < 1:
        raise ValueError(f"chance {chance:g}: expected a share from 0 to below 1")
    if not ours or not theirs or not is_binary(ours) or not is_binary(theirs):
        return None
    found, (won, lost) = paired_difference(ours, theirs), discordant(ours, theirs)
    alone = ((won + lost) / found.n - ((won - lost) / found.n) ** 2) / found.n
    effect = max(1.0, found.stderr**2 / alone) if found.clusters and alone > 0 else 1.0
    if found.clusters and alone <= 0:  # nothing differs, so nothing tells how alike a cluster's items are
        effect = found.n / _like_sized(ours)
    third = found.skew * found.stderr**3 if found.clusters else 0.0
    return Stratum(won, lost, found.n, _like_sized(ours), effect, 1 / (1 - chance), third)


def _like_sized(items: Sequence[Item]) -> int:
    """Kish's number of clusters: as many of like size would say as much."""
    sizes = Counter(("cluster", one.cluster) if one.cluster else ("item", one.item_id) for one in items)
    return max(1, int(len(items) ** 2 / sum(size**2 for size in sizes.values())))


def power(strata: Sequence[Stratum], margin: float, alpha: float) -> float:
    """The chance that items like these rule out a drop of ``margin`` (chance-adjusted) if the models are equally good.

    Args:
        strata: expected tables, ``won`` and ``lost`` alike.
        margin: chance-adjusted, >= 0.
        alpha: one-sided error.
    """
    like = Pooled(tuple(strata))
    variance, degrees = like._variance(-margin)
    truth = math.fsum(s.effect * s.scale**2 * max(s.won + s.lost, _HALF) / s.n**2 for s in strata) / len(strata) ** 2
    return NormalDist().cdf((margin - quantile(1 - alpha, degrees) * math.sqrt(variance)) / math.sqrt(truth))


def detectable(strata: Sequence[Stratum], alpha: float, chance: float) -> float:
    """The smallest chance-adjusted drop that items like these rule out with ``chance``, to .001; 1.0 if none is."""
    low, high = 0, 1000
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(strata, middle / 1000, alpha) >= chance else (middle, high)
    return high / 1000
