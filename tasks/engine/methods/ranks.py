"""The k-th largest |delta| of a tensor, exactly, by counting inside a bracket.

A sample says where the k-th largest will be, within six standard errors; one reading of the tensor then counts what
lies above that bracket and each value inside it. Where the bracket misses (about never), the counts say on which
side to look, and the tensor is read once more. The answer does not depend on the sample. A small tensor is sampled
whole.
"""

import math
import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..kernels.magnitudes import count_bracket, magnitude_bits
from .operation import Floats

SAMPLED_RANGE = 4096
"""Consecutive elements per sampled range: 8 KB of bfloat16."""
SAMPLED_RANGES = 16
_SIGMAS = 6.0
_FEWEST_BINS, _MOST_BINS = 1 << 12, 1 << 20
"""Bins of a bracket, 4 MB per thread at most; six standard errors take about 300,000 at 65,536 samples. A small tensor
gets fewer and is read once more if need be: that is cheaper than clearing and adding a million bins."""
_TOP = 1 << 31


def sampled_ranges(elements: int) -> list[tuple[int, int]]:
    """Ranges spread evenly over a tensor; all of it when it is small."""
    if elements <= SAMPLED_RANGE * SAMPLED_RANGES:
        return [(start, min(start + SAMPLED_RANGE, elements)) for start in range(0, elements, SAMPLED_RANGE)]
    step = elements // SAMPLED_RANGES
    return [(k * step, k * step + SAMPLED_RANGE) for k in range(SAMPLED_RANGES)]


class KthLargest:
    """Finds ``bits``, the k-th largest magnitude (k from 1; -1 until it is known), ``above`` and ``equal``: how
    many.
    """

    def __init__(self, k: int, elements: int) -> None:
        """Know nothing yet but that it lies somewhere."""
        self.k, self.elements = k, elements
        self.bits = -1
        self.above = self.equal = 0
        self._low, self._high = 0, _TOP
        self._most = min(max(1 << (elements // 2).bit_length(), _FEWEST_BINS), _MOST_BINS)
        self._bins: dict[int, NDArray[np.uint32]] = {}
        self._lock = threading.Lock()

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

    @property
    def _shift(self) -> int:
        return max(0, (self._high - self._low - 1).bit_length() - (self._most.bit_length() - 1))

    def count(self, up: Floats, down: Floats) -> int:
        """Count one block into this thread's bins; returns how many lie above the bracket."""
        with self._lock:
            size = ((self._high - self._low - 1) >> self._shift) + 1
            bins = self._bins.setdefault(threading.get_ident(), np.zeros(size, np.uint32))
        low, high, shift = np.uint32(self._low), np.uint32(self._high), np.uint32(self._shift)
        return int(count_bracket(up, down, low, high, shift, bins))

    def narrow(self, above: int) -> None:
        """After all blocks: the answer, or a smaller bracket."""
        bins: NDArray[np.int64] = np.stack(list(self._bins.values())).sum(axis=0, dtype=np.int64)
        self._bins.clear()
        inside = int(bins.sum())
        if self.k <= above:
            self._low, self._high = self._high, _TOP
        elif self.k > above + inside:
            self._low, self._high = 0, self._low
        else:
            larger = np.cumsum(bins[::-1])  # from the largest value down
            place = int(np.searchsorted(larger, self.k - above))
            chosen = len(bins) - 1 - place
            if self._shift == 0:
                self.bits = self._low + chosen
                self.equal = int(bins[chosen])
                self.above = above + int(larger[place]) - self.equal
            else:
                low = self._low + (chosen << self._shift)
                self._low, self._high = low, min(low + (1 << self._shift), self._high)


def magnitudes(up: Floats, down: Floats) -> NDArray[np.uint32]:
    """Bits of |up - down| as uint32 [n]."""
    bits = np.empty(len(up), np.uint32)
    magnitude_bits(up, down, bits)
    return bits
