"""The k-th largest |delta| by counting, against a sort; and which elements a threshold by rank keeps."""

import math
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.engine.kernels.chance import key_of
from tasks.engine.kernels.magnitudes import count_equal, pick_bracket
from tasks.engine.kernels.thinned import Thinning, add_thinned
from tasks.engine.methods import ranks
from tasks.engine.methods.ranks import SAMPLED_RANGE, SAMPLED_RANGES, KthLargest, magnitudes, sampled_ranges
from tasks.engine.methods.sparsify import KeepLargest
from tests.engine.folders import BLOCK_ELEMENTS
from tests.engine.parity.models import from_bfloat16, to_bfloat16

LARGE = 5 * BLOCK_ELEMENTS + 4321
KEY = key_of(3, "model.norm.weight", 0)
MOST_READINGS = 3
"""The sample, one reading, and one more where it misleads."""


def normal(size, seed=0, scale=0.01):
    return (np.random.Generator(np.random.PCG64(seed)).standard_normal(size) * scale).astype(np.float32)


def blocks(size):
    return [(start, min(start + BLOCK_ELEMENTS, size)) for start in range(0, size, BLOCK_ELEMENTS)]


def find(k, up, down, ranges=None, most=MOST_READINGS):
    """The rank, found as an operation does, and how often the tensor was read."""
    rank = KthLargest(k, up.size)
    rank.bracket(magnitudes(up[a:b], down[a:b]) for a, b in (ranges or sampled_ranges(up.size)))
    readings = 1
    while not rank.found:
        rank.narrow([rank.count(up[a:b], down[a:b]) for a, b in blocks(up.size)])
        readings += 1
        assert readings <= most
    return rank, readings


def check(k, up, down, ranges=None, most=MOST_READINGS):
    rank, readings = find(k, up, down, ranges, most)
    bits = np.abs(up - down).view(np.uint32)
    expected = int(np.sort(bits)[::-1][k - 1])
    assert (rank.bits, rank.above, rank.equal) == (expected, (bits > expected).sum(), (bits == expected).sum())
    return readings


