"""Task vectors that are thinned out before they are added: TIES, DARE, DELLA, Breadcrumbs.

One operation for all: delta -> thinned -> rescaled -> weighted -> added, or added where the signs agree ->
normalised -> times lambda -> on the base. The methods differ in how a delta is thinned and in which switches are on.
"""

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.chance import key_of
from ..kernels.thinned import BY_MARKS, Thinning, add_thinned, sums_of_thinned
from .deltas import divided
from .operation import Block, Operation, Stage, Tensor, index
from .ranks import sampled_ranges
from .sparsify import KeepAll, KeepLargest, KeepNone, KeepRandom, KeepRanked

_NOTHING = 1e-7
"""A sum of magnitudes below this is not rescaled."""


class Thinned(Operation):
    """Thinned deltas on the base."""

    def __init__(self, tensor: Tensor, kept: Sequence[KeepAll], *, consensus: bool, by_row: bool = False) -> None:
        """Take one way of thinning for each model."""
        assert tensor.base is not None
        super().__init__([tensor.base, *tensor.models, *tensor.parents])
        self.by_row = by_row
        self._tensor, self._kept, self._consensus = tensor, kept, consensus
        self._pairs = [(self.at(m), self.at(p)) for m, p in zip(tensor.models, tensor.parents, strict=True)]
        self._weights = np.array([settings["weight"] for settings in tensor.settings], dtype=np.float32)
        self._factors = np.ones(len(kept), dtype=np.float32)
        self._rescaled = not tensor.options["rescale"] or not any(way.changes for way in kept)
        self._ways: Thinning | None = None
        self._buffers = threading.local()

    def stage(self) -> Stage | None:
        """What any of the deltas needs to know next; then, if wanted, how much the masks took away."""
        pending = [way.pending() for way in self._kept]
        for name in ("sample", "count", "places"):
            if name in pending:
                return Stage(name, sampled_ranges(self._tensor.elements) if name == "sample" else None)
        return None if self._rescaled else Stage("rescale")

    def measure(self, stage: Stage, block: Block) -> Any:
        """One figure for each delta."""
        if stage.name == "rescale":
            return self._sums(block)
        return [
            way.measure(stage.name, block.x[up], block.x[down], block.start) if way.pending() == stage.name else None
            for way, (up, down) in zip(self._kept, self._pairs, strict=True)
        ]

    def settle(self, stage: Stage, results: Sequence[Any]) -> None:
        """Hand each delta its own."""
        if stage.name != "rescale":
            waiting = [way.pending() == stage.name for way in self._kept]
            for number, way in enumerate(self._kept):
                if waiting[number]:
                    way.settle(stage.name, [result[number] for result in results])
            return
        for number in range(len(self._kept)):
            whole = math.fsum(result[number][0] for result in results)
            left = math.fsum(result[number][1] for result in results)
            if whole >= _NOTHING and left >= _NOTHING:
                self._factors[number] = np.float32(whole / left)
        self._rescaled = True

    def _thinning(self, block: Block) -> Thinning:
        """What the kernels want to know; marks are those of this block."""
        if self._ways is None:
            ways = [kept.way() for kept in self._kept]
            up, down = zip(*self._pairs, strict=True)
            self._ways = Thinning(
                up=index(up),
                down=index(down),
                kind=index([way.kind for way in ways]),
                edges=np.array([way.edges for way in ways], np.uint32),
                shares=np.array([way.shares for way in ways], np.float32),
                keys=np.array([way.key for way in ways], np.uint64),
                marks=np.empty((len(ways), 0), np.uint8),
            )
        marked = np.flatnonzero(self._ways.kind == BY_MARKS)
        if not len(marked):
            return self._ways
        marks = self._room(block)
        for number in marked.tolist():
            model, parent = self._pairs[number]
            self._kept[number].mark(block.x[model], block.x[parent], block.start, marks[number])
        return self._ways._replace(marks=marks)

    def _room(self, block: Block) -> NDArray[np.uint8]:
        """Marks [models, n] of this thread, contiguous."""
        size = len(self._kept) * block.x.shape[1]
        held: NDArray[np.uint8] | None = getattr(self._buffers, "marks", None)
        if held is None or len(held) < size:
            held = self._buffers.marks = np.empty(size, np.uint8)
        return held[:size].reshape(len(self._kept), -1)

    def _sums(self, block: Block) -> list[tuple[float, float]]:
        """For each delta, the sum of its magnitudes as it is and thinned."""
        found = np.zeros((len(self._kept), 2))
        for number, (way, (up, down)) in enumerate(zip(self._kept, self._pairs, strict=True)):
            known = way.sums(block.x[up], block.x[down], block.start)
            if known is not None:
                found[number] = known
            elif way.changes:
                sums_of_thinned(block.x, self._thinning(block), number, block.start, found[number])
        return [(float(whole), float(left)) for whole, left in found]

    def apply(self, block: Block, out: NDArray[Any]) -> bool:
        """The merged block."""
        options = self._tensor.options
        factor = np.float32(options["lambda"])
        normalize = bool(options["normalize"])
        if normalize and not self._consensus:
            factor = np.float32(factor * np.float32(divided([float(weight) for weight in self._weights])))
        added = self._factors, self._weights, factor, self._consensus, normalize
        return bool(add_thinned(block.x, 0, self._thinning(block), block.start, *added, out))


