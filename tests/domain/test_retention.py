"""Retention and its interval: the closed form of Fieller where that holds, the gate's own decision at every share."""

import math
import random

import pytest

from tasks.domain.findings import kept_gain
from tasks.domain.gate import Check
from tasks.domain.models import Item, Score
from tasks.domain.retention import retention
from tasks.domain.statistics import mean_and_stderr

CHECK = Check(benchmark="eu_mc", metric="acc", keep_gain=0.5)
BITS = Check(benchmark="eu_bpb", metric="bits_per_byte", keep_gain=0.5)


def scored(rate: float, n: int, seed: int) -> Score:
    rng = random.Random(seed)
    items = tuple(Item(item_id=f"q{k}", value=float(rng.random() < rate)) for k in range(n))
    value, stderr = mean_and_stderr(items)
    return Score(benchmark="eu_mc", metric="acc", value=value, stderr=stderr, n=n, items=items)


def texts(bits: float, n: int, seed: int) -> Score:
    rng = random.Random(seed)
    items = tuple(Item(item_id=f"t{k}", value=100 * (bits + rng.gauss(0, 0.1)), weight=100.0) for k in range(n))
    value, stderr = mean_and_stderr(items)
    return Score(benchmark="eu_bpb", metric="bits_per_byte", value=value, stderr=stderr, n=n, items=items)


def fieller(candidate: Score, instruct: Score, tuned: Score, z: float) -> tuple[float, float]:
    """Both ends from the quadratic of the theorem, with the variances of the paired parts."""
    above = [a.value - b.value for a, b in zip(candidate.items, instruct.items, strict=True)]
    gain = [a.value - b.value for a, b in zip(tuned.items, instruct.items, strict=True)]
    n, x, y = len(gain), math.fsum(above) / len(gain), math.fsum(gain) / len(gain)
    xx = math.fsum((a - x) ** 2 for a in above) / (n - 1) / n
    yy = math.fsum((g - y) ** 2 for g in gain) / (n - 1) / n
    xy = math.fsum((a - x) * (g - y) for a, g in zip(above, gain, strict=True)) / (n - 1) / n
    a, b, c = y * y - z * z * yy, x * y - z * z * xy, x * x - z * z * xx
    root = math.sqrt(b * b - a * c)
    return (b - root) / a, (b + root) / a


def test_the_interval_is_fiellers_where_many_items_make_the_gates_bound_normal() -> None:
    candidate, instruct, tuned = scored(0.72, 6000, 1), scored(0.5, 6000, 2), scored(0.8, 6000, 3)
    found = retention(CHECK, candidate, instruct, tuned)
    assert found is not None
    low, high = fieller(candidate, instruct, tuned, 1.6449)
    assert found.share == pytest.approx((candidate.value - instruct.value) / (tuned.value - instruct.value), abs=1e-9)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


@pytest.mark.parametrize(("share", "seed"), [(0.3, 1), (0.9, 2), (1.2, 3)])
def test_the_ends_are_where_the_gate_changes_its_mind(share: float, seed: int) -> None:
    instruct, tuned = texts(1.8, 60, seed), texts(1.4, 60, seed + 10)
    candidate = texts(1.8 - share * 0.4, 60, seed + 20)
    found = retention(BITS, candidate, instruct, tuned)
    assert found is not None
    assert found.low < found.share < found.high
    assert kept_gain(BITS, found.low - 1e-4, candidate, instruct, tuned).lower() > 0
    assert kept_gain(BITS, found.low + 1e-4, candidate, instruct, tuned).lower() < 0
    assert kept_gain(BITS, found.high + 1e-4, candidate, instruct, tuned).upper() < 0
    assert kept_gain(BITS, found.high - 1e-4, candidate, instruct, tuned).upper() > 0


def test_it_is_wider_than_with_the_gain_taken_for_known() -> None:
    candidate, instruct, tuned = scored(1.0, 200, 1), scored(0.5, 200, 2), scored(0.8, 200, 3)
    found = retention(CHECK, candidate, instruct, tuned)
    assert found is not None
    known = kept_gain(CHECK, 0.0, candidate, instruct, tuned)
    narrow = (known.upper() - known.lower()) / (tuned.value - instruct.value)
    assert found.high - found.low > narrow


def test_parents_that_are_close_have_no_retention() -> None:
    assert retention(CHECK, scored(0.5, 200, 1), scored(0.5, 200, 2), scored(0.55, 200, 3)) is None
    assert retention(CHECK, scored(0.5, 200, 1), scored(0.8, 200, 2), scored(0.5, 200, 3)) is None


def test_a_candidate_that_is_its_tuned_parent_kept_all() -> None:
    instruct, tuned = scored(0.5, 200, 2), scored(0.8, 200, 3)
    found = retention(CHECK, tuned, instruct, tuned)
    assert found is not None
    assert found == (pytest.approx(1.0), pytest.approx(1.0, abs=1e-3), pytest.approx(1.0, abs=1e-3))
