"""The gate's statistics against scipy and values worked out by hand."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tasks.domain.models import Item, Score
from tasks.domain.statistics import (
    discordant,
    mcnemar_exact,
    mean_and_stderr,
    paired_contrast,
    paired_difference,
    quantile,
    unpaired_contrast,
    unpaired_difference,
    wilson,
)


def marks(values: list[float]) -> list[Item]:
    return [Item(item_id=f"i{k}", value=v) for k, v in enumerate(values)]


def test_a_paired_difference_of_right_and_wrong_has_the_mcnemar_stderr() -> None:
    # 10 items: only ours right on 3, only theirs on 1. mean .2, se sqrt((.3 + .1 - .04) / 10)
    ours = marks([1, 1, 1, 0, 1, 1, 1, 0, 0, 0])
    theirs = marks([0, 0, 0, 1, 1, 1, 1, 0, 0, 0])
    found = paired_difference(ours, theirs)
    assert found.mean == pytest.approx(0.2)
    assert found.stderr == pytest.approx(math.sqrt((0.3 + 0.1 - 0.2**2) / 10))
    assert (found.n, found.paired) == (10, True)
    assert discordant(ours, theirs) == (3, 1)


def test_items_are_paired_by_id_and_not_by_place() -> None:
    ours, theirs = marks([1, 0, 1, 1]), marks([1, 0, 0, 1])
    assert paired_difference(ours, theirs[::-1]) == paired_difference(ours, theirs)


def gaps_of(rng: random.Random, count: int, symmetric: bool) -> tuple[list[float], list[float]]:
    gaps = [rng.gauss(0.1, 0.2) if symmetric else rng.expovariate(5.0) - 0.1 for _ in range(count // 2)]
    gaps += [0.2 - gap for gap in gaps] if symmetric else [rng.expovariate(5.0) - 0.1 for _ in gaps]
    ours = [rng.gauss(2.0, 0.4) for _ in gaps]
    return ours, [a - gap for a, gap in zip(ours, gaps, strict=True)]


def test_with_equal_weights_the_interval_of_numbers_is_that_of_a_paired_t_test_and_a_little_wider() -> None:
    ours, theirs = gaps_of(random.Random(1), 40, symmetric=True)
    found = paired_difference(marks(ours), marks(theirs))
    low = stats.ttest_rel(ours, theirs, alternative="greater").confidence_interval(0.95).low
    assert found.mean - found.lower() == pytest.approx((found.mean - low) * 40 / 38, abs=1e-5)


def test_skewed_differences_have_the_bound_of_halls_transformation() -> None:
    ours, theirs = gaps_of(random.Random(2), 40, symmetric=False)
    found = paired_difference(marks(ours), marks(theirs))
    skew = float(stats.skew([a - b for a, b in zip(ours, theirs, strict=True)]))
    assert found.skew == pytest.approx(skew / math.sqrt(40))
    studentised = (found.mean - found.lower()) / found.stderr * 38 / 40
    bent = studentised + skew / math.sqrt(40) * studentised**2 / 3 + skew**2 / 40 * studentised**3 / 27
    assert bent + skew / 6 / math.sqrt(40) == pytest.approx(stats.t.ppf(0.95, 39), abs=1e-3)


def test_a_contrast_of_three_is_that_of_its_sum_over_each_item() -> None:
    rng = random.Random(3)
    ours, one, two = ([rng.gauss(mean, 0.3) for _ in range(60)] for mean in (2.0, 1.0, 2.2))
    found = paired_contrast([(1.0, marks(ours)), (-0.25, marks(one)), (-0.75, marks(two)[::-1])])
    sums = [a - 0.25 * b - 0.75 * c for a, b, c in zip(ours, one, two, strict=True)]
    assert found.mean == pytest.approx(sum(sums) / 60)
    assert found.stderr == pytest.approx(stats.sem(sums))
    scores = [
        Score(benchmark="b", metric="acc", value=value, stderr=error, n=60)
        for value, error in ((2.0, 0.03), (1.0, 0.04), (2.2, 0.05))
    ]
    bare = unpaired_contrast(list(zip((1.0, -0.25, -0.75), scores, strict=True)))
    assert bare.mean == pytest.approx(2.0 - 0.25 - 1.65)
    assert bare.stderr == pytest.approx(math.sqrt(0.03**2 + 0.01**2 + 0.0375**2))


def test_a_difference_is_counted_in_standard_errors_of_its_own() -> None:
    assert paired_difference(marks([1, 1, 0, 0]), marks([1, 1, 0, 0])).in_stderrs == 0
    assert paired_difference(marks([2, 2, 2]), marks([1, 1, 1])).in_stderrs == math.inf
    assert paired_difference(marks([1, 0, 0, 0]), marks([0, 0, 0, 0])).in_stderrs == pytest.approx(
        0.25 / math.sqrt((0.25 - 0.0625) / 4)
    )


def test_bits_per_byte_weigh_long_texts_more() -> None:
    ours = [Item(item_id="a", value=200, weight=100), Item(item_id="b", value=30, weight=10)]
    theirs = [Item(item_id="a", value=100, weight=100), Item(item_id="b", value=30, weight=10)]
    assert mean_and_stderr(ours)[0] == pytest.approx(230 / 110)
    assert paired_difference(ours, theirs).mean == pytest.approx(100 / 110)


def test_a_constant_difference_per_byte_has_no_uncertainty() -> None:
    ours = [Item(item_id=str(k), value=2.0 * k, weight=k) for k in range(1, 9)]
    theirs = [Item(item_id=str(k), value=1.5 * k, weight=k) for k in range(1, 9)]
    found = paired_difference(ours, theirs)
    assert found.mean == pytest.approx(0.5)
    assert found.stderr == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ([Item(item_id="x", value=1)], "on one side only"),
        ([Item(item_id="i0", value=1, weight=2)], "weigh differently"),
        ([Item(item_id="i0", value=1), Item(item_id="i0", value=0)], "twice"),
    ],
)
def test_items_that_do_not_belong_together_are_not_paired(theirs: list[Item], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        paired_difference(marks([1]), theirs)


def test_one_item_decides_nothing() -> None:
    found = paired_difference(marks([1]), marks([0]))
    assert found.lower() == -1.0  # no difference of shares is lower
    assert found.upper() == 1.0
    bare = paired_difference([Item(item_id="i", value=0.5)], [Item(item_id="i", value=0.1)])
    assert (bare.lower(), bare.upper()) == (-math.inf, math.inf)


def test_unpaired_variances_add_up() -> None:
    ours = Score(benchmark="b", metric="acc", value=0.8, stderr=0.03, n=200)
    theirs = Score(benchmark="b", metric="acc", value=0.7, stderr=0.04, n=300)
    found = unpaired_difference(ours, theirs)
    assert (found.n, found.paired) == (200, False)
    assert found.stderr == pytest.approx(0.05)


@pytest.mark.parametrize("degrees", [8, 12, 29, 119, 299])
@pytest.mark.parametrize("probability", [0.95, 0.975, 0.99])
def test_the_t_quantile_is_that_of_scipy(degrees: int, probability: float) -> None:
    assert quantile(probability, degrees) == pytest.approx(stats.t.ppf(probability, degrees), abs=3e-4)


@pytest.mark.parametrize("degrees", range(1, 8))
def test_with_few_degrees_of_freedom_the_quantile_is_never_too_small(degrees: int) -> None:
    assert quantile(0.95, degrees) >= stats.t.ppf(0.95, degrees) - 1e-9


@settings(deadline=None)  # scipy is loaded by the first one
@given(st.integers(0, 40), st.integers(0, 40))
def test_exact_mcnemar_is_the_binomial_test_of_scipy(only_ours: int, only_theirs: int) -> None:
    n = only_ours + only_theirs
    expected = stats.binomtest(only_ours, n, 0.5).pvalue if n else 1.0
    assert mcnemar_exact(only_ours, only_theirs) == pytest.approx(expected)


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_is_that_of_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)
