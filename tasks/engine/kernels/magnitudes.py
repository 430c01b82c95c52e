"""Exact order statistics of |delta| by counting, without sorting and without keeping the deltas.

The bits of a non-negative float32, read as an integer, have the order of the numbers. So "the k-th largest |delta|"
is a question of counting integers: one pass over the data counts how many lie above a bracket and how many have each
value inside it. (A stock sort of 10 M float32 takes more than a second on one core: pytorch/pytorch#127936.)
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bits import to_bits, widened

_TILE = 2048
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def magnitude_bits(up: NDArray[Any], down: NDArray[Any], out: NDArray[np.uint32]) -> None:
    """Bits of ``|up - down|``, float32 or bfloat16 [n] to uint32 [n]."""
    for i in range(up.shape[0]):
        out[i] = to_bits(widened(up[i]) - widened(down[i])) & _MAGNITUDE


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def pick_bracket(
    up: NDArray[Any], down: NDArray[Any], low: np.uint32, high: np.uint32, picked: NDArray[np.uint32]
) -> tuple[int, int]:
    """Count the magnitudes of at least ``high``, and copy those in [low, high).

    Args:
        up: [n] the model, float32 or bfloat16 as uint16.
        down: [n] what its delta is taken against.
        low: Bits where the bracket begins.
        high: Bits where it ends, exclusive; at most 2^31.
        picked: [n + 1] where the bits inside go, from the front.

    Returns:
        How many lie above the bracket, and how many inside.
    """
    bits = np.empty(_TILE, np.uint32)
    above, inside = 0, np.int64(0)
    room = np.uint32(high - low)
    for start in range(0, up.shape[0], _TILE):
        stop = min(start + _TILE, up.shape[0])
        one, other = up[start:stop], down[start:stop]
        over = np.int32(0)
        for i in range(stop - start):
            value = to_bits(widened(one[i]) - widened(other[i])) & _MAGNITUDE
            bits[i] = value
            over = np.int32(over + np.int32(value >= high))
        above += int(over)
        for i in range(stop - start):  # always stored and sometimes counted: a branch would be guessed wrong
            picked[inside] = bits[i]
            inside += np.int64(np.uint32(bits[i] - low) < room)
    return above, int(inside)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count_equal(up: NDArray[Any], down: NDArray[Any], bits: np.uint32) -> int:
    """How many magnitudes have exactly these bits."""
    found = np.int64(0)
    for i in range(up.shape[0]):
        found += np.int64((to_bits(widened(up[i]) - widened(down[i])) & _MAGNITUDE) == bits)
    return int(found)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def mark_by_place(
    up: NDArray[Any],
    down: NDArray[Any],
    edges: tuple[np.uint32, np.uint32],
    quotas: tuple[np.int64, np.int64],
    kept: NDArray[np.uint8],
) -> None:
    """Mark magnitudes up to one edge and above another, and of those that equal an edge the first ones.

    Args:
        up: [n] the model, float32 or bfloat16 as uint16.
        down: [n] what its delta is taken against.
        edges: Bits of two magnitudes: what is above the first goes, what is not above the second goes.
        quotas: How many that equal the first go, and how many that equal the second stay.
        kept: [n] uint8, overwritten: 1 stays, 0 goes.
    """
    outer, inner = edges
    goes, stays = quotas
    for i in range(up.shape[0]):
        value = to_bits(widened(up[i]) - widened(down[i])) & _MAGNITUDE
        above_outer, above_inner = value > outer, value > inner
        if value == outer and goes > 0:
            goes -= 1
            above_outer = True
        if value == inner and stays > 0:
            stays -= 1
            above_inner = True
        kept[i] = above_inner and not above_outer
