"""Chances that grow with an element's rank in its row, without sorting the row (DELLA).

A coarse class of its magnitude gives an element a first and a last rank, which decides nearly always, since the ends of
the probabilities decide most elements before anything is known of their rank. What is left is ranked inside its class.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .bits import to_bits, to_float, widened
from .chance import fill_uniform

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_CLASSES = 256
_SHIFT = np.uint32(18)
"""A class has the first five bits of a mantissa: 32 classes per power of two, over the 8 powers below the largest
magnitude of the row. The lowest class holds everything below."""


_COPIES = 2
"""Of the counts, filled in turn: two neighbours of one class would wait for each other's addition."""
_SUMS = 512
_FEW = 24
"""Elements of a row that are ranked among all others of the row; more are worth sorting the row by class."""


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def mark_ranked(
    up: NDArray[Any],
    down: NDArray[Any],
    width: int,
    lowest: np.float32,
    spread: np.float32,
    key: np.uint64,
    start: np.int64,
    kept: NDArray[np.uint8],
    sums: NDArray[np.float64],
) -> None:
    """Mark which elements of ``up - down`` stay, and add up their magnitudes.

    The element of rank r in its row by magnitude (0 smallest, equal ones in order of place) stays with probability
    ``lowest + r / (width - 1) * spread``; a row of one element stays with the mean of the two ends.

    Args:
        up: [rows * width] the model, float32 or bfloat16 as uint16.
        down: [rows * width] what its delta is taken against.
        width: Elements of a row.
        lowest: Probability of the smallest element of a row.
        spread: What the largest has more, 0 or more.
        key: Of `uniform`.
        start: Flat place of the first element.
        kept: [rows * width] uint8, overwritten: 1 stays, 0 goes.
        sums: float64 [2], overwritten: of all magnitudes, and of those that stay. Every place of a tile has a sum of
            its own, and these are added in their order: the same on every processor.
    """
    whole, left = np.zeros(_SUMS, np.float64), np.zeros(_SUMS, np.float64)
    bits, ordered = np.empty(width, np.uint32), np.empty(width, np.uint32)
    classes, numbers = np.empty(width, np.uint16), np.empty(width, np.uint32)
    drawn, flags = np.empty(width, np.float32), np.empty(width, np.uint8)
    asked, open_ = np.empty(width + 1, np.uint32), np.empty(width + 1, np.uint32)
    firsts, nexts = np.empty(_CLASSES + 1, np.uint32), np.empty(_CLASSES + 1, np.uint32)
    counts = np.empty((_COPIES, _CLASSES), np.uint32)
    sure, possible = np.empty(_CLASSES, np.float32), np.empty(_CLASSES, np.float32)
    divisor = np.float32(max(width - 1, 1))
    highest = lowest + np.float32(width - 1) / divisor * spread
    for begin in range(0, up.shape[0], width):
        stays = kept[begin : begin + width]
        fill_uniform(key, start + begin, drawn)
        _classify(up[begin : begin + width], down[begin : begin + width], bits, classes)
        if width == 1:
            stays[0] = drawn[0] < lowest + np.float32(0.5) * spread
            _add_up(bits, stays, whole, left)
            continue
        for i in range(width):
            stays[i] = drawn[i] < lowest
            flags[i] = (drawn[i] >= lowest) & (drawn[i] < highest)
        questions = _chosen(flags, asked)
        _count(classes, counts, firsts)
        for c in range(_CLASSES):
            sure[c] = lowest + np.float32(firsts[c]) / divisor * spread
            possible[c] = lowest + np.float32(np.int32(firsts[c + 1]) - np.int32(1)) / divisor * spread
        undecided = np.uint64(0)
        for q in range(questions):
            place = np.uint64(asked[q])
            own = np.uint64(classes[place])
            stays[place] = drawn[place] < sure[own]
            open_[undecided] = place
            undecided += np.uint64((drawn[place] >= sure[own]) & (drawn[place] < possible[own]))
        sorted_ = undecided > _FEW
        if sorted_:
            _order(classes, bits, firsts, nexts, ordered, numbers)
        for q in range(undecided):
            place = np.uint64(open_[q])
            own = np.uint64(classes[place])
            if sorted_:
                rank = firsts[own] + _rank(
                    ordered[firsts[own] : firsts[own + np.uint64(1)]], np.int64(numbers[place] - firsts[own])
                )
            else:
                rank = _rank(bits, np.int64(place))
            stays[place] = drawn[place] < lowest + np.float32(rank) / divisor * spread
        _add_up(bits, stays, whole, left)
    sums[0] = sums[1] = 0.0
    for i in range(_SUMS):
        sums[0] += whole[i]
        sums[1] += left[i]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _add_up(
    bits: NDArray[np.uint32], stays: NDArray[np.uint8], whole: NDArray[np.float64], left: NDArray[np.float64]
) -> None:
    """Add the magnitudes of one row to the sums of their places."""
    for begin in range(0, bits.shape[0], _SUMS):
        length = min(_SUMS, bits.shape[0] - begin)
        own, marks = bits[begin : begin + length], stays[begin : begin + length]
        for i in range(length):
            whole[i] += np.float64(to_float(own[i]))
        for i in range(length):  # in one loop with the other, numba finds no vector instructions for it
            left[i] += np.float64(to_float(own[i] if marks[i] else np.uint32(0)))


