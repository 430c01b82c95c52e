"""The compiled loops against plain numpy: random numbers, masks, sums, and the step from float32 to bfloat16."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tasks.engine.kernels.chance import below, fill_numbers, fill_uniform, key_of, uniform
from tasks.engine.kernels.magnitudes import mark_by_place
from tasks.engine.kernels.ranked import mark_ranked
from tasks.engine.kernels.sums import ANGLE_TILE, TILE, add_deltas, inner_products
from tasks.engine.kernels.thinned import (
    BY_CHANCE,
    BY_EDGES,
    BY_MARKS,
    NOT_AT_ALL,
    Thinning,
    add_thinned,
    sums_of_thinned,
)
from tasks.engine.kernels.widths import is_finite, is_finite_bf16, narrow_bf16, widen_bf16
from tests.engine.parity import random_numpy
from tests.engine.parity.models import from_bfloat16, to_bfloat16

SIZE = 1 << 18
KEY = key_of(7, "model.norm.weight", 1)


def normal(*shape, seed=0, scale=0.02):
    return (np.random.Generator(np.random.PCG64(seed)).standard_normal(shape) * scale).astype(np.float32)


def drawn(key, start=0, size=SIZE):
    return np.fromiter((uniform(key, start + place) for place in range(size)), np.float32, size)


def rows(*numbers):
    return np.array(numbers, np.int64)


def thinning(kind, models=1, edges=(0xFFFFFFFF, 0), shares=(0.0, 0.0), marks=None):
    """The same way for every model; model k is row k of x, and the row behind the last one is what it is against."""
    return Thinning(
        rows(*range(models)),
        rows(*[models] * models),
        rows(*[kind] * models),
        np.array([edges] * models, np.uint32),
        np.array([shares] * models, np.float32),
        np.array([KEY] * models, np.uint64),
        np.empty((models, 0), np.uint8) if marks is None else marks,
    )


def thinned(delta, start, *arguments, **named):
    """One delta after thinning."""
    x, one = np.stack([delta, np.zeros_like(delta)]), np.ones(1, np.float32)
    out = np.empty_like(delta)
    assert add_thinned(x, 1, thinning(*arguments, **named), start, one, one, np.float32(1), False, False, out)
    return out


def added(base, deltas, weights, factor, normalize, *, consensus):
    """The base plus deltas that nobody thins."""
    x, ones = np.concatenate([base + deltas, base[None]]), np.ones(len(deltas), np.float32)
    exact = x[:-1] - base  # what the kernel sees: the sum has been rounded
    out = np.empty_like(base)
    ways = thinning(NOT_AT_ALL, len(deltas))
    assert add_thinned(x, len(deltas), ways, 0, ones, np.array(weights, np.float32), factor, consensus, normalize, out)
    return exact, out


# Random numbers


@pytest.mark.parametrize("start", [0, 2**31 - 40, 2**32 - 40, 5 * 2**32 + 3, 2**40])
@pytest.mark.parametrize("of", [(0, "a", 0), (2**63 - 1, "model.embed_tokens.weight", 3), (7, "é", 1)])
def test_random_numbers_are_those_of_the_reference(start, of):
    assert np.array_equal(drawn(key_of(*of), start, 80), random_numpy.uniform(*of, 80, start))
    assert int(key_of(*of)) == random_numpy.key_of(*of)
    filled = np.empty(80, np.float32)
    fill_uniform(key_of(*of), start, filled)
    assert np.array_equal(filled, drawn(key_of(*of), start, 80))
    numbers = np.empty(80, np.uint32)
    fill_numbers(key_of(*of), start, numbers)
    assert np.array_equal(numbers * np.float32(2**-24), filled)
    for share in np.array([0, 2**-24, 0.1, 1 / 3, 0.5, 1 - 2**-24, 1, *filled[:9]], np.float32):
        assert np.array_equal(numbers < below(share), filled < share)


@pytest.mark.parametrize("start", [0, 2**32 - SIZE // 2])
def test_random_numbers_are_uniform_and_their_own(start):
    found = drawn(KEY, start).astype(np.float64)
    assert 0 <= found.min() < found.max() < 1
    assert abs(found.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / SIZE)
    assert abs(found.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / SIZE)
    counts = np.bincount((found * 256).astype(int), minlength=256)
    chi_square = float(((counts - SIZE / 256) ** 2 / (SIZE / 256)).sum())
    assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)
    others = [drawn(key, start) for key in (key_of(8, "model.norm.weight", 1), key_of(7, "model.norm.weight", 0))]
    lagged = [np.roll(found, lag) for lag in (1, 2, 64, 4096)]
    for other in [*others, *lagged]:
        assert abs(np.corrcoef(found, other)[0, 1]) < 5 / math.sqrt(SIZE)


@pytest.mark.parametrize("probability", [0.0, 0.01, 0.5, 0.9, 1.0])
def test_a_random_mask_keeps_its_share_and_the_same_whatever_the_cut(probability):
    ones, chance = np.ones(SIZE, np.float32), {"shares": (probability, 0.0)}
    whole = thinned(ones, 0, BY_CHANCE, **chance)
    expected, spread = probability * SIZE, math.sqrt(SIZE * probability * (1 - probability))
    assert abs(whole.sum() - expected) <= 5 * spread
    parts = [(0, 1), (1, 70_000), (70_000, SIZE)]
    cut = [thinned(ones[start:stop], start, BY_CHANCE, **chance) for start, stop in parts]
    assert np.array_equal(whole, np.concatenate(cut))


# Masks by magnitude

HARD_ROWS = {
    "normal": normal(6, 500),
    "one column": normal(40, 1),
    "two columns": normal(40, 2),
    "rounded to bfloat16, many equal": from_bfloat16(to_bfloat16(normal(4, 900) * 0.01 + 1)) - np.float32(1),
    "all equal": np.full((3, 400), np.float32(-0.25)),
    "all zero": np.zeros((2, 300), np.float32),
    "zeros and a few": np.where(np.arange(900).reshape(3, 300) % 50 == 0, normal(3, 300), np.float32(0)),
    "from denormals to 1e30": (normal(4, 700) * np.float32(10) ** np.linspace(-44, 30, 700)).astype(np.float32),
    "one giant": np.concatenate([normal(2, 250), np.full((2, 1), np.float32(1e20))], axis=1),
}


@pytest.mark.parametrize("values", HARD_ROWS.values(), ids=HARD_ROWS)
@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.15), (0.3, 0.29), (0.9, 0.0)])
def test_ranked_masks_are_those_of_a_sort(values, density, epsilon):
    width = values.shape[1]
    start = 3 * width
    lowest, spread = np.float32(density - epsilon), np.float32(2) * np.float32(epsilon)
    ranks = np.empty(values.shape, np.int64)
    order = np.argsort(np.abs(values), axis=1, kind="stable")
    np.put_along_axis(ranks, order, np.arange(width)[None], axis=1)
    share = ranks.astype(np.float32) / np.float32(max(width - 1, 1)) if width > 1 else np.float32(0.5)
    chances = random_numpy.uniform(7, "model.norm.weight", 1, values.size, start).reshape(values.shape)
    expected = chances < lowest + share * spread
    kept, sums = np.empty(values.size, np.uint8), np.full(2, np.nan)
    mark_ranked(values.reshape(-1), np.zeros(values.size, np.float32), width, lowest, spread, KEY, start, kept, sums)
    assert np.array_equal(kept.reshape(values.shape).astype(bool), expected)
    magnitudes = np.abs(values.astype(np.float64))
    assert sums == pytest.approx([magnitudes.sum(), magnitudes[expected].sum()], rel=1e-13)


def test_ranks_of_bfloat16_are_those_of_the_same_in_float32():
    up, down = (to_bfloat16(normal(20_480, seed=seed)) for seed in (1, 2))
    marks = []
    for one, other in ((up, down), (from_bfloat16(up), from_bfloat16(down))):
        kept, sums = np.empty(up.size, np.uint8), np.empty(2)
        mark_ranked(one, other, 2048, np.float32(0.35), np.float32(0.3), KEY, 0, kept, sums)
        marks.append((kept.tobytes(), sums.tobytes()))
    assert marks[0] == marks[1]


@pytest.mark.parametrize("quota", [0, 1, 3000, 9999, 10_000])
def test_of_equal_elements_the_share_or_the_first_ones_stay(quota):
    # 30,000 elements of three magnitudes and both signs; the threshold is the middle one.
    signs = np.where(np.arange(30_000) % 2, np.float32(1), np.float32(-1))
    values = signs * np.tile(np.array([0.5, 1.0, 2.0], np.float32), 10_000)
    bits, equal = np.float32(1.0).view(np.uint32), np.abs(values) == 1
    share = np.float32(quota / 10_000)
    chances = random_numpy.uniform(7, "model.norm.weight", 1, values.size, 500)
    first = equal & (np.cumsum(equal) <= quota)
    by_chance = equal & (chances < share)
    assert abs(int(by_chance.sum()) - quota) <= 5 * math.sqrt(10_000 * share * (1 - share))
    nothing, quotas = np.zeros_like(values), (quota, quota)
    for edges, wanted, others in [
        ((0xFFFFFFFF, int(bits)), (by_chance, first), np.abs(values) > 1),
        ((int(bits), 0), (~by_chance & equal, ~first & equal), np.abs(values) < 1),
    ]:
        shares = (float(share), float(share) if edges[1] else 1.0)
        for chosen, found in [
            (wanted[0], thinned(values, 500, BY_EDGES, edges=edges, shares=shares)),
            (wanted[1], marked_by_place(values, nothing, edges, quotas)),
        ]:
            assert np.array_equal(found, np.where(chosen | others, values, np.float32(0))), edges


def marked_by_place(values, nothing, edges, quotas):
    marks = np.empty((1, values.size), np.uint8)
    mark_by_place(values, nothing, tuple(np.array(edges, np.uint32)), quotas, marks[0])
    return thinned(values, 500, BY_MARKS, marks=marks)


# Sums


@pytest.mark.parametrize("size", [0, 1, ANGLE_TILE - 1, ANGLE_TILE, ANGLE_TILE + 1, 9 * ANGLE_TILE - 7])
def test_inner_products_are_those_of_float64_and_of_every_thread(size):
    x = normal(4, size)
    plus, minus = rows(0, 1, 2, 3), rows(3, 3, -1, 0)
    vectors = [x[0] - x[3], x[1] - x[3], x[2], x[3] - x[0]]
    expected = np.array([[math.fsum((a.astype(np.float64) * b).tolist()) for b in vectors] for a in vectors])

    def once(_=None):
        out = np.full((4, 4), np.nan)
        inner_products(x, plus, minus, out)
        return out

    found = once()
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-18)
    assert np.array_equal(found, found.T)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(other, found) for other in pool.map(once, range(8)))
    # Of two vectors all products are made at once: these must be the same numbers.
    for s, t in ((0, 1), (2, 3), (3, 2)):
        pair = np.full((2, 2), np.nan)
        inner_products(x, plus[[s, t]], minus[[s, t]], pair)
        assert np.array_equal(pair, found[np.ix_([s, t], [s, t])])


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 70_001])
def test_the_sum_of_magnitudes_is_exact_to_float64(size):
    x, found = np.stack([normal(size), np.zeros(size, np.float32)]), np.full(2, np.nan)
    sums_of_thinned(x, thinning(BY_CHANCE, shares=(0.5, 0.0)), 0, 0, found)
    left = thinned(x[0], 0, BY_CHANCE, shares=(0.5, 0.0))
    expected = [math.fsum(np.abs(values).tolist()) for values in (x[0], left)]
    assert found == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("size", [0, 1, TILE, 2 * TILE + 9])
def test_a_sum_of_deltas_is_the_formula_in_both_types(size):
    x = from_bfloat16(to_bfloat16(normal(4, size)))
    weights = np.array([0.3, 1.25, 0.8], np.float32)
    terms = rows(1, 2, 3), rows(0, 0, 1)
    out = np.empty(size, np.float32)
    add_deltas(x, 0, np.float32(1.5), *terms, weights, out)
    wide = x.astype(np.float64)
    expected = 1.5 * wide[0] + sum(w * (wide[p] - wide[m]) for p, m, w in zip(*terms, weights, strict=True))
    np.testing.assert_allclose(out, expected, atol=1e-7 * 0.5)
    stored, short = np.empty(size, np.uint16), np.empty(size, np.uint16)
    assert narrow_bf16(out, stored)
    assert add_deltas(to_bfloat16(x), 0, np.float32(1.5), *terms, weights, short)
    assert np.array_equal(stored, short)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, TILE - 1, TILE, TILE + 2])
def test_what_is_not_finite_is_seen_in_every_source(bad, place):
    for source in range(3):
        x = normal(3, TILE + 3)
        x[source, place] = bad
        out = np.empty(TILE + 3, np.uint16)
        for stored in (x, to_bfloat16(x)):
            assert not add_deltas(stored, 0, np.float32(1), rows(1, 2), rows(0, 1), np.ones(2, np.float32), out)
        assert not is_finite(x[source])
        assert not is_finite_bf16(to_bfloat16(x[source]))
        assert not widen_bf16(to_bfloat16(x[source]), np.empty(TILE + 3, np.float32))
        assert not narrow_bf16(x[source], out)


def test_equal_models_give_the_reference_bit_for_bit():
    one = np.concatenate([normal(5000), np.float32([0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38])])
    x, weights, out = np.stack([one] * 3), np.array([0.3, -1.7], np.float32), np.empty_like(one)
    add_deltas(x, 0, np.float32(1), rows(1, 2), rows(0, 0), np.abs(weights), out)
    assert out.tobytes() == one.tobytes()
    for factor in (np.float32(0.7), np.float32(-0.7), np.float32(0)):
        for consensus in (False, True):
            ones, ways = np.ones(2, np.float32), thinning(NOT_AT_ALL, 2)
            for normalize in (False, True):
                assert add_thinned(x, 2, ways, 0, ones, weights, factor, consensus, normalize, out)
                assert out.tobytes() == one.tobytes()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("weights", [[0.5, 1.0, 0.25], [1.0, -0.5, 0.0]])
def test_the_sign_consensus_is_that_of_the_paper(normalize, weights):
    base, deltas = normal(5000, seed=1), normal(3, 5000, seed=2)
    deltas[np.abs(deltas) < 0.01] = 0
    deltas[:, :100] = 0
    deltas[1, 100:200] = -deltas[0, 100:200] / 2  # with the first weights the sum is 0, and plus wins
    deltas[2, 100:200] = 0
    deltas, merged_by_kernel = added(base, deltas, weights, np.float32(0.8), normalize, consensus=True)
    weighted = np.array(weights, np.float32)[:, None] * deltas
    elected = np.where(weighted.sum(axis=0, dtype=np.float32) >= 0, 1, -1)
    agrees = np.sign(weighted) == elected
    total = np.where(agrees, weighted, 0).sum(axis=0)
    divisor = np.where(agrees, np.array(weights, np.float32)[:, None], 0).sum(axis=0)
    merged = total / np.where(np.abs(divisor) < 1e-8, 1, divisor) if normalize else total
    np.testing.assert_allclose(merged_by_kernel, base + 0.8 * merged, atol=2e-8)
    _, plain_sum = added(base, deltas, weights, np.float32(0.8), normalize, consensus=False)
    np.testing.assert_allclose(plain_sum, base + 0.8 * weighted.sum(axis=0), atol=2e-8)


# Types


def test_every_bfloat16_is_widened_and_narrowed_again():
    stored = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    finite = (stored & 0x7F80) != 0x7F80
    wide, back = np.empty(stored.size, np.float32), np.empty(stored.size, np.uint16)
    assert not widen_bf16(stored, wide)
    assert np.array_equal(wide.view(np.uint32), stored.astype(np.uint32) << 16)
    assert widen_bf16(stored[finite], wide[: finite.sum()])
    assert narrow_bf16(wide[: finite.sum()], back[: finite.sum()])
    assert np.array_equal(back[: finite.sum()], stored[finite])


def test_rounding_to_bfloat16_is_torchs():
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)  # ties, their neighbours, nothing
    values = ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | lower).reshape(-1).view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    bits, finite = expected.view(torch.int16).numpy().view(np.uint16), torch.isfinite(expected).numpy()
    assert 0 < finite.sum() < values.size
    out = np.empty(int(finite.sum()), np.uint16)
    assert narrow_bf16(values[finite], out)
    assert np.array_equal(out, bits[finite])
    one = np.empty(1, np.uint16)
    assert not any(narrow_bf16(values[place : place + 1], one) for place in np.flatnonzero(~finite))
