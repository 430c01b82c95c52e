"""The k-th largest |delta| of a tensor, exactly, by counting inside a bracket.

A sample says where the k-th largest will be, within six standard errors; one reading of the tensor then counts what
lies above that bracket and collects each value inside it. Where the bracket misses, the counts say on which side to
look. Where more lies inside than there is room for, it is counted in bins first, so that memory does not grow with the
tensor. The answer does not depend on the sample. A small tensor is sampled whole.
"""

import math
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.magnitudes import magnitude_bits, pick_bracket

SAMPLED_RANGE = 4096
"""Consecutive elements per sampled range: 8 KB of bfloat16."""
SAMPLED_RANGES = 16
_SIGMAS = 6.0
_TOP = 1 << 31
_ROOM = 96 << 20
"""Bytes for what lies inside a bracket. Of a matrix of even rows it took 0.24 bytes an element in bfloat16 and 0.08 in
float32; of one whose rows' deltas differ by factors of e^2, 0.86 and 3.4."""
_BINS = 12
"""Bits of a value by which a larger bracket is narrowed in one reading."""


_NOTHING = np.empty(0, np.uint32)
"""An array of its own: an empty part of what was picked would keep all of it."""


class Counted(NamedTuple):
    """One block: how many magnitudes lie above the bracket and inside it, and those inside if there is room."""

    above: int
    inside: int
    values: NDArray[np.uint32]
    """Empty where they went into the bins, or where there is no more room for them."""
    counts: NDArray[np.int64] | None
    """How often each value occurs, ascending; None: as often as it stands there, in any order."""


def sampled_ranges(elements: int) -> list[tuple[int, int]]:
    """Ranges spread evenly over a tensor; all of it when it is small."""
    if elements <= SAMPLED_RANGE * SAMPLED_RANGES:
        return [(start, min(start + SAMPLED_RANGE, elements)) for start in range(0, elements, SAMPLED_RANGE)]
    step = elements // SAMPLED_RANGES
    return [(k * step, k * step + SAMPLED_RANGE) for k in range(SAMPLED_RANGES)]