# Indices are unsigned below: for a signed one numba asks whether it counts from the end, which takes twice as long.


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _chosen(flags: NDArray[np.uint8], places: NDArray[np.uint32]) -> np.uint64:
    """Places of the flags that are 1, from the front; how many they are.

    A place is always stored and sometimes counted: a branch would be guessed wrong.
    """
    count = np.uint64(0)
    for i in range(flags.shape[0]):
        places[count] = i
        count += np.uint64(flags[np.uint64(i)])
    return count


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _classify(up: NDArray[Any], down: NDArray[Any], bits: NDArray[np.uint32], classes: NDArray[np.uint16]) -> None:
    """Bits of the magnitudes of one row, and their classes."""
    largest = np.uint32(0)
    for i in range(up.shape[0]):
        value = to_bits(widened(up[i]) - widened(down[i])) & _MAGNITUDE
        bits[i] = value
        largest = value if value > largest else largest
    bottom = np.int32(max(int(largest >> _SHIFT) - (_CLASSES - 1), 0))
    for i in range(up.shape[0]):
        above = np.int32(np.int32(bits[i] >> _SHIFT) - bottom)
        classes[i] = np.uint16(above if above > 0 else np.int32(0))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _count(classes: NDArray[np.uint16], counts: NDArray[np.uint32], firsts: NDArray[np.uint32]) -> None:
    """The rank at which each class begins."""
    counts[:] = 0
    whole = classes.shape[0] - classes.shape[0] % _COPIES
    for begin in range(0, whole, _COPIES):
        for copy in range(_COPIES):
            counts[np.uint64(copy), np.uint64(classes[np.uint64(begin + copy)])] += np.uint32(1)
    for i in range(whole, classes.shape[0]):
        counts[np.uint64(0), np.uint64(classes[np.uint64(i)])] += np.uint32(1)
    before = np.uint32(0)
    for k in range(_CLASSES):
        firsts[k] = before
        for copy in range(_COPIES):
            before = np.uint32(before + counts[copy, k])
    firsts[_CLASSES] = before


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _order(
    classes: NDArray[np.uint16],
    bits: NDArray[np.uint32],
    firsts: NDArray[np.uint32],
    nexts: NDArray[np.uint32],
    ordered: NDArray[np.uint32],
    places: NDArray[np.uint32],
) -> None:
    """Bits by class, in order of place within each; and where each element went."""
    nexts[:] = firsts
    for i in range(classes.shape[0]):
        own = np.uint64(classes[np.uint64(i)])
        to = nexts[own]
        ordered[np.uint64(to)] = bits[np.uint64(i)]
        places[np.uint64(i)] = to
        nexts[own] = to + np.uint32(1)


@njit(nogil=True, cache=True, inline="never")  # type: ignore[untyped-decorator]
def _rank(members: NDArray[np.uint32], own: int) -> int:
    """How many of a class are smaller than the one at ``own``, or equal and before it."""
    mine, before, after = members[own], members[:own], members[own + 1 :]
    rank = np.int32(0)
    for j in range(before.shape[0]):
        rank = np.int32(rank + np.int32(before[j] <= mine))
    for j in range(after.shape[0]):
        rank = np.int32(rank + np.int32(after[j] < mine))
    return int(rank)
