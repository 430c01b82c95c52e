"""Which elements of a delta stay: each kernel sets the others to zero, in place."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bits import to_bits
from .chance import uniform

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_ZERO = np.float32(0.0)
_COARSE = 1024
_COARSE_SHIFT = np.uint32(17)
"""Coarse ranks have 64 classes per power of two, over the 16 powers below the largest of the row."""


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def subtract(up: NDArray[np.float32], down: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """``out = up - down``, float32 [n]."""
    for i in range(up.shape[0]):
        out[i] = up[i] - down[i]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def keep_above(delta: NDArray[np.float32], bits: np.uint32, share: np.float32, key: np.uint64, start: np.int64) -> None:
    """Keep magnitudes above ``bits``, and of those that equal it a random share.

    Args:
        delta: [n].
        bits: The threshold, as bits of a float32.
        share: Of the equal ones that stay: 1 all, 0 none. By chance and not by place, so that no row is favoured.
        key: Of `uniform`.
        start: Flat place of delta[0].
    """
    for i in range(delta.shape[0]):
        value = to_bits(delta[i]) & _MAGNITUDE
        stays = (value > bits) | ((value == bits) & (uniform(key, start + i) < share))
        delta[i] = delta[i] if stays else _ZERO


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def keep_above_first(delta: NDArray[np.float32], bits: np.uint32, quota: np.int64) -> None:
    """Keep magnitudes above ``bits``, and of those that equal it the first ``quota`` in order of place."""
    for i in range(delta.shape[0]):
        value = to_bits(delta[i]) & _MAGNITUDE
        if value == bits and quota > 0:
            quota -= 1
        elif value <= bits:
            delta[i] = _ZERO


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def drop_above(delta: NDArray[np.float32], bits: np.uint32, share: np.float32, key: np.uint64, start: np.int64) -> None:
    """Drop magnitudes above ``bits``, and of those that equal it a random share: the complement of `keep_above`."""
    for i in range(delta.shape[0]):
        value = to_bits(delta[i]) & _MAGNITUDE
        goes = (value > bits) | ((value == bits) & (uniform(key, start + i) < share))
        delta[i] = _ZERO if goes else delta[i]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def drop_above_first(delta: NDArray[np.float32], bits: np.uint32, quota: np.int64) -> None:
    """Drop magnitudes above ``bits``, and of those that equal it the first ``quota`` in order of place."""
    for i in range(delta.shape[0]):
        value = to_bits(delta[i]) & _MAGNITUDE
        if value > bits:
            delta[i] = _ZERO
        elif value == bits and quota > 0:
            quota -= 1
            delta[i] = _ZERO


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def keep_random(delta: NDArray[np.float32], probability: np.float32, key: np.uint64, start: np.int64) -> None:
    """Keep each element with this probability."""
    for i in range(delta.shape[0]):
        delta[i] = delta[i] if uniform(key, start + i) < probability else _ZERO


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def keep_ranked(
    delta: NDArray[np.float32],
    width: int,
    lowest: np.float32,
    spread: np.float32,
    key: np.uint64,
    start: np.int64,
    kept: NDArray[np.uint8],
) -> None:
    """Keep each element with a probability that grows with its rank by magnitude within its row.

    The element of rank r (0 smallest, equal ones in order of place) stays with probability
    ``lowest + r / (width - 1) * spread``; a row of one element stays with the mean of the two ends. Ranks are
    counted, not sorted: a coarse class gives a first and a last rank, which decides nearly always; the rest are
    ranked exactly.

    Args:
        delta: [rows * width], changed in place.
        width: Elements of a row.
        lowest: Probability of the smallest element of a row.
        spread: What the largest has more.
        key: Of `uniform`.
        start: Flat place of delta[0].
        kept: [rows * width] uint8, what stayed.
    """
    bits = np.empty(width, np.uint32)
    first = np.empty(_COARSE + 1, np.int64)
    divisor = np.float32(max(width - 1, 1))
    for begin in range(0, delta.shape[0], width):
        row, stays = delta[begin : begin + width], kept[begin : begin + width]
        largest = np.uint32(0)
        for i in range(width):
            value = to_bits(row[i]) & _MAGNITUDE
            bits[i] = value
            largest = max(largest, value)
        bottom = max(int(largest >> _COARSE_SHIFT) - (_COARSE - 1), 0)
        first[:] = 0
        for i in range(width):
            first[max(int(bits[i] >> _COARSE_SHIFT) - bottom, 0) + 1] += 1
        for c in range(_COARSE):
            first[c + 1] += first[c]
        for i in range(width):
            drawn = uniform(key, start + begin + i)
            c = max(int(bits[i] >> _COARSE_SHIFT) - bottom, 0)
            low = lowest + np.float32(first[c]) / divisor * spread
            high = lowest + np.float32(first[c + 1] - 1) / divisor * spread
            if width == 1:
                stays[i] = drawn < lowest + np.float32(0.5) * spread
            elif drawn < low:
                stays[i] = 1
            elif drawn >= high:
                stays[i] = 0
            else:
                rank = _rank(bits, i)
                stays[i] = drawn < lowest + np.float32(rank) / divisor * spread
        for i in range(width):
            row[i] = row[i] if stays[i] else _ZERO


@njit(nogil=True, cache=True, inline="never")  # type: ignore[untyped-decorator]
def _rank(bits: NDArray[np.uint32], place: int) -> int:
    """How many are smaller, or equal and before this one."""
    mine = bits[place]
    rank = np.int32(0)
    for j in range(place):
        rank += np.int32(bits[j] <= mine)
    for j in range(place + 1, bits.shape[0]):
        rank += np.int32(bits[j] < mine)
    return int(rank)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def keep_marked(delta: NDArray[np.float32], kept: NDArray[np.uint8]) -> None:
    """Keep the elements whose mark is not 0."""
    for i in range(delta.shape[0]):
        delta[i] = delta[i] if kept[i] else _ZERO


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def absolute_sum(delta: NDArray[np.float32]) -> float:
    """Sum of |delta| in float64, in sixteen lanes that are added in a fixed order."""
    lanes = np.zeros(16, np.float64)
    n = delta.shape[0]
    whole = n - n % 16
    for i in range(0, whole, 16):
        for lane in range(16):
            lanes[lane] += np.float64(abs(delta[i + lane]))
    total = 0.0
    for lane in range(16):
        total += lanes[lane]
    for i in range(whole, n):
        total += np.float64(abs(delta[i]))
    return total
