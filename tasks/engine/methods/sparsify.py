"""Ways to keep a part of a delta: all, the largest, a band, at random, at random by rank.

Each belongs to one delta (one model, one tensor), says which readings it needs, and then how it is thinned.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.magnitudes import count_equal, mark_by_place
from ..kernels.ranked import mark_ranked
from ..kernels.thinned import BY_CHANCE, BY_EDGES, BY_MARKS, NOT_AT_ALL
from .ranks import KthLargest, magnitudes

Stored = NDArray[Any]
"""[n] of one source: float32, or bfloat16 as uint16."""

_MARKED_BYTES = 64 << 20
"""Marks of one delta that are kept between two readings, a bit each: tensors of up to 512 M elements. Beyond that the
ranks are found a second time."""
_NO_EDGE = 0xFFFFFFFF
"""Bits that no magnitude has."""


class Way(NamedTuple):
    """How a delta is thinned, as `Thinning` has it for one model."""

    kind: int
    edges: tuple[int, int] = (_NO_EDGE, 0)
    shares: tuple[float, float] = (0.0, 0.0)
    key: int = 0


class KeepAll:
    """Density 1: nothing to do, and nothing to rescale."""

    changes = False

    def measure(self, stage: str, up: Stored, down: Stored, start: int) -> Any:
        """Nothing is asked."""

    def settle(self, stage: str, results: Sequence[Any]) -> None:
        """Nothing is told."""

    def pending(self) -> str | None:
        """No reading."""
        return None

    def way(self) -> Way:
        """Known when no reading is pending."""
        return Way(NOT_AT_ALL)

    def sums(self, up: Stored, down: Stored, start: int) -> NDArray[np.float64] | None:
        """Sums of the magnitudes of a block, whole and thinned, if this way finds them while it marks."""
        return None

    def mark(self, up: Stored, down: Stored, start: int, kept: NDArray[np.uint8]) -> None:
        """The marks of a block, if it goes by marks: uint8 [n], 1 where an element stays."""
        raise NotImplementedError


class KeepNone(KeepAll):
    """Density 0."""

    changes = True

    def way(self) -> Way:
        """With probability 0."""
        return Way(BY_CHANCE)


class KeepRandom(KeepAll):
    """Each element with probability `density` (DARE: Yu et al., ICML 2024, arXiv 2311.03099)."""

    changes = True

    def __init__(self, density: float, key: np.uint64) -> None:
        """Keep both."""
        self._density, self._key = density, key

    def way(self) -> Way:
        """By chance."""
        return Way(BY_CHANCE, shares=(self._density, 0.0), key=int(self._key))


class KeepRanked(KeepAll):
    """With a probability that grows with the rank in the row (DELLA: Deep et al., 2024, arXiv 2406.11617)."""

    changes = True

    def __init__(self, density: float, epsilon: float, width: int, elements: int, key: np.uint64) -> None:
        """Probabilities from `density - epsilon` to `density + epsilon`."""
        self._lowest, self._spread = np.float32(density - epsilon), np.float32(2) * np.float32(epsilon)
        self._width, self._key = width, key
        self._marks: dict[int, NDArray[np.uint8]] | None = {} if elements // 8 <= _MARKED_BYTES else None

    def way(self) -> Way:
        """By marks."""
        return Way(BY_MARKS)

    def sums(self, up: Stored, down: Stored, start: int) -> NDArray[np.float64]:
        """Marking and adding up is one pass here."""
        kept, sums = np.empty(len(up), np.uint8), np.empty(2)
        self._decide(up, down, start, kept, sums)
        if self._marks is not None:
            self._marks[start] = np.packbits(kept)
        return sums

    def mark(self, up: Stored, down: Stored, start: int, kept: NDArray[np.uint8]) -> None:
        """By rank; what was decided for this block before is not decided again."""
        known = None if self._marks is None else self._marks.get(start)
        if known is not None:
            kept[:] = np.unpackbits(known, count=len(kept))
        else:
            self._decide(up, down, start, kept, np.empty(2))

    def _decide(self, up: Stored, down: Stored, start: int, kept: NDArray[np.uint8], sums: NDArray[np.float64]) -> None:
        mark_ranked(up, down, self._width, self._lowest, self._spread, self._key, start, kept, sums)


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
    def share(self) -> float:
        """The same as a share of them."""
        return self.quota / max(self.rank.equal, 1)

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

    def measure(self, stage: str, up: Stored, down: Stored, start: int) -> Any:
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

    def _bits(self) -> tuple[int, int]:
        outer = _NO_EDGE if self._outer is None else self._outer.rank.bits
        return outer, 0 if self._inner is None else self._inner.rank.bits

    def way(self) -> Way:
        """Between the edges; by marks where ties go by place."""
        if self._by_place:
            return Way(BY_MARKS)
        outer = 0.0 if self._outer is None else self._outer.share
        inner = 1.0 if self._inner is None else self._inner.share
        return Way(BY_EDGES, self._bits(), (outer, inner), int(self._key))

    def mark(self, up: Stored, down: Stored, start: int, kept: NDArray[np.uint8]) -> None:
        """The first ones of those that equal an edge."""
        outer = 0 if self._outer is None else self._outer.quota_from(start)
        inner = len(kept) if self._inner is None else self._inner.quota_from(start)
        edges = self._bits()
        mark_by_place(up, down, (np.uint32(edges[0]), np.uint32(edges[1])), (outer, inner), kept)
