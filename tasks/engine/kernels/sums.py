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
    sum of its own, which takes four elements at once, and these are added in their order, so that the result does not
    depend on the width of a processor's registers.

    Args:
        x: [sources, n], float32 or bfloat16 as uint16.
        plus: [terms] rows of x.
        minus: [terms] rows of x, or -1.
        out: [terms, terms], overwritten.
    """
    terms, n = plus.shape[0], x.shape[1]
    sums = np.zeros((terms, terms, ANGLE_TILE), np.float64)
    vectors = np.zeros((terms, 4 * ANGLE_TILE), np.float32)
    for start in range(0, n, 4 * ANGLE_TILE):
        length = min(4 * ANGLE_TILE, n - start)
        for t in range(terms):
            vector, up = vectors[t], x[plus[t], start : start + length]
            if minus[t] < 0:
                for i in range(length):
                    vector[i] = widened(up[i])
            else:
                down = x[minus[t], start : start + length]
                for i in range(length):
                    vector[i] = widened(up[i]) - widened(down[i])
            vector[length:] = 0
        if terms == 2:
            _add_products_of_two(vectors[0], vectors[1], sums[0, 0], sums[0, 1], sums[1, 1])
            continue
        for s in range(terms):
            for t in range(s, terms):
                _add_products(vectors[s], vectors[t], sums[s, t])
    for s in range(terms):
        for t in range(s, terms):
            total = 0.0
            for i in range(ANGLE_TILE):
                total += sums[s, t, i]
            out[s, t] = total
            out[t, s] = total


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_products(one: NDArray[np.float32], other: NDArray[np.float32], into: NDArray[np.float64]) -> None:
    """Add the products of [4 * n] numbers to [n] sums: each is read and written once for four."""
    n = into.shape[0]
    a, b, c, d = one[:n], one[n : 2 * n], one[2 * n : 3 * n], one[3 * n : 4 * n]
    e, f, g, h = other[:n], other[n : 2 * n], other[2 * n : 3 * n], other[3 * n : 4 * n]
    for i in range(n):
        left = np.float64(a[i]) * np.float64(e[i]) + np.float64(b[i]) * np.float64(f[i])
        right = np.float64(c[i]) * np.float64(g[i]) + np.float64(d[i]) * np.float64(h[i])
        into[i] += left + right


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_products_of_two(
    one: NDArray[np.float32],
    other: NDArray[np.float32],
    first: NDArray[np.float64],
    mixed: NDArray[np.float64],
    second: NDArray[np.float64],
) -> None:
    """The three kinds of products at once, the same numbers: 0.40 ns an element and not 0.62."""
    n = first.shape[0]
    a, b, c, d = one[:n], one[n : 2 * n], one[2 * n : 3 * n], one[3 * n : 4 * n]
    e, f, g, h = other[:n], other[n : 2 * n], other[2 * n : 3 * n], other[3 * n : 4 * n]
    for i in range(n):
        p, q, r, s = np.float64(a[i]), np.float64(b[i]), np.float64(c[i]), np.float64(d[i])
        t, u, v, w = np.float64(e[i]), np.float64(f[i]), np.float64(g[i]), np.float64(h[i])
        first[i] += (p * p + q * q) + (r * r + s * s)
        mixed[i] += (p * t + q * u) + (r * v + s * w)
        second[i] += (t * t + u * u) + (v * v + w * w)