def interesting(size):
    return sorted({k for k in (1, 2, size // 100, size // 5, size // 2, size - 1, size) if 1 <= k <= size})


def tied(size):
    """Deltas of bfloat16 weights: multiples of an ulp, a few of which hold most elements."""
    base = from_bfloat16(to_bfloat16(normal(size, 1, 1.0)))
    return from_bfloat16(to_bfloat16(base + normal(size, 2, 0.01))), base


PAIRS = {
    "random": (normal(LARGE), np.zeros(LARGE, np.float32)),
    "bfloat16 deltas": tied(LARGE),
    "all equal": (np.full(LARGE, 1.5, np.float32), np.full(LARGE, 1.25, np.float32)),
    "no delta": (normal(LARGE), normal(LARGE)),
    "half without a delta": (np.where(np.arange(LARGE) % 2, normal(LARGE), 0).astype(np.float32), 0 * normal(LARGE)),
    "two values": (np.where(np.arange(LARGE) % 7, np.float32(1), np.float32(-3)), np.zeros(LARGE, np.float32)),
    "from denormals to the largest": (
        (normal(LARGE) * np.float32(10) ** np.linspace(-40, 38, LARGE)).astype(np.float32),
        np.zeros(LARGE, np.float32),
    ),
}


@pytest.mark.parametrize(("up", "down"), PAIRS.values(), ids=PAIRS)
def test_the_kth_largest_of_a_large_tensor_is_that_of_a_sort(up, down):
    for k in interesting(LARGE):
        check(k, up, down)


def test_one_reading_after_the_sample_is_enough_for_ordinary_deltas():
    up = normal(1 << 22)
    assert [check(k, up, np.zeros_like(up)) for k in (up.size // 5, up.size // 2)] == [2, 2]


@pytest.mark.parametrize("size", [1, 2, 3, 100, SAMPLED_RANGE - 1, SAMPLED_RANGE + 1, SAMPLED_RANGE * SAMPLED_RANGES])
def test_a_small_tensor_is_sampled_whole(size):
    for k in interesting(size):
        assert check(k, *tied(size)) == 1
        assert check(k, normal(size), np.zeros(size, np.float32)) == 1


SORTED = np.sort(np.abs(normal(LARGE)))


@pytest.mark.parametrize("values", [SORTED, SORTED[::-1].copy()], ids=["ascending", "descending"])
@pytest.mark.parametrize("ranges", [[(0, 4096)], [(LARGE - 4096, LARGE)], [(0, 1)], [(LARGE // 2, LARGE // 2 + 2)]])
def test_a_sample_that_misleads_costs_readings_and_never_the_answer(values, ranges):
    nothing = np.zeros(LARGE, np.float32)
    readings = [check(k, values, nothing, ranges) for k in interesting(LARGE)]
    assert max(readings) >= 2


@pytest.mark.parametrize("ranges", [None, [(0, 4096)], [(LARGE // 2, LARGE // 2 + 2)]])
@pytest.mark.parametrize(("up", "down"), PAIRS.values(), ids=PAIRS)
def test_what_is_too_much_to_keep_is_counted_in_bins(monkeypatch, up, down, ranges):
    monkeypatch.setattr(ranks, "_ROOM", 8000)  # not 96 MB: the same limit, met by a tensor that a test can hold
    kept = []

    class Watched(KthLargest):
        def count(self, up, down):
            found = super().count(up, down)
            kept.append(found.values.nbytes + (0 if found.counts is None else found.counts.nbytes))
            return found

    monkeypatch.setattr(sys.modules[__name__], "KthLargest", Watched)
    for k in interesting(LARGE):
        kept.clear()
        # 31 bits, 12 or more of them by each reading, after one that missed.
        readings = check(k, up, down, ranges, most=6)
        assert sum(kept) <= (readings - 1) * 8000, k


def test_rows_of_different_sizes_do_not_mislead_the_sample():
    # As in embeddings: 16 rows are sampled, and the error of their threshold is that of 16 rows.
    chance = np.random.Generator(np.random.PCG64(5))
    for spread in (0.1, 0.5, 1.5):
        scale = np.exp(chance.standard_normal((400, 1)) * spread)
        up = (scale * chance.standard_normal((400, 4096)) * 0.01).astype(np.float32).reshape(-1)
        readings = [check(k, up, np.zeros_like(up)) for k in (up.size // 10, up.size // 3, up.size // 2)]
        assert readings == [2, 2, 2]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_numbers_any_sample(data):
    some = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40)
    up = np.resize(np.array(data.draw(some), np.float32), data.draw(st.integers(1, 300)))
    down = np.zeros_like(up)
    begin = data.draw(st.integers(0, up.size - 1))
    end = data.draw(st.integers(begin + 1, up.size))
    check(data.draw(st.integers(1, up.size)), up, down, [(begin, end)])


@pytest.mark.parametrize("size", [0, 1, 4096, 65_536, 65_537, 1_000_003, 2**40])
def test_samples_are_ranges_inside_the_tensor_that_do_not_meet(size):
    ranges = sampled_ranges(size)
    assert all(start < stop for start, stop in ranges)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    assert not ranges or (ranges[0][0] >= 0 and ranges[-1][1] <= size)
    assert sum(stop - start for start, stop in ranges) == min(size, SAMPLED_RANGE * SAMPLED_RANGES)


@pytest.mark.parametrize("stored", [lambda x: x, to_bfloat16], ids=["float32", "bfloat16"])
def test_brackets_are_counted_as_numpy_does(stored):
    up, down = tied(20_000)
    bits = np.abs(up - down).view(np.uint32)
    low, high = int(np.quantile(bits, 0.3)), int(np.quantile(bits, 0.8))
    picked = np.empty(bits.size + 1, np.uint32)
    above, count = pick_bracket(stored(up), stored(down), np.uint32(low), np.uint32(high), picked)
    assert above == (bits >= high).sum()
    assert np.array_equal(picked[:count], bits[(bits >= low) & (bits < high)])
    assert count_equal(stored(up), stored(down), bits[0]) == (bits == bits[0]).sum()


# What is kept: `KeepLargest`, with ties


def kept_of(up, down, kept, skipped, *, by_place, key=KEY):
    """What `KeepLargest` leaves of a delta, fed block by block."""
    way = KeepLargest(kept, up.size, key, skipped=skipped, by_place=by_place)
    while (stage := way.pending()) is not None:
        ranges = sampled_ranges(up.size) if stage == "sample" else blocks(up.size)
        way.settle(stage, [way.measure(stage, up[a:b], down[a:b], a) for a, b in ranges])
    (kind, edges, shares, own), delta = way.way(), np.empty_like(up)
    for a, b in reversed(blocks(up.size)):  # any order
        marks = np.zeros((1, b - a), np.uint8)
        if by_place:
            way.mark(up[a:b], down[a:b], a, marks[0])
        thinning = Thinning(
            np.array([0]),
            np.array([1]),
            np.array([kind]),
            np.array([edges], np.uint32),
            np.array([shares], np.float32),
            np.array([own], np.uint64),
            marks,
        )
        x, one = np.stack([up[a:b], down[a:b], np.zeros(b - a, np.float32)]), np.ones(1, np.float32)
        assert add_thinned(x, 2, thinning, a, one, one, np.float32(1), False, False, delta[a:b])
    return delta


SHARES = [(0.5, 0.0), (0.2, 0.01), (0.6, 0.3), (0.001, 0.999), (0.9, 0.1)]
TIED = {name: PAIRS[name] for name in ("random", "bfloat16 deltas", "all equal", "two values")}


@pytest.mark.parametrize(("up", "down"), TIED.values(), ids=TIED)
@pytest.mark.parametrize(("share", "skipped_share"), SHARES)
def test_by_place_exactly_so_many_are_kept_and_of_equal_ones_the_first(up, down, share, skipped_share):
    kept, skipped = int(share * LARGE), int(skipped_share * LARGE)
    delta = up - down
    assert (delta != 0).any()
    order = np.argsort(-np.abs(delta), kind="stable")
    expected = np.zeros_like(delta)
    chosen = order[skipped : skipped + kept]
    expected[chosen] = delta[chosen]
    assert np.array_equal(kept_of(up, down, kept, skipped, by_place=True), expected)


@pytest.mark.parametrize(("up", "down"), TIED.values(), ids=TIED)
@pytest.mark.parametrize(("share", "skipped_share"), SHARES)
def test_by_chance_equal_ones_are_kept_in_the_right_number_on_average(up, down, share, skipped_share):
    kept, skipped = int(share * LARGE), int(skipped_share * LARGE)
    magnitude = np.abs(up - down)
    ranked = np.sort(magnitude)[::-1]
    found = kept_of(up, down, kept, skipped, by_place=False)
    stays = np.isin(np.arange(LARGE), np.flatnonzero(found)) | (magnitude == 0)
    outer, inner = ranked[skipped - 1] if skipped else np.inf, ranked[min(skipped + kept, LARGE) - 1]
    assert stays[(magnitude < outer) & (magnitude > inner)].all()
    assert not found[(magnitude > outer) | (magnitude < inner)].any()
    for edge in {outer, inner} - {np.inf, np.float32(0)}:
        equal = magnitude == edge
        # Of the equal ones, those whose rank lies in [skipped, skipped + kept).
        first, last = (magnitude > edge).sum(), (magnitude >= edge).sum()
        wanted = max(0, min(last, skipped + kept) - max(first, skipped))
        chance = wanted / equal.sum()
        assert abs((found[equal] != 0).sum() - wanted) <= 5 * math.sqrt(equal.sum() * chance * (1 - chance)) + 1e-9


def test_chance_favours_no_part_of_a_tensor_and_no_model():
    up, down = PAIRS["all equal"]
    found = kept_of(up, down, LARGE // 3, 0, by_place=False) != 0
    other = kept_of(up, down, LARGE // 3, 0, by_place=False, key=key_of(3, "model.norm.weight", 1)) != 0
    halves = found[: LARGE // 2].mean(), found[LARGE // 2 :].mean()
    assert abs(halves[0] - halves[1]) < 5 * math.sqrt(2 * (2 / 9) / (LARGE / 2))
    assert abs((found & other).mean() - 1 / 9) < 5 * math.sqrt(8 / 81 / LARGE)
