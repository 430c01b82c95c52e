"""Weighted sums of deltas, and their inner products."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bits import to_bits, to_float

TILE = 4096
"""Elements that are worked on at once: 16 KB of float32 each for the sum and the reference, inside the first cache."""

_LANES = 16
_EXPONENT = np.uint32(0x7F80)
_SIXTEEN, _ONE, _HALF = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_deltas(
    x: NDArray[np.float32],
    reference: int,
    scale: np.float32,
    plus: NDArray[np.int64],
    minus: NDArray[np.int64],
    weights: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """``out = scale * x[reference] + sum_t weights[t] * (x[plus[t]] - x[minus[t]])``.

    With this form equal models give the reference bit for bit, whatever the weights: a sum of weighted models would
    not. Computed as ``- weight * (minus - plus)``, the same number, since -0.0 - 0.0 is -0.0 and -0.0 + 0.0 is not.

    Args:
        x: [sources, n].
        reference: Row of x.
        scale: 1 for everything but a linear merge that is not normalised.
        plus: [terms] rows of x.
        minus: [terms] rows of x.
        weights: [terms], 0 or more.
        out: [n].
    """
    n = x.shape[1]
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        first, total = x[reference, start:stop], out[start:stop]
        for i in range(stop - start):
            total[i] = scale * first[i]
        for t in range(plus.shape[0]):
            up, down, weight = x[plus[t], start:stop], x[minus[t], start:stop], weights[t]
            for i in range(stop - start):
                total[i] -= weight * (down[i] - up[i])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_deltas_bf16(
    x: NDArray[np.uint16],
    reference: int,
    scale: np.float32,
    plus: NDArray[np.int64],
    minus: NDArray[np.int64],
    weights: NDArray[np.float32],
    out: NDArray[np.uint16],
) -> bool:
    """`add_deltas` from bfloat16 to bfloat16 in one pass, float32 inside; returns whether all results are finite.

    A NaN or Inf of an input always reaches the result.
    """
    n = x.shape[1]
    total = np.empty(TILE, np.float32)
    bad = np.uint32(0)
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        first, written = x[reference, start:stop], out[start:stop]
        for i in range(stop - start):
            total[i] = scale * to_float(np.uint32(first[i]) << _SIXTEEN)
        for t in range(plus.shape[0]):
            up, down, weight = x[plus[t], start:stop], x[minus[t], start:stop], weights[t]
            for i in range(stop - start):
                delta = to_float(np.uint32(down[i]) << _SIXTEEN) - to_float(np.uint32(up[i]) << _SIXTEEN)
                total[i] -= weight * delta
        for i in range(stop - start):
            bits = to_bits(total[i])
            rounded = (bits + _HALF + ((bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN
            bad |= np.uint32((rounded & _EXPONENT) == _EXPONENT)
            bad |= np.uint32(((bits >> _SIXTEEN) & _EXPONENT) == _EXPONENT)
            written[i] = np.uint16(rounded)
    return bool(bad == 0)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def inner_products(
    x: NDArray[np.float32],
    plus: NDArray[np.int64],
    minus: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """The Gram matrix of ``v_t = x[plus[t]] - x[minus[t]]``, or of ``x[plus[t]]`` where ``minus[t]`` is -1.

    The differences are rounded to float32 as a merge does; products and sums are float64, in sixteen lanes that are
    added in a fixed order, so that the result does not depend on the width of a processor's registers.

    Args:
        x: [sources, n].
        plus: [terms] rows of x.
        minus: [terms] rows of x, or -1.
        out: [terms, terms], overwritten.
    """
    terms, n = plus.shape[0], x.shape[1]
    lanes = np.zeros((terms, terms, _LANES), np.float64)
    vectors = np.zeros((terms, TILE), np.float64)
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        length = stop - start
        padded = (length + _LANES - 1) // _LANES * _LANES
        for t in range(terms):
            vector, up = vectors[t], x[plus[t], start:stop]
            if minus[t] < 0:
                for i in range(length):
                    vector[i] = np.float64(up[i])
            else:
                down = x[minus[t], start:stop]
                for i in range(length):
                    vector[i] = np.float64(up[i] - down[i])
            for i in range(length, padded):
                vector[i] = 0.0
        for s in range(terms):
            for t in range(s, terms):
                _add_product(vectors[s], vectors[t], padded, lanes[s, t])
    for s in range(terms):
        for t in range(s, terms):
            total = 0.0
            for lane in range(_LANES):
                total += lanes[s, t, lane]
            out[s, t] = total
            out[t, s] = total


@njit(nogil=True, cache=True, inline="never")  # type: ignore[untyped-decorator]
def _add_product(one: NDArray[np.float64], other: NDArray[np.float64], length: int, lanes: NDArray[np.float64]) -> None:
    sums = np.zeros(_LANES, np.float64)  # its own array: only then is it known that no input lies under it
    for i in range(0, length, _LANES):
        for lane in range(_LANES):
            sums[lane] += one[i + lane] * other[i + lane]
    for lane in range(_LANES):
        lanes[lane] += sums[lane]
