"""Weighted sums of deltas, and their inner products."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bits import widened
from .widths import put

TILE = 2048
"""Elements that are worked on at once: 8 KB of float32 for the sum, and 4 KB of bfloat16 for each source, stay in the
first cache."""

ANGLE_TILE = 512
"""The same for inner products: every vector takes 4 KB in float64, and every product another 4 KB of sums."""


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_deltas(
    x: NDArray[Any],
    reference: int,
    scale: np.float32,
    plus: NDArray[np.int64],
    minus: NDArray[np.int64],
    weights: NDArray[np.float32],
    out: NDArray[Any],
) -> bool:
    """``out = scale * x[reference] + sum_t weights[t] * (x[plus[t]] - x[minus[t]])``; whether all of it is finite.

    With this form equal models give the reference bit for bit, whatever the weights: a sum of weighted models would
    not. Computed as ``- weight * (minus - plus)``, the same number, since -0.0 - 0.0 is -0.0 and -0.0 + 0.0 is not.

    Args:
        x: [sources, n], float32 or bfloat16 as uint16.
        reference: Row of x.
        scale: 1 for everything but a linear merge that is not normalised.
        plus: [terms] rows of x.
        minus: [terms] rows of x.
        weights: [terms], 0 or more.
        out: [n], float32 or bfloat16 as uint16, to which it is rounded once.
    """
    n = x.shape[1]
    total = np.empty(TILE, np.float32)
    finite = True
    for start in range(0, n, TILE):
        stop = min(start + TILE, n)
        first = x[reference, start:stop]
        for i in range(stop - start):
            total[i] = scale * widened(first[i])
        for t in range(plus.shape[0]):
            up, down, weight = x[plus[t], start:stop], x[minus[t], start:stop], weights[t]
            for i in range(stop - start):
                total[i] -= weight * (widened(down[i]) - widened(up[i]))
        finite &= put(total[: stop - start], out[start:stop])
    return finite


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def inner_products(
    x: NDArray[Any],
    plus: NDArray[np.int64],
    minus: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    """The Gram matrix of ``v_t = x[plus[t]] - x[minus[t]]``, or of ``x[plus[t]]`` where ``minus[t]`` is -1.

    The differences are rounded to float32 as a merge does; products and sums are float64. Every place of a tile has a
    sum of its own, and these are added in their order, so that the result does not depend on the width of a
    processor's registers.

    Args:
        x: [sources, n], float32 or bfloat16 as uint16.
        plus: [terms] rows of x.
        minus: [terms] rows of x, or -1.
        out: [terms, terms], overwritten.
    """
    terms, n = plus.shape[0], x.shape[1]
    sums = np.zeros((terms, terms, ANGLE_TILE), np.float64)
    vectors = np.zeros((terms, ANGLE_TILE), np.float64)
    for start in range(0, n, ANGLE_TILE):
        length = min(ANGLE_TILE, n - start)
        for t in range(terms):
            vector, up = vectors[t], x[plus[t], start : start + length]
            if minus[t] < 0:
                for i in range(length):
                    vector[i] = np.float64(widened(up[i]))
            else:
                down = x[minus[t], start : start + length]
                for i in range(length):
                    vector[i] = np.float64(widened(up[i]) - widened(down[i]))
        for s in range(terms):
            for t in range(s, terms):
                one, other, into = vectors[s], vectors[t], sums[s, t]
                for i in range(length):
                    into[i] += one[i] * other[i]
    for s in range(terms):
        for t in range(s, terms):
            total = 0.0
            for i in range(ANGLE_TILE):
                total += sums[s, t, i]
            out[s, t] = total
            out[t, s] = total
