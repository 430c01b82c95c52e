"""The k-th largest |delta| of a tensor, exactly, by counting inside a bracket.

A sample says where the k-th largest will be, within six standard errors; one reading of the tensor then counts what
lies above that bracket and collects each value inside it. Where the bracket misses (about never), the counts say on
which side to look, and the tensor is read once more. The answer does not depend on the sample. A small tensor is
sampled whole.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.magnitudes import magnitude_bits, pick_bracket
from .operation import Floats

SAMPLED_RANGE = 4096
"""Consecutive elements per sampled range: 8 KB of bfloat16."""
SAMPLED_RANGES = 16
_SIGMAS = 6.0
_TOP = 1 << 31


class Counted(NamedTuple):
    """One block: how many magnitudes lie above the bracket, and what lies inside."""

    above: int
    values: NDArray[np.uint32]
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

    Memory: what lies inside the bracket, about 2.4 % of the tensor at 12 bytes an element.
    """

    def __init__(self, k: int, elements: int) -> None:
        """Know nothing yet but that it lies somewhere."""
        self.k, self.elements = k, elements
        self.bits = -1
        self.above = self.equal = 0
        self._low, self._high = 0, _TOP

    @property
    def found(self) -> bool:
        """Whether the answer is known."""
        return self.bits >= 0

    def bracket(self, samples: Iterable[NDArray[np.uint32]]) -> None:
        """Place the bracket by a sample of magnitudes' bits; a sample that is everything is the answer."""
        ordered = np.sort(np.concatenate(list(samples)))[::-1]
        if len(ordered) == self.elements:
            self.bits = int(ordered[self.k - 1])
            self.above = int(np.count_nonzero(ordered > self.bits))
            self.equal = int(np.count_nonzero(ordered == self.bits))
            return
        share = self.k / self.elements
        expected, error = share * len(ordered), math.sqrt(len(ordered) * share * (1 - share)) + 1
        first = math.floor(expected - _SIGMAS * error)
        last = math.ceil(expected + _SIGMAS * error)
        self._high = int(ordered[first]) + 1 if first >= 0 else _TOP
        self._low = int(ordered[last]) if last < len(ordered) else 0

    def count(self, up: Floats, down: Floats) -> Counted:
        """Count one block."""
        picked = np.empty(len(up) + 1, np.uint32)
        above, inside = pick_bracket(up, down, np.uint32(self._low), np.uint32(self._high), picked)
        if inside <= len(up) >> 3:
            return Counted(above, picked[:inside].copy(), None)
        # Deltas of bfloat16 are few different numbers, and a sixth of them may be one: they need not all be kept.
        return Counted(above, *np.unique(picked[:inside], return_counts=True))

    def narrow(self, blocks: Sequence[Counted]) -> None:
        """After all blocks: the answer, or the side on which it lies."""
        above = sum(block.above for block in blocks)
        inside = sum(len(block.values) if block.counts is None else int(block.counts.sum()) for block in blocks)
        if self.k <= above:
            self._low, self._high = self._high, _TOP
        elif self.k > above + inside:
            self._low, self._high = 0, self._low
        else:
            values, counts = _joined(blocks)
            order = np.argsort(values)[::-1]
            larger = np.cumsum(counts[order])  # from the largest value down
            self.bits = int(values[order[np.searchsorted(larger, self.k - above)]])
            self.above = above + int(counts[values > self.bits].sum())
            self.equal = int(counts[values == self.bits].sum())


def _joined(blocks: Sequence[Counted]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Values and counts of all blocks."""
    alone = [block.values for block in blocks if block.counts is None]
    values = [block.values for block in blocks if block.counts is not None]
    counts = [block.counts for block in blocks if block.counts is not None]
    if alone:  # numpy sorts numbers twenty times faster than it sorts their places
        found, often = np.unique(np.concatenate(alone), return_counts=True)
        values, counts = [*values, found], [*counts, often]
    return np.concatenate(values), np.concatenate(counts)


def magnitudes(up: Floats, down: Floats) -> NDArray[np.uint32]:
    """Bits of |up - down| as uint32 [n]."""
    bits = np.empty(len(up), np.uint32)
    magnitude_bits(up, down, bits)
    return bits
