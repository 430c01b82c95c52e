"""Exact order statistics of |delta| by counting, without sorting and without keeping the deltas.

The bits of a non-negative float32, read as an integer, have the order of the numbers. So "the k-th largest |delta|"
is a question of counting integers: one pass over the data counts how many lie above a bracket and how many have each
value inside it. (A stock sort of 10 M float32 takes more than a second on one core: pytorch/pytorch#127936.)
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bits import to_bits

_TILE = 4096
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def magnitude_bits(up: NDArray[np.float32], down: NDArray[np.float32], out: NDArray[np.uint32]) -> None:
    """Bits of ``|up - down|``, float32 [n] to uint32 [n]."""
    for i in range(up.shape[0]):
        out[i] = to_bits(up[i] - down[i]) & _MAGNITUDE


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count_bracket(
    up: NDArray[np.float32],
    down: NDArray[np.float32],
    low: np.uint32,
    high: np.uint32,
    shift: np.uint32,
    bins: NDArray[np.uint32],
) -> int:
    """Count magnitudes: those of at least ``high`` are returned, those in [low, high) are added to ``bins``.

    Args:
        up: [n] the model.
        down: [n] what its delta is taken against.
        low: Bits where the bracket begins.
        high: Bits where it ends, exclusive; at most 2^31.
        shift: A bin is 2^shift values wide.
        bins: [(high - low) >> shift, rounded up], added to.
    """
    bits = np.empty(_TILE, np.uint32)
    above = 0
    for start in range(0, up.shape[0], _TILE):
        stop = min(start + _TILE, up.shape[0])
        one, other = up[start:stop], down[start:stop]
        over = np.uint32(0)
        under = np.uint32(0)
        for i in range(stop - start):
            value = to_bits(one[i] - other[i]) & _MAGNITUDE
            bits[i] = value
            over += np.uint32(value >= high)
            under += np.uint32(value < low)
        above += int(over)
        if over + under != stop - start:
            for i in range(stop - start):
                value = bits[i]
                if low <= value < high:
                    bins[(value - low) >> shift] += np.uint32(1)
    return above


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count_equal(up: NDArray[np.float32], down: NDArray[np.float32], bits: np.uint32) -> int:
    """How many magnitudes have exactly these bits."""
    found = np.int64(0)
    for i in range(up.shape[0]):
        found += np.int64((to_bits(up[i] - down[i]) & _MAGNITUDE) == bits)
    return int(found)
