"""The pooled difference: its arithmetic, and how often it lets a model at the margin pass, by simulation."""

import math
from functools import partial

import numpy as np
import pytest

from tasks.domain.models import Item
from tasks.domain.statistics_pooled import Pooled, Stratum, detectable, power, stratum

EVALUATIONS = 6000
NOISE = 2.6 * math.sqrt(0.05 * 0.95 / EVALUATIONS)
"""2.6 standard errors of a simulated rate: one in 200 seeds exceeds it where the rate is what it should be."""


def items(values: list[int], cluster: int = 0) -> list[Item]:
    return [
        Item(item_id=f"i{k}", value=float(v), cluster=f"c{k // cluster}" if cluster else "")
        for k, v in enumerate(values)
    ]


def rate(n: int, drops: list[float], discordance: float, alpha: float, margin: float, chances: list[float]) -> float:
    """Share of simulated evaluations that rule out a drop of ``margin``."""
    rng, passed = np.random.default_rng(7), 0
    tables = []
    for drop in drops:
        share = max(discordance, drop)
        lost, won = (share + drop) / 2, (share - drop) / 2
        tables.append(rng.multinomial(n, [won, lost, 1 - won - lost], EVALUATIONS)[:, :2])
    counts: dict[tuple[int, ...], int] = {}
    for row in np.concatenate(tables, axis=1).tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    make = partial(Stratum, n=n, units=n)
    for row, count in counts.items():
        pairs = zip(row[::2], row[1::2], chances, strict=True)
        found = Pooled(tuple(make(won, lost, scale=1 / (1 - c)) for won, lost, c in pairs))
        passed += count * found._is_above(-margin, 1 - alpha)
    return passed / EVALUATIONS


@pytest.mark.parametrize(("tasks", "n"), [(3, 30), (3, 60), (5, 200)])
@pytest.mark.parametrize(
    ("discordance", "drop"), [(0.02, 0.01), (0.02, 0.02), (0.1, 0.05), (0.1, 0.1), (0.3, 0.03), (0.3, 0.15)]
)
@pytest.mark.parametrize("where", ["in all", "in one"])
def test_a_model_at_the_margin_passes_no_more_often_than_it_may(
    tasks: int, n: int, discordance: float, drop: float, where: str
) -> None:
    drops = [drop] * tasks if where == "in all" else [min(0.9, drop * tasks), *[0.0] * (tasks - 1)]
    chances = [0.25, 0.5, 0.25, 1 / 3, 0.0][:tasks]
    margin = math.fsum(d / (1 - c) for d, c in zip(drops, chances, strict=True)) / tasks
    assert rate(n, drops, discordance, 0.05, margin, chances) <= 0.05 + 0.005 + NOISE


def clustered(
    rng: np.random.Generator, clusters: int, size: int, shares: tuple[float, float], alike: float, draws: int
):
    """Won and lost items by cluster, (draws, clusters) each: Dirichlet-multinomial with correlation ``alike``."""
    mean = np.array([*shares, 1 - sum(shares)])
    if alike == 1:
        counts = rng.multinomial(1, mean, (draws, clusters)) * size
        return counts[..., 0].astype(float), counts[..., 1].astype(float)
    chances = rng.gamma(np.maximum(mean * (1 - alike) / alike, 1e-12), size=(draws, clusters, 3)) + 1e-300
    counts = rng.multinomial(size, chances / chances.sum(-1, keepdims=True))
    return counts[..., 0].astype(float), counts[..., 1].astype(float)


def strata_of(won: np.ndarray, lost: np.ndarray, size: int) -> list[Stratum]:
    """What ``stratum`` finds in such items, for all draws at once."""
    count = won.shape[1]
    w, lo, n = won.sum(1), lost.sum(1), count * size
    rest = won - lost - ((w - lo) / count)[:, None]
    variance = count / (count - 1) * (rest**2).sum(1) / n**2
    spread = np.sqrt((rest**2).mean(1))
    skew = (rest**3).mean(1) / np.where(spread > 0, spread, 1) ** 3 / math.sqrt(count)
    alone = ((w + lo) / n - ((w - lo) / n) ** 2) / n
    effect = np.where(alone > 0, np.maximum(1, variance / np.where(alone > 0, alone, 1)), n / count)
    rows = zip(w, lo, effect, skew * variance**1.5, strict=True)
    return [Stratum(float(a), float(b), n, count, float(e), 1.0, float(t)) for a, b, e, t in rows]


