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
_SHIFT = np.uint32(18)
_BELOW = np.uint32((1 << 18) - 1)
_STEPS = 256
"""A step has the first five bits of a mantissa: 32 steps per power of two, over the 8 powers below the largest
magnitude of the row."""
_CLASSES = 2 * _STEPS
"""Of each step: the magnitudes with no bit below these five, which are all equal, and the others, which are larger. Of
bfloat16, 93 % of the deltas are of the first kind (children 5 % away from their base), and where all are equal, an
element's rank is its number in the class. Class 0 is the number 0, class 1 everything else below the lowest step."""

_SUMS = 512
_FEW = 24
"""Elements of a row that are ranked among all others of the row; more are worth putting the row in order of class."""


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
    firsts, seconds = np.empty(_CLASSES + 1, np.uint32), np.empty(_CLASSES, np.uint32)
    counts = np.empty((2, _CLASSES), np.uint32)
    half = np.int64(width // 2)
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
        _count(classes, counts, numbers)
        _begin(counts, firsts, seconds)
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
        mixed = np.uint64(0)
        for q in range(undecided):
            place = np.uint64(open_[q])
            own = np.uint64(classes[place])
            to = np.uint32((seconds[own] if place >= half else firsts[own]) + numbers[place])
            stays[place] = drawn[place] < lowest + np.float32(np.int32(to)) / divisor * spread
            open_[mixed] = place
            mixed += own & np.uint64(1)
        if mixed > _FEW:
            _order(classes, bits, firsts, seconds, numbers, ordered)
        for q in range(mixed):
            place = np.uint64(open_[q])
            own = np.uint64(classes[place])
            if mixed > _FEW:
                first, end = firsts[own], firsts[own + np.uint64(1)]
                at = np.int64((seconds[own] - first if place >= half else np.uint32(0)) + numbers[place])
                rank = np.int64(first) + _rank(ordered[first:end], at)
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
    bottom = np.int32(max(int(largest >> _SHIFT) - (_STEPS - 1), 0))
    for i in range(up.shape[0]):
        value = bits[i]
        step = np.int32(np.int32(value >> _SHIFT) - bottom)
        own = np.int32(step + step + np.int32((value & _BELOW) != 0))
        classes[i] = np.uint16(own if step > 0 else np.int32(value != 0))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _count(classes: NDArray[np.uint16], counts: NDArray[np.uint32], numbers: NDArray[np.uint32]) -> None:
    """Number the elements of each class, and count them, in each half of the row by itself.

    The halves take turns, since two neighbours of one class would wait for each other's addition.
    """
    counts[:] = 0
    half = np.uint64(classes.shape[0] // 2)
    one = np.uint32(1)
    left, right = counts[0], counts[1]
    for i in range(half):
        own, other = np.uint64(classes[np.uint64(i)]), np.uint64(classes[np.uint64(i) + half])
        known, theirs = left[own], right[other]
        numbers[np.uint64(i)], numbers[np.uint64(i) + half] = known, theirs
        left[own], right[other] = known + one, theirs + one
    if classes.shape[0] % 2:
        last = np.uint64(classes.shape[0] - 1)
        own = np.uint64(classes[last])
        numbers[last] = right[own]
        right[own] += one


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _begin(counts: NDArray[np.uint32], firsts: NDArray[np.uint32], seconds: NDArray[np.uint32]) -> None:
    """The rank at which each class begins, and its second half."""
    before = np.uint32(0)
    for k in range(_CLASSES):
        firsts[k] = before
        before = np.uint32(before + counts[0, k])
        seconds[k] = before
        before = np.uint32(before + counts[1, k])
    firsts[_CLASSES] = before


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _order(
    classes: NDArray[np.uint16],
    bits: NDArray[np.uint32],
    firsts: NDArray[np.uint32],
    seconds: NDArray[np.uint32],
    numbers: NDArray[np.uint32],
    ordered: NDArray[np.uint32],
) -> None:
    """Bits by class, in order of place within each."""
    half = classes.shape[0] // 2
    for i in range(half):
        own = np.uint64(classes[np.uint64(i)])
        ordered[np.uint64(np.uint32(firsts[own] + numbers[np.uint64(i)]))] = bits[np.uint64(i)]
    for i in range(half, classes.shape[0]):
        own = np.uint64(classes[np.uint64(i)])
        ordered[np.uint64(np.uint32(seconds[own] + numbers[np.uint64(i)]))] = bits[np.uint64(i)]


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