class KthLargest:
    """Finds ``bits``, the k-th largest magnitude (k from 1; -1 until it is known), ``above`` and ``equal``.

    Memory: what lies inside the bracket, about 2.4 % of an even tensor, and no more than 96 MB.
    """

    def __init__(self, k: int, elements: int) -> None:
        """Know nothing yet but that it lies somewhere."""
        self.k, self.elements = k, elements
        self.bits = -1
        self.above = self.equal = 0
        self._low, self._high = 0, _TOP
        self._inside = 0
        """Known to lie in the bracket."""
        self._kept = 0
        """Bytes."""
        self._shift = 0
        self._bins: NDArray[np.int64] | None = None
        self._lock = threading.Lock()

    @property
    def found(self) -> bool:
        """Whether the answer is known."""
        return self.bits >= 0

    def bracket(self, samples: Iterable[NDArray[np.uint32]]) -> None:
        """Place the bracket by a sample of magnitudes' bits; a sample that is everything is the answer.

        Neighbours are alike (rows of embeddings differ by their tokens' frequency), so the error is that of a sample
        of ranges where this is larger than that of single elements.
        """
        ranges = list(samples)
        ordered = np.sort(np.concatenate(ranges))[::-1]
        if len(ordered) == self.elements:
            self.bits = int(ordered[self.k - 1])
            self.above = int(np.count_nonzero(ordered > self.bits))
            self.equal = int(np.count_nonzero(ordered == self.bits))
            return
        share = self.k / self.elements
        expected, error = share * len(ordered), math.sqrt(len(ordered) * share * (1 - share)) + 1
        threshold = ordered[min(int(expected), len(ordered) - 1)]
        found = [int(np.count_nonzero(part >= threshold)) for part in ranges]
        error = max(error, float(np.std(found)) * math.sqrt(len(found)))
        first = math.floor(expected - _SIGMAS * error)
        last = math.ceil(expected + _SIGMAS * error)
        self._high = int(ordered[first]) + 1 if first >= 0 else _TOP
        self._low = int(ordered[last]) if last < len(ordered) else 0

    def _choose_way(self) -> None:
        """Bins where too much may lie inside to be kept; they end when a bin is one value."""
        size = self._high - self._low
        self._shift = max(0, (size - 1).bit_length() - _BINS)
        self._bins = np.zeros(1 << _BINS, np.int64) if 4 * self._inside > _ROOM else None
        self._kept = 0

    def count(self, up: NDArray[Any], down: NDArray[Any]) -> Counted:
        """Count one block."""
        picked = np.empty(len(up) + 1, np.uint32)
        above, inside = pick_bracket(up, down, np.uint32(self._low), np.uint32(self._high), picked)
        picked = picked[:inside]
        if self._bins is not None:
            counted = np.bincount((picked - np.uint32(self._low)) >> self._shift, minlength=len(self._bins))
            with self._lock:
                self._bins += counted
            return Counted(above, inside, _NOTHING, None)
        values, counts = picked, None
        if inside > len(up) >> 3:
            # Deltas of bfloat16 are few different numbers, and a sixth of them may be one: they need not all be kept.
            values, counts = np.unique(picked, return_counts=True)
            if 3 * len(values) >= inside:  # float32: a value and its count take more room than the values
                values, counts = picked, None
        with self._lock:
            self._kept += values.nbytes + (0 if counts is None else counts.nbytes)
            if self._kept > _ROOM:
                return Counted(above, inside, _NOTHING, None)
        return Counted(above, inside, values.copy() if counts is None else values, counts)

    def narrow(self, blocks: Sequence[Counted]) -> None:
        """After all blocks: the answer, or where it lies."""
        above, inside = sum(block.above for block in blocks), sum(block.inside for block in blocks)
        if self.k <= above:
            self._low, self._high, self._inside = self._high, _TOP, above
        elif self.k > above + inside:
            self._low, self._high, self._inside = 0, self._low, self.elements - above - inside
        elif self._bins is not None:
            self._narrow_to_bin(above, self._bins)
        elif self._kept > _ROOM:
            self._inside = inside
        else:
            self._choose(above, blocks)
        self._choose_way()

    def _choose(self, above: int, blocks: Sequence[Counted]) -> None:
        """The answer is among the values that were kept."""
        wanted = self.k - above
        if all(block.counts is None for block in blocks):
            values = np.sort(np.concatenate([block.values for block in blocks]))
            self.bits = int(values[len(values) - wanted])
            first, last = (int(np.searchsorted(values, np.uint32(self.bits), side)) for side in ("left", "right"))
            self.above, self.equal = above + len(values) - last, last - first
            return
        values, counts = _joined(blocks)
        order = np.argsort(values)[::-1]
        larger = np.cumsum(counts[order])  # from the largest value down
        self.bits = int(values[order[np.searchsorted(larger, wanted)]])
        self.above = above + int(counts[values > self.bits].sum())
        self.equal = int(counts[values == self.bits].sum())

    def _narrow_to_bin(self, above: int, bins: NDArray[np.int64]) -> None:
        larger = np.cumsum(bins[::-1])  # from the largest value down
        place = int(np.searchsorted(larger, self.k - above))
        chosen = len(bins) - 1 - place
        self._low += chosen << self._shift
        self._high = min(self._low + (1 << self._shift), self._high)
        self._inside = int(bins[chosen])
        if self._shift == 0:
            self.bits, self.equal = self._low, int(bins[chosen])
            self.above = above + int(larger[place]) - self.equal


def _joined(blocks: Sequence[Counted]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Values and counts of all blocks."""
    alone = [block.values for block in blocks if block.counts is None]
    values = [block.values for block in blocks if block.counts is not None]
    counts = [block.counts for block in blocks if block.counts is not None]
    if alone:  # numpy sorts numbers twenty times faster than it sorts their places
        found, often = np.unique(np.concatenate(alone), return_counts=True)
        values, counts = [*values, found], [*counts, often]
    return np.concatenate(values), np.concatenate(counts)


def magnitudes(up: NDArray[Any], down: NDArray[Any]) -> NDArray[np.uint32]:
    """Bits of |up - down|, both float32 or bfloat16 as uint16 [n], as uint32 [n]."""
    bits = np.empty(len(up), np.uint32)
    magnitude_bits(up, down, bits)
    return bits