def _key(tensor: Tensor, number: int) -> np.uint64:
    return key_of(tensor.seed, tensor.name, number)


def _largest(tensor: Tensor) -> list[KeepAll]:
    ways: list[KeepAll] = []
    for number, settings in enumerate(tensor.settings):
        density, elements = settings["density"], tensor.elements
        if density >= 1:
            ways.append(KeepAll())
        elif density <= 0 or not elements:
            ways.append(KeepNone())
        else:
            kept = max(1, int(density * elements))
            ways.append(KeepLargest(kept, elements, _key(tensor, number), by_place=tensor.compat))
    return ways


def _band(tensor: Tensor) -> list[KeepAll]:
    ways: list[KeepAll] = []
    for number, settings in enumerate(tensor.settings):
        density, elements = settings["density"], tensor.elements
        kept = int(density * elements)
        # Density wins: where both do not fit, fewer outliers are removed.
        skipped = min(int(settings["gamma"] * elements), elements - kept)
        if density >= 1:
            ways.append(KeepAll())
        elif kept <= 0:
            ways.append(KeepNone())
        else:
            key = _key(tensor, number)
            ways.append(KeepLargest(kept, elements, key, skipped=skipped, by_place=tensor.compat))
    return ways


def _random(tensor: Tensor) -> list[KeepAll]:
    return [
        KeepAll() if settings["density"] >= 1 else KeepRandom(settings["density"], _key(tensor, number))
        for number, settings in enumerate(tensor.settings)
    ]


def _ranked(tensor: Tensor) -> list[KeepAll]:
    ways: list[KeepAll] = []
    for number, settings in enumerate(tensor.settings):
        density, epsilon = settings["density"], settings["epsilon"]
        if density >= 1:
            ways.append(KeepAll())
        elif density <= 0 or not tensor.elements:
            ways.append(KeepNone())
        else:
            ways.append(KeepRanked(density, epsilon, tensor.width, tensor.elements, _key(tensor, number)))
    return ways


def ties(tensor: Tensor) -> Operation:
    """Trim to the largest, elect signs, mean of those that agree (Yadav et al., NeurIPS 2023, arXiv 2306.01708)."""
    return Thinned(tensor, _largest(tensor), consensus=True)


def dare_linear(tensor: Tensor) -> Operation:
    """Drop at random, rescale, add (Yu et al., ICML 2024, arXiv 2311.03099)."""
    return Thinned(tensor, _random(tensor), consensus=False)


def dare_ties(tensor: Tensor) -> Operation:
    """Drop at random, rescale, add where the signs agree."""
    return Thinned(tensor, _random(tensor), consensus=True)


def della(tensor: Tensor) -> Operation:
    """Drop at random by rank, rescale, add where the signs agree (Deep et al., 2024, arXiv 2406.11617)."""
    return Thinned(tensor, _ranked(tensor), consensus=True, by_row=True)


def della_linear(tensor: Tensor) -> Operation:
    """Drop at random by rank, rescale, add."""
    return Thinned(tensor, _ranked(tensor), consensus=False, by_row=True)


def breadcrumbs(tensor: Tensor) -> Operation:
    """Drop the largest and the small, add (Davari and Belilovsky, ECCV 2024, arXiv 2312.06795)."""
    return Thinned(tensor, _band(tensor), consensus=False)


def breadcrumbs_ties(tensor: Tensor) -> Operation:
    """Drop the largest and the small, add where the signs agree."""
    return Thinned(tensor, _band(tensor), consensus=True)
