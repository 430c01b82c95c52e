"""Ways to keep a part of a delta: all, the largest, a band, at random, at random by rank.

Each belongs to one delta (one model, one tensor), says which readings it needs, and masks blocks of it in place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.magnitudes import count_equal
from ..kernels.masks import (
    drop_above,
    drop_above_first,
    keep_above,
    keep_above_first,
    keep_marked,
    keep_random,
    keep_ranked,
)
from .operation import BLOCK_ELEMENTS, Floats
from .ranks import KthLargest, magnitudes

_MARKED_BYTES = 64 << 20
"""Marks of one delta that are kept between two readings, a bit each: tensors of up to 512 M elements. Beyond that the
ranks are found a second time."""


class KeepAll:
    """Density 1: nothing to do, and nothing to rescale."""

    stages: tuple[str, ...] = ()
    changes = False

    def measure(self, stage: str, up: Floats, down: Floats, start: int) -> Any:
        """Nothing is asked."""

    def settle(self, stage: str, results: Sequence[Any]) -> None:
        """Nothing is told."""

    def pending(self) -> str | None:
        """No reading."""
        return None

    def mask(self, delta: Floats, start: int) -> None:
        """Leave it as it is."""


class KeepNone(KeepAll):
    """Density 0."""

    changes = True

    def mask(self, delta: Floats, start: int) -> None:
        """All zero."""
        delta[:] = 0


class KeepRandom(KeepAll):
    """Each element with probability `density` (DARE: Yu et al., ICML 2024, arXiv 2311.03099)."""

    changes = True

    def __init__(self, density: float, key: np.uint64) -> None:
        """Keep both."""
        self._density, self._key = np.float32(density), key

    def mask(self, delta: Floats, start: int) -> None:
        """By chance."""
        keep_random(delta, self._density, self._key, start)


class KeepRanked(KeepAll):
    """With a probability that grows with the rank in the row (DELLA: Deep et al., 2024, arXiv 2406.11617)."""

    changes = True

    def __init__(self, density: float, epsilon: float, width: int, elements: int, key: np.uint64) -> None:
        """Probabilities from `density - epsilon` to `density + epsilon`."""
        self._lowest, self._spread = np.float32(density - epsilon), np.float32(2) * np.float32(epsilon)
        self._width, self._key = width, key
        self._marks: dict[int, NDArray[np.uint8]] | None = {} if elements // 8 <= _MARKED_BYTES else None

    def mask(self, delta: Floats, start: int) -> None:
        """By rank; what was decided for this block before is not decided again."""
        known = None if self._marks is None else self._marks.get(start)
        if known is not None:
            keep_marked(delta, np.unpackbits(known, count=len(delta)))
            return
        kept = np.empty(len(delta), np.uint8)
        keep_ranked(delta, self._width, self._lowest, self._spread, self._key, start, kept)
        if self._marks is not None:
            self._marks[start] = np.packbits(kept)


class _Edge:
    """A threshold by rank: everything above it, and `quota` of what equals it, is the top k."""

    def __init__(self, k: int, elements: int) -> None:
        self.k = k
        self.rank = KthLargest(k, elements)
        self.firsts: dict[int, int] = {}

    @property
    def quota(self) -> int:
        """How many of the equal ones belong to the top k."""
        return self.k - self.rank.above

    @property
    def share(self) -> np.float32:
        """The same as a share of them."""
        return np.float32(self.quota / max(self.rank.equal, 1))

    def quota_from(self, start: int) -> int:
        """What is left of the quota for the block that begins here; known when ties go by place."""
        return max(0, self.quota - self.firsts[start]) if self.firsts else self.quota


class KeepLargest(KeepAll):
    """Those of rank [skipped, skipped + kept) by magnitude, largest first.

    The largest without `skipped` (TIES, arXiv 2306.01708, section 3), a band with it (Breadcrumbs: Davari and
    Belilovsky, ECCV 2024, arXiv 2312.06795). Elements that equal an edge are chosen by chance in the right number on
    average: bfloat16 deltas are multiples of an ulp, and 17 % of them can equal the edge, so that choosing by place
    would favour the first rows of every matrix. With `by_place` the first ones are taken, exactly as many as asked for.
    """

    changes = True

    def __init__(self, kept: int, elements: int, key: np.uint64, *, skipped: int = 0, by_place: bool = False) -> None:
        """Find one edge, or two."""
        self._key, self._by_place = key, by_place
        self._outer = _Edge(skipped, elements) if skipped else None
        self._inner = _Edge(skipped + kept, elements) if skipped + kept < elements else None
        self._edges = [edge for edge in (self._outer, self._inner) if edge is not None]
        self._sampled = not self._edges

    def pending(self) -> str | None:
        """Which reading comes next."""
        if not self._sampled:
            return "sample"
        if not all(edge.rank.found for edge in self._edges):
            return "count"
        if self._by_place and any(0 < edge.quota < edge.rank.equal and not edge.firsts for edge in self._edges):
            return "places"
        return None

    def measure(self, stage: str, up: Floats, down: Floats, start: int) -> Any:
        """Figures of one block for the stage that is pending."""
        if stage == "sample":
            return magnitudes(up, down)
        if stage == "count":
            return [None if edge.rank.found else edge.rank.count(up, down) for edge in self._edges]
        return start, [int(count_equal(up, down, np.uint32(edge.rank.bits))) for edge in self._edges]

    def settle(self, stage: str, results: Sequence[Any]) -> None:
        """Take them in."""
        for number, edge in enumerate(self._edges):
            if stage == "sample":
                edge.rank.bracket(results)
            elif stage == "count" and not edge.rank.found:
                edge.rank.narrow([result[number] for result in results])
            elif stage == "places":
                before = 0
                for start, equal in results:
                    edge.firsts[start] = before
                    before += equal[number]
        self._sampled = True

    def mask(self, delta: Floats, start: int) -> None:
        """Drop what is beyond the outer edge, keep what is above the inner one."""
        if self._outer is not None:
            bits = np.uint32(self._outer.rank.bits)
            if self._by_place:
                drop_above_first(delta, bits, self._outer.quota_from(start))
            else:
                drop_above(delta, bits, self._outer.share, self._key, start)
        if self._inner is not None:
            bits = np.uint32(self._inner.rank.bits)
            if self._by_place:
                # The dropped ones are zero now, and lie below any edge that is not zero itself. Where both edges are
                # one magnitude they have used up a part of the quota.
                quota = self._inner.quota_from(start)
                if self._outer is not None and self._outer.rank.bits == self._inner.rank.bits:
                    quota -= self._outer.quota_from(start)
                keep_above_first(delta, bits, quota)
            else:
                keep_above(delta, bits, self._inner.share, self._key, start)


assert BLOCK_ELEMENTS % 8 == 0
