"""What a method makes of one tensor: an operation that is fed blocks.

A method is a function ``Tensor -> Operation``. The runner reads blocks and calls, in this order::

    while (stage := operation.stage()) is not None:      # statistics of the whole tensor, if the method needs any
        operation.measure(stage, block)                    # of every block of the stage, on any thread, in any order
        operation.settle(stage, results)                   # once, with the results in the order of the blocks
    operation.apply(block, out)                            # of every block, on any thread, in any order

Blocks are the same whatever the number of threads, and `settle` sees results in their order, so sums are the same too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.widths import is_finite, narrow_bf16, widen_bf16

Floats = NDArray[np.float32]

BLOCK_ELEMENTS = 1 << 19
"""Elements of a block and source: what Python does for each takes about 100 microseconds. Kernels go through it in
tiles that stay in the first cache. BENCHMARKS.md has what other sizes cost."""
WAITING_BLOCKS = 8
"""Merged blocks that may wait for an earlier one before they are hashed: 8 MB of bfloat16."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of one merge: which sources play which part, and every parameter as a number."""

    name: str
    shape: tuple[int, ...]
    base: int | None
    """Number of the source that is the base; None where the method has none."""
    models: tuple[int, ...]
    """Numbers of the sources that are merged, in the order of the recipe, base excluded where deltas are merged."""
    parents: tuple[int, ...] = ()
    """For each model, the source that its delta is taken against: the base, or a stated parent."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the whole merge, resolved for this tensor."""
    settings: tuple[Mapping[str, Any], ...] = ()
    """Parameters of each model, resolved for this tensor."""
    seed: int = 0
    compat: bool = False
    """Ties by place, as mergekit 0.1.5 has them with a stable sort."""
    instruct: int | None = None
    """Number of the source that is the instruct model."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """Layers of each stack of the model."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def width(self) -> int:
        """Elements of a row: the last dimension; a vector is one row."""
        return self.shape[-1] if self.shape else 1


class Block(NamedTuple):
    """Elements [start, start + n) of one tensor in every source of an operation."""

    x: NDArray[Any]
    """[sources, n], in the order of ``operation.sources``: bfloat16 as uint16 where all sources are, else float32."""
    start: int

    def floats(self) -> Floats:
        """The same as float32 [sources, n]; a copy if it was bfloat16."""
        if self.x.dtype == np.float32:
            return self.x
        wide = np.empty(self.x.shape, np.float32)
        widen_bf16(self.x.reshape(-1), wide.reshape(-1))
        return wide


class Stage(NamedTuple):
    """One reading of the tensor for statistics."""

    name: str
    ranges: Sequence[tuple[int, int]] | None = None
    """Which elements; None for all."""


class Operation:
    """Base class: no statistics, blocks of any cut."""

    by_row = False
    """Blocks must be whole rows."""
    shows_all = False
    """A NaN or Inf of any source reaches what `apply` writes, which then says so: the sources need no look before."""

    def __init__(self, sources: Sequence[int]) -> None:
        """Keep the numbers of the sources to be read, each once."""
        self.sources = tuple(dict.fromkeys(sources))

    def at(self, source: int) -> int:
        """The row of a source in the blocks."""
        return self.sources.index(source)

    def stage(self) -> Stage | None:
        """The reading that is needed next; None when `apply` can begin."""
        return None

    def measure(self, stage: Stage, block: Block) -> Any:
        """Figures of one block."""
        raise NotImplementedError

    def settle(self, stage: Stage, results: Sequence[Any]) -> None:
        """Take in what `measure` gave for all blocks, in their order."""
        raise NotImplementedError

    def apply(self, block: Block, out: NDArray[Any]) -> bool:
        """Write the merged elements of one block, float32 or bfloat16 as uint16 [n]; whether all of them are finite."""
        merged = self.merged(block)
        if out.dtype == np.uint16:
            return bool(narrow_bf16(merged, out))
        out[:] = merged
        return bool(is_finite(out))

    def merged(self, block: Block) -> Floats:
        """The merged elements of one block, float32 [n]. Asked only of operations that do not write them themselves."""
        raise NotImplementedError


def index(values: Sequence[int]) -> NDArray[np.int64]:
    """Rows as the kernels take them."""
    return np.array(values, dtype=np.int64)
