"""Power of differences without a table, against scipy's non-central t and against what resampling shows."""

import math

import pytest
from scipy import stats

from tasks.domain.models import Item
from tasks.domain.statistics import Difference, paired_contrast, paired_difference
from tasks.domain.statistics_power import detectable_of, items_needed_of, power_of, scaled


def normal(n: int, *, clusters: int = 0) -> Difference:
    """A record whose differences are normal, with a standard deviation of 1."""
    return Difference(0.0, 1 / math.sqrt(n), n, paired=False, clusters=clusters)


@pytest.mark.parametrize("n", [20, 60, 300])
@pytest.mark.parametrize("shift", [1.0, 2.5, 3.5])
def test_of_normal_differences_it_is_that_of_the_t_test(n: int, shift: float) -> None:
    exact = 1 - stats.nct.cdf(stats.t.ppf(0.95, n - 1), n - 1, shift)
    assert power_of(normal(n), n, shift / math.sqrt(n), 0.05) == pytest.approx(exact, abs=0.01)


def sums(losses: int, gains: int, n: int) -> Difference:
    """Sums of three models' marks: ``losses`` of -1, ``gains`` of .25, the rest 0."""
    values = [-1.0] * losses + [0.25] * gains + [0.0] * (n - losses - gains)
    items = [Item(item_id=str(k), value=value) for k, value in enumerate(values)]
    return paired_contrast([(1.0, items), (-0.5, [i.model_copy(update={"value": 0.0}) for i in items])])


def test_few_items_far_below_the_rest_cost_power() -> None:
    # Of sums like these `make calibration` sees .87 pass; of their spread alone .93 was stated.
    found = sums(16, 123, 300)
    assert found.kurtosis == pytest.approx(stats.kurtosis([-1.0] * 16 + [0.25] * 123 + [0.0] * 161, fisher=False))
    plain = found._replace(skew=0.0, kurtosis=3.0)
    assert power_of(plain, 300, found.mean, 0.05) - power_of(found, 300, found.mean, 0.05) > 0.05


def test_what_is_detectable_is_shown_with_that_chance_and_so_many_items_are_needed() -> None:
    record = sums(16, 123, 300)
    least = detectable_of(record, 200, 0.04, 0.8)
    assert power_of(record, 200, least, 0.04) == pytest.approx(0.8)
    needed = items_needed_of(record, least, 0.04, 0.8)
    assert needed == 200
    assert items_needed_of(record, 1e-6, 0.04, 0.8) is None


def test_items_on_record_are_counted_by_their_clusters() -> None:
    items = [Item(item_id=str(k), value=float(k % 7 < 3), cluster=f"p{k // 5}") for k in range(300)]
    none = [item.model_copy(update={"value": 0.0}) for item in items]
    record = paired_difference(items, none)
    more = scaled(record, 600)
    assert (record.clusters, more.clusters, more.degrees) == (60, 120, 119)
    assert more.stderr == pytest.approx(record.stderr / math.sqrt(2))
    assert more.skew == pytest.approx(record.skew / math.sqrt(2))


def test_one_item_shows_nothing_and_no_spread_shows_all() -> None:
    assert power_of(Difference(0.1, math.inf, 1, paired=True), 300, 0.1, 0.05) == 0
    assert power_of(Difference(0.1, 0.0, 40, paired=True), 40, 0.1, 0.05) == 1
    assert power_of(Difference(0.1, 0.0, 40, paired=True), 40, 0.0, 0.05) == 0