def test_the_clusters_of_the_simulation_are_those_of_the_items() -> None:
    won, lost = clustered(np.random.default_rng(3), 40, 6, (0.1, 0.2), 0.4, 5)
    for draw, told in enumerate(strata_of(won, lost, 6)):
        ours, theirs = [], []
        for w, lo in zip(won[draw].astype(int), lost[draw].astype(int), strict=True):
            ours += [1] * w + [0] * (6 - w)
            theirs += [0] * w + [1] * lo + [0] * (6 - w - lo)
        found = stratum(items(ours, 6), items(theirs, 6), 0.0)
        assert found == pytest.approx(told)


@pytest.mark.parametrize(
    "shape", [((50, 60),), ((50, 60),) * 3, ((30, 100),) * 3, ((50, 60), (1700, 1), (850, 6)), ((60, 1), (50, 60))]
)
@pytest.mark.parametrize(("discordance", "drop"), [(0.02, 0.02), (0.04, 0.02), (0.1, 0.1), (0.3, 0.05)])
@pytest.mark.parametrize("alike", [0.05, 0.5, 1])
def test_a_model_at_the_margin_passes_no_more_often_where_items_come_in_clusters(
    shape: tuple[tuple[int, int], ...], discordance: float, drop: float, alike: float
) -> None:
    rng, draws = np.random.default_rng(11), 2000
    shares = ((discordance - drop) / 2, (discordance + drop) / 2)
    tables = [strata_of(*clustered(rng, count, size, shares, alike, draws), size) for count, size in shape]
    passed = sum(Pooled(row)._is_above(-drop, 0.95) for row in zip(*tables, strict=True))
    assert passed / draws <= 0.05 + 0.005 + 2.6 * math.sqrt(0.05 * 0.95 / draws)


def test_clusters_of_unlike_sizes_count_as_fewer() -> None:
    ours = [Item(item_id=f"i{k}", value=float(k % 3 > 0), cluster="big" if k < 100 else f"c{k}") for k in range(200)]
    found = stratum(ours, [one.model_copy(update={"value": 0.0}) for one in ours], 0.0)
    assert found is not None
    assert found.units == 200**2 // (100**2 + 100)


def test_the_power_that_is_stated_is_the_one_that_is_seen() -> None:
    chances = [0.25, 0.5, 0.25, 1 / 3, 0.0]
    expected = [Stratum(10, 10, 200, 200, scale=1 / (1 - c)) for c in chances]
    told = power(expected, 0.05, 0.05)
    assert 0.75 < told < 0.97
    assert rate(200, [0.0] * 5, 0.1, 0.05, 0.05, chances) == pytest.approx(told, abs=0.02)
    least = detectable(expected, 0.05, 0.8)
    assert power(expected, least, 0.05) >= 0.8 > power(expected, least - 0.001, 0.05)


def test_five_tasks_show_what_none_of_them_shows() -> None:
    one = Stratum(18, 18, 300, 300, scale=4 / 3)
    assert Pooled((one,)).lower() < -0.04 < Pooled((one,) * 5).lower() < 0


def test_equal_answers_have_a_width_and_fewer_of_them_more() -> None:
    few, many = (Pooled((Stratum(0, 0, n, n, scale=4 / 3),) * 3) for n in (60, 600))
    assert few.lower() < many.lower() < 0 < many.upper() < few.upper()
    assert few.upper() == pytest.approx(-few.lower())


def test_each_task_weighs_the_same_and_chance_is_taken_out() -> None:
    half = stratum(items([1] * 60 + [0] * 40), items([0] * 60 + [0] * 40), 0.5)
    none = stratum(items([1] * 1000), items([1] * 1000), 0.0)
    assert half is not None
    assert none is not None
    assert half.mean == pytest.approx(0.6 / 0.5)
    assert Pooled((half, none)).mean == pytest.approx(0.6)


def test_items_of_one_cluster_count_less_than_items_by_themselves() -> None:
    ours, theirs = [1, 1, 1, 1, 0, 0, 0, 0] * 30, [0, 0, 0, 0, 0, 0, 0, 0] * 30
    alone, grouped = stratum(items(ours), items(theirs), 0.25), stratum(items(ours, 4), items(theirs, 4), 0.25)
    assert alone is not None
    assert grouped is not None
    assert (alone.units, grouped.units) == (240, 60)
    assert grouped.effect == pytest.approx(4.0, rel=0.05)
    assert Pooled((grouped,)).lower() < Pooled((alone,)).lower()


def test_what_is_not_right_or_wrong_item_by_item_has_no_stratum() -> None:
    assert stratum((), items([1]), 0.25) is None
    assert stratum([Item(item_id="i0", value=0.4)], items([1]), 0.25) is None
    with pytest.raises(ValueError, match="on one side only"):
        stratum(items([1, 0]), items([1]), 0.25)
    with pytest.raises(ValueError, match="chance 1"):
        stratum(items([1]), items([1]), 1.0)
