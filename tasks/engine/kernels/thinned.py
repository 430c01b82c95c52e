"""Deltas that are thinned out and added in one pass: a tile of every model stays in the first cache to the end.

How one model's delta is thinned is a `Thinning`: by magnitude between two edges, by chance, or by marks that were made
before. Everything else (sum or sign consensus, weights, lambda, the base) is the same for all methods of this kind.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bits import to_bits, widened
from .chance import below, fill_numbers
from .widths import put

TILE = 1024
"""Elements at once: six arrays of 4 KB for two models."""

NOT_AT_ALL, BY_EDGES, BY_CHANCE, BY_MARKS = 0, 1, 2, 3

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_NOTHING = np.float32(1e-8)
"""A sum of weights below this divides by 1 instead."""


class Thinning(NamedTuple):
    """How each model's delta is thinned, all arrays [models] unless said otherwise."""

    up: NDArray[np.int64]
    """Rows of x: the models."""
    down: NDArray[np.int64]
    """Rows of x: what each delta is taken against."""
    kind: NDArray[np.int64]
    """`NOT_AT_ALL`, `BY_EDGES`, `BY_CHANCE` or `BY_MARKS`."""
    edges: NDArray[np.uint32]
    """[models, 2] bits of magnitudes: what is above the first goes, what is not above the second goes."""
    shares: NDArray[np.float32]
    """[models, 2] of those that equal an edge: the share that goes with the first, that stays with the second. By
    chance, the first is the probability to stay."""
    keys: NDArray[np.uint64]
    """Of `uniform`."""
    marks: NDArray[np.uint8]
    """[models, n], not 0 where an element stays; [models, 0] if nobody has marks."""


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_thinned(
    x: NDArray[Any],
    base: int,
    thinning: Thinning,
    start: np.int64,
    factors: NDArray[np.float32],
    weights: NDArray[np.float32],
    factor: np.float32,
    consensus: bool,
    normalize: bool,
    out: NDArray[Any],
) -> bool:
    """``out = base + factor * sum_k weights[k] factors[k] thinned_k(delta_k)``; returns whether all of it is finite.

    With `consensus` only those are added that have the elected sign, and `normalize` divides by the sum of their
    weights (TIES, section 3: Yadav et al., NeurIPS 2023, arXiv 2306.01708). The elected sign of an element is that of
    the sum of its weighted deltas, plus where that is 0. A delta of 0 agrees with nobody, so that trimmed elements do
    not dilute the mean.

    The sum is kept with a minus sign and taken from the base, which gives the same number: -0.0 - 0.0 is -0.0, while
    -0.0 + 0.0 is not, and where there is no delta the base stays bit for bit.

    Args:
        x: [sources, n], float32 or bfloat16 as uint16.
        base: Row of x.
        thinning: What stays of each delta.
        start: Flat place of the first element in its tensor.
        factors: [models] by which a thinned delta is rescaled.
        weights: [models].
        factor: lambda; without consensus also divided by the sum of the weights where the merge is normalised.
        consensus: Whether signs are elected.
        normalize: With consensus, whether it is a mean.
        out: [n], float32 or bfloat16 as uint16, to which it is rounded once.
    """
    n, models = x.shape[1], thinning.kind.shape[0]
    deltas = np.empty((models, TILE), np.float32)
    elected, divisor = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    total, drawn = np.empty(TILE, np.float32), np.empty(TILE, np.uint32)
    finite = True
    for begin in range(0, n, TILE):
        length = min(TILE, n - begin)
        for i in range(length):
            total[i] = _ZERO
        for k in range(models):
            delta, scale, weight = deltas[k], factors[k], weights[k]
            _subtract(x, thinning, k, begin, delta[:length])
            _thin(thinning, k, begin, start, delta[:length], drawn[:length])
            if consensus:
                for i in range(length):
                    delta[i] = weight * (delta[i] * scale)
            else:
                for i in range(length):
                    total[i] -= weight * (delta[i] * scale)
        if consensus:
            _add_agreeing(deltas, weights, normalize, length, elected, divisor, total)
        _add_to(x[base, begin : begin + length], factor, total)
        finite &= put(total[:length], out[begin : begin + length])
    return finite


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def sums_of_thinned(x: NDArray[Any], thinning: Thinning, model: int, start: np.int64, out: NDArray[np.float64]) -> None:
    """Sums of one delta's magnitudes, whole and thinned, into float64 [2].

    Every place of a quarter of a tile has a sum of its own, which takes four elements at once, and these are added in
    their order: the result is the same on every processor.
    """
    n = x.shape[1]
    whole, left = np.zeros(TILE // 4, np.float64), np.zeros(TILE // 4, np.float64)
    delta, drawn = np.empty(TILE, np.float32), np.empty(TILE, np.uint32)
    for begin in range(0, n, TILE):
        length = min(TILE, n - begin)
        delta[length:] = _ZERO
        _subtract(x, thinning, model, begin, delta[:length])
        _add_magnitudes(delta, whole)
        _thin(thinning, model, begin, start, delta[:length], drawn[:length])
        _add_magnitudes(delta, left)
    out[0] = out[1] = 0.0
    for i in range(TILE // 4):
        out[0] += whole[i]
        out[1] += left[i]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_magnitudes(delta: NDArray[np.float32], sums: NDArray[np.float64]) -> None:
    """Add the magnitudes of [4 * n] numbers to [n] sums."""
    n = sums.shape[0]
    a, b, c, d = delta[:n], delta[n : 2 * n], delta[2 * n : 3 * n], delta[3 * n : 4 * n]
    for i in range(n):
        left = np.float64(abs(a[i])) + np.float64(abs(b[i]))
        sums[i] += left + (np.float64(abs(c[i])) + np.float64(abs(d[i])))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _subtract(x: NDArray[Any], thinning: Thinning, model: int, begin: int, delta: NDArray[np.float32]) -> None:
    """One model's delta of the tile that begins at column ``begin`` of x."""
    one = x[thinning.up[model], begin : begin + delta.shape[0]]
    other = x[thinning.down[model], begin : begin + delta.shape[0]]
    for i in range(delta.shape[0]):
        delta[i] = widened(one[i]) - widened(other[i])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _thin(
    thinning: Thinning, model: int, begin: int, start: np.int64, delta: NDArray[np.float32], drawn: NDArray[np.uint32]
) -> None:
    """Thin one model's delta of the tile that begins at column ``begin``. In ``drawn`` is room for chances."""
    length = delta.shape[0]
    kind, key, place = thinning.kind[model], thinning.keys[model], start + begin
    if kind == BY_MARKS:
        marks = thinning.marks[model, begin : begin + length]
        for i in range(length):
            delta[i] = delta[i] if marks[i] else _ZERO
    elif kind == BY_CHANCE:
        limit = below(thinning.shares[model, 0])
        fill_numbers(key, place, drawn)
        for i in range(length):
            delta[i] = delta[i] if drawn[i] < limit else _ZERO
    elif kind == BY_EDGES:
        _keep_between(delta, thinning.edges[model], thinning.shares[model], key, place, drawn)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _keep_between(
    delta: NDArray[np.float32],
    edges: NDArray[np.uint32],
    shares: NDArray[np.float32],
    key: np.uint64,
    place: np.int64,
    drawn: NDArray[np.uint32],
) -> None:
    """Magnitudes up to the first edge and above the second stay; those that equal one of them by chance."""
    outer, inner, goes, stays = edges[0], edges[1], below(shares[0]), below(shares[1])
    equal = np.int32(0)
    for i in range(delta.shape[0]):
        value = to_bits(delta[i]) & _MAGNITUDE
        equal = np.int32(equal + np.int32((value == outer) | (value == inner)))
    if equal == 0:  # most tiles of float32 weights, and no random numbers for them
        for i in range(delta.shape[0]):
            value = to_bits(delta[i]) & _MAGNITUDE
            delta[i] = delta[i] if (value < outer) & (value > inner) else _ZERO
        return
    fill_numbers(key, place, drawn)
    for i in range(delta.shape[0]):
        value = to_bits(delta[i]) & _MAGNITUDE
        dropped = (value > outer) | ((value == outer) & (drawn[i] < goes))
        kept = (value > inner) | ((value == inner) & (drawn[i] < stays))
        delta[i] = delta[i] if kept & ~dropped else _ZERO


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_agreeing(
    weighted: NDArray[np.float32],
    weights: NDArray[np.float32],
    normalize: bool,
    length: int,
    elected: NDArray[np.float32],
    divisor: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Take from ``total``, which is 0, the weighted deltas that have the elected sign; divide by their weights."""
    models = weighted.shape[0]
    for i in range(length):
        elected[i] = _ZERO
        divisor[i] = _ZERO
    for k in range(models):
        row = weighted[k]
        for i in range(length):
            elected[i] += row[i]
    for k in range(models):
        row, weight = weighted[k], weights[k]
        for i in range(length):
            agrees = ((row[i] > _ZERO) & (elected[i] >= _ZERO)) | ((row[i] < _ZERO) & (elected[i] < _ZERO))
            total[i] -= row[i] if agrees else _ZERO
            divisor[i] += weight if agrees else _ZERO
    if normalize:
        for i in range(length):
            total[i] /= divisor[i] if abs(divisor[i]) >= _NOTHING else _ONE


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_to(base: NDArray[Any], factor: np.float32, total: NDArray[np.float32]) -> None:
    """``total = base - factor * total``, so that a total of 0 leaves even -0.0 as it is, whatever the factor's sign."""
    if factor >= _ZERO:
        for i in range(base.shape[0]):
            total[i] = widened(base[i]) - factor * total[i]
    else:
        for i in range(base.shape[0]):
            total[i] = widened(base[i]) - abs(factor) * (_ZERO - total[i])
