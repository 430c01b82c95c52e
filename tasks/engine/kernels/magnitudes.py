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
def pick_bracket(
    up: NDArray[np.float32], down: NDArray[np.float32], low: np.uint32, high: np.uint32, picked: NDArray[np.uint32]
) -> tuple[int, int]:
    """Count the magnitudes of at least ``high``, and copy those in [low, high).

    Args:
        up: [n] the model.
        down: [n] what its delta is taken against.
        low: Bits where the bracket begins.
        high: Bits where it ends, exclusive; at most 2^31.
        picked: [n] where the bits inside go, from the front.

    Returns:
        How many lie above the bracket, and how many inside.
    """
    bits = np.empty(_TILE, np.uint32)
    above = inside = 0
    for start in range(0, up.shape[0], _TILE):
        stop = min(start + _TILE, up.shape[0])
        one, other = up[start:stop], down[start:stop]
        over = np.uint32(0)
        for i in range(stop - start):
            value = to_bits(one[i] - other[i]) & _MAGNITUDE
            bits[i] = value
            over += np.uint32(value >= high)
        above += int(over)
        for i in range(stop - start):
            if low <= bits[i] < high:
                picked[inside] = bits[i]
                inside += 1
    return above, inside


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count_equal(up: NDArray[np.float32], down: NDArray[np.float32], bits: np.uint32) -> int:
    """How many magnitudes have exactly these bits."""
    found = np.int64(0)
    for i in range(up.shape[0]):
        found += np.int64((to_bits(up[i] - down[i]) & _MAGNITUDE) == bits)
    return int(found)
