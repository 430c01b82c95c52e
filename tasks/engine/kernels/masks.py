"""Which elements of a delta stay: each kernel sets the others to zero, in place."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bits import to_bits
from .chance import uniform

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_ZERO = np.float32(0.0)
_COARSE = 512
_COARSE_SHIFT = np.uint32(17)
"""Coarse ranks have 64 classes per power of two, over the 8 powers below the largest of the row."""
_COPIES = 4
"""Of the counts, filled in turn: two neighbours of one class would wait for each other's addition."""
_FEW = 16
"""Elements of a row that are ranked one by one, by looking at all others."""


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
    classes = np.empty(width, np.int32)
    drawn = np.empty(width, np.float32)
    open_, numbers = np.empty(width, np.uint8), np.empty(width, np.int32)
    counts = np.empty((_COPIES, _COARSE), np.int32)
    sure, possible = np.empty(_COARSE, np.float32), np.empty(_COARSE, np.float32)
    divisor = np.float32(max(width - 1, 1))
    for begin in range(0, delta.shape[0], width):
        row, stays = delta[begin : begin + width], kept[begin : begin + width]
        largest = np.uint32(0)
        for i in range(width):
            bits[i] = to_bits(row[i]) & _MAGNITUDE
            largest = max(largest, bits[i])
            drawn[i] = uniform(key, start + begin + i)
        bottom = np.int32(max(int(largest >> _COARSE_SHIFT) - (_COARSE - 1), 0))
        for i in range(width):
            above = np.int32(np.int32(bits[i] >> _COARSE_SHIFT) - bottom)
            classes[i] = above if above > 0 else np.int32(0)
        counts[:] = 0
        whole = width - width % _COPIES
        for i in range(0, whole, _COPIES):
            for copy in range(_COPIES):
                counts[copy, classes[i + copy]] += np.int32(1)
        for i in range(whole, width):
            counts[0, classes[i]] += np.int32(1)
        before = 0
        for c in range(_COARSE):
            members = 0
            for copy in range(_COPIES):
                members += counts[copy, c]
            sure[c] = lowest + np.float32(before) / divisor * spread
            before += members
            possible[c] = lowest + np.float32(before - 1) / divisor * spread
        if width == 1:
            sure[:] = lowest + np.float32(0.5) * spread
            possible[:] = sure
        for i in range(width):
            c = classes[i]
            stays[i] = drawn[i] < sure[c]
            open_[i] = (drawn[i] >= sure[c]) & (drawn[i] < possible[c])
        undecided = np.int32(0)
        for i in range(width):
            undecided += np.int32(open_[i])
        if undecided > _FEW:
            _number_equal_ones(bits, classes, counts, numbers)
        for i in range(width):
            if open_[i]:
                rank = numbers[i] if undecided > _FEW else np.int32(-1)
                if rank < 0:
                    rank = np.int32(_rank(bits, i))
                stays[i] = drawn[i] < lowest + np.float32(rank) / divisor * spread
        for i in range(width):
            row[i] = row[i] if stays[i] else _ZERO


@njit(nogil=True, cache=True, inline="never")  # type: ignore[untyped-decorator]
def _number_equal_ones(
    bits: NDArray[np.uint32], classes: NDArray[np.int32], counts: NDArray[np.int32], numbers: NDArray[np.int32]
) -> None:
    """Ranks of elements whose class has one magnitude only, of which bfloat16 deltas are full; -1 for the others."""
    ranks, value = np.empty(_COARSE, np.int32), np.zeros(_COARSE, np.uint32)
    before = np.int32(0)
    for c in range(_COARSE):
        ranks[c] = before
        for copy in range(_COPIES):
            before += counts[copy, c]
    mixed = np.zeros(_COARSE, np.uint8)
    for i in range(bits.shape[0]):
        c = classes[i]
        mixed[c] |= np.uint8((value[c] != 0) & (value[c] != bits[i]))
        value[c] = bits[i] if bits[i] != 0 else value[c]
        numbers[i] = ranks[c]
        ranks[c] += np.int32(1)
    if value[0] != 0:  # zeros and what is above them share the lowest class
        mixed[0] = 1
    for i in range(bits.shape[0]):
        numbers[i] = np.int32(-1) if mixed[classes[i]] else numbers[i]


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
