"""Differences of two models on the same right/wrong items: the exact test against scipy's sums over all tables."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, xlogy
from scipy.stats import norm

from tasks.domain.models import Item
from tasks.domain.statistics import paired_difference
from tasks.domain.statistics_paired import bound, critical, detectable, items_needed, power, score

LIMITS = [-0.145, -0.03, 0.0, 0.05]


def chance_of_refusal(n: int, limit: float, threshold: float, won_share: float, lost_share: float) -> float:
    """The sum over all tables of ``n`` items whose score is ``threshold`` or more, by scipy."""
    refused = [(a, b) for a in range(n + 1) for b in range(n - a + 1) if score(a, b, n, limit) >= threshold]
    if not refused:
        return 0.0
    won, lost = np.array(refused).T
    same = n - won - lost
    ways = gammaln(n + 1) - gammaln(won + 1) - gammaln(lost + 1) - gammaln(same + 1)
    rest = max(1 - won_share - lost_share, 0.0)
    return float(np.exp(ways + xlogy(won, won_share) + xlogy(lost, lost_share) + xlogy(same, rest)).sum())


@pytest.mark.parametrize("n", [8, 30, 60])
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_at_the_limit_no_disagreement_is_refused_more_often_than_alpha(n: int, limit: float, alpha: float):
    threshold, margin = critical(n, limit, alpha), abs(limit)
    sizes = []
    for least in np.linspace(0, (1 - margin) / 2, 211):
        shares = (least + margin, least) if limit > 0 else (least, least + margin)
        sizes.append(chance_of_refusal(n, limit, threshold, *shares))
    assert max(sizes) <= alpha
    # And no level is wasted: half of it is used where there are tables enough to choose from.
    assert n < 30 or max(sizes) > alpha / 2


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 400), st.data())
def test_the_score_is_that_of_the_restricted_likelihood(n: int, data: st.DataObject):
    won = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - won))
    limit = data.draw(st.floats(-0.5, 0.5))
    margin = abs(limit)
    a, b = (won, lost) if limit <= 0 else (lost, won)
    shares = np.linspace(1e-9, (1 - margin) / 2 - 1e-9, 20_001)
    likelihood = xlogy(a, shares) + xlogy(b, shares + margin) + xlogy(n - a - b, 1 - 2 * shares - margin)
    best = shares[int(np.argmax(likelihood))]
    variance = 2 * best + margin - margin**2
    if variance * n > 1e-3:
        expected = (won - lost - n * limit) / math.sqrt(n * variance)
        assert score(won, lost, n, limit) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_without_a_limit_the_score_is_mcnemars():
    assert score(9, 4, 100) == pytest.approx((9 - 4) / math.sqrt(13))
    assert score(0, 0, 100) == 0


@pytest.mark.parametrize(("won", "lost", "n"), [(3, 9, 80), (0, 0, 40), (40, 12, 500), (0, 7, 30)])
def test_a_bound_is_where_the_score_meets_its_threshold(won: int, lost: int, n: int):
    found = bound(won, lost, n, 1.645)
    assert found < (won - lost) / n
    assert score(won, lost, n, found) == pytest.approx(1.645, abs=1e-6)


def test_equal_answers_rule_out_what_their_number_can_and_no_more():
    items = [Item(item_id=str(k), value=1.0) for k in range(300)]
    assert paired_difference(items, items).lower() == pytest.approx(-0.00894, abs=1e-5)
    few = items[:20]
    assert paired_difference(few, few).lower() < -0.1
    assert paired_difference(few, few).upper() > 0.1


def test_bounds_are_those_of_the_other_side_mirrored():
    ours = [Item(item_id=str(k), value=float(k % 3 > 0)) for k in range(90)]
    theirs = [Item(item_id=str(k), value=float(k % 5 > 0)) for k in range(90)]
    one, other = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert one.lower(at=-0.1) == pytest.approx(-other.upper(at=0.1))
    assert one.upper(0.99) == pytest.approx(-other.lower(0.99))


@pytest.mark.parametrize(("n", "gain"), [(30, 0.0), (80, 0.0), (80, -0.05)])
def test_exact_power_is_the_sum_over_all_tables(n: int, gain: float):
    won_share = (0.2 + gain) / 2
    expected = chance_of_refusal(n, -0.145, critical(n, -0.145, 0.05), won_share, 0.2 - won_share)
    assert power(n, 0.145, 0.2, gain=gain) == pytest.approx(expected, abs=1e-9)


def test_normal_power_is_near_the_published_figures():
    # Equal models that disagree on 12 %: 900 items and a margin of 2 points pass 53 %, 1,511 items 73 %, by Wald's variance.
    # The score's is that of the limit, and a little greater.
    assert power(900, 0.02, 0.12) == pytest.approx(0.53, abs=0.01)
    assert power(1511, 0.02, 0.12) == pytest.approx(0.72, abs=0.01)
    assert items_needed(0.02, 0.12, chance=0.9) == pytest.approx(2600, abs=60)


@pytest.mark.parametrize(("n", "discordance"), [(80, 0.12), (900, 0.12), (5169, 0.10)])
def test_the_detectable_drop_is_the_smallest_that_has_the_power(n: int, discordance: float):
    found = detectable(n, discordance)
    assert power(n, found, discordance) >= 0.8 > power(n, found - 0.001, discordance)
    normal = (norm.ppf(0.95) + norm.ppf(0.8)) * math.sqrt(discordance / n)
    assert normal - 0.001 <= found < 1.3 * normal


@pytest.mark.parametrize(("n", "limit", "alpha"), [(0, 0.0, 0.05), (10, -1.0, 0.05), (10, 0.0, 0.5)])
def test_what_has_no_meaning_is_refused(n: int, limit: float, alpha: float):
    with pytest.raises(ValueError, match=f"n {n}, limit {limit:g} and alpha {alpha:g}"):
        critical(n, limit, alpha)


def test_no_error_to_spend_refuses_nothing():
    assert critical(100, -0.1, 0.0) == math.inf
    assert bound(50, 0, 100, math.inf) == -1.0
