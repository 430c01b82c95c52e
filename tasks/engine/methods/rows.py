"""The same with a weight for every row or column: nuslerp by rows and columns, model stock by filters, nearswap.

Plain numpy over whole rows: these are asked for rarely, and read the tensor once where rows are complete in a block.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .angles import stock_share
from .operation import Block, Floats, Operation, Stage, Tensor


class StockRows(Operation):
    """Model stock with a t for every row (`filter_wise`)."""

    by_row = True

    def __init__(self, tensor: Tensor) -> None:
        """Read base, models and parents."""
        assert tensor.base is not None
        super().__init__([tensor.base, *tensor.models, *tensor.parents])
        self._tensor = tensor

    def merged(self, block: Block) -> Floats:
        """Rows that are whole, so that each finds its own t."""
        tensor = self._tensor
        x = block.floats().reshape(len(self.sources), -1, tensor.width)
        pairs = zip(tensor.models, tensor.parents, strict=True)
        # With a minus sign, and taken from the base: then a delta of 0 leaves even -0.0 as it is.
        deltas = np.stack([x[self.at(parent)] - x[self.at(model)] for model, parent in pairs])
        wide = deltas.astype(np.float64)
        share = stock_share(np.einsum("srw,trw->rst", wide, wide)).astype(np.float32)
        assert tensor.base is not None
        merged: Floats = x[self.at(tensor.base)] - share[:, None] * deltas.mean(axis=0, dtype=np.float32)
        return merged.reshape(-1)


class NuslerpRows(Operation):
    """Nuslerp along the last dimension (each row), or along the first one (each column)."""

    by_row = True

    def __init__(self, tensor: Tensor, t: float, *, columns: bool) -> None:
        """Columns need a reading of their own: a block does not hold a whole one."""
        base = [] if tensor.base is None else [tensor.base, *tensor.parents]
        super().__init__([*tensor.models, *base])
        self._tensor, self._t, self._columns = tensor, t, columns
        self._cosines: NDArray[np.float64] | None = None

    def _vectors(self, block: Block) -> list[Floats]:
        """Both models, or both deltas with a minus sign."""
        tensor = self._tensor
        x = block.floats().reshape(len(self.sources), -1, tensor.width)
        rows = [x[self.at(model)] for model in tensor.models]
        if tensor.base is None:
            return rows
        return [x[self.at(parent)] - row for row, parent in zip(rows, tensor.parents, strict=True)]

    def _period(self) -> int:
        """Columns of the tensor seen as [first dimension, rest]."""
        return self._tensor.elements // self._tensor.shape[0]

    def stage(self) -> Stage | None:
        """One reading for columns."""
        return Stage("columns") if self._columns and self._cosines is None else None

    def measure(self, stage: Stage, block: Block) -> Any:
        """The part of each column's inner products that lies in this block."""
        period = self._period()
        one, other = (vector.astype(np.float64).reshape(-1) for vector in self._vectors(block))
        sums = np.zeros((3, period))
        places = (block.start + np.arange(one.size)) % period
        for number, products in enumerate((one * one, one * other, other * other)):
            sums[number] = np.bincount(places, products, minlength=period)
        return sums

    def settle(self, stage: Stage, results: Sequence[Any]) -> None:
        """Cosine of every column."""
        self._cosines = _cosines(*np.sum(np.stack(results), axis=0))

    def merged(self, block: Block) -> Floats:
        """Weights by row, or by column."""
        one, other = self._vectors(block)
        if self._cosines is None:
            wide = one.astype(np.float64), other.astype(np.float64)
            products = [np.einsum("rw,rw->r", a, b) for a, b in ((wide[0],) * 2, wide, (wide[1],) * 2)]
            near, far = (share[:, None] for share in _shares(_cosines(*products), self._t))
        else:
            places = (block.start + np.arange(one.size)) % self._period()
            near, far = (share[places].reshape(one.shape) for share in _shares(self._cosines, self._t))
        merged = near.astype(np.float32) * one + far.astype(np.float32) * other
        # Equal models, and deltas of 0, give what was there bit for bit: 0.7 x + 0.3 x is not x.
        if self._tensor.base is None:
            merged = np.where(one == other, (near + far).astype(np.float32) * one, merged)
        else:
            merged = block.floats()[self.at(self._tensor.base)].reshape(one.shape) - merged
        return merged.reshape(-1)


def _cosines(one: NDArray[np.float64], both: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.maximum(np.sqrt(one), 1e-7) * np.maximum(np.sqrt(other), 1e-7)
    equal = (one == both) & (both == other)  # no angle, however short
    return np.where(equal, 1.0, np.clip(both / lengths, -1.0, 1.0))


def _shares(cosines: NDArray[np.float64], t: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    colinear = 1 - cosines * cosines <= 1e-14
    theta = np.where(colinear, 1.0, np.arccos(cosines))
    near = np.where(colinear, 1 - t, np.sin((1 - t) * theta) / np.sin(theta))
    return near, np.where(colinear, t, np.sin(t * theta) / np.sin(theta))


class NearSwap(Operation):
    """Towards the other model by at most t per element."""

    def __init__(self, base: int, model: int, t: float) -> None:
        """Read both."""
        super().__init__([base, model])
        self._base, self._model, self._t = base, model, np.float32(t)

    def merged(self, block: Block) -> Floats:
        """Elementwise."""
        x = block.floats()
        base, model = x[self.at(self._base)], x[self.at(self._model)]
        delta = base - model
        share = np.clip(self._t / np.maximum(np.abs(delta), np.float32(1e-6)), np.float32(0), np.float32(1))
        return np.asarray(base - share * delta, np.float32)


def nearswap(tensor: Tensor) -> Operation:
    """``base + min(1, t / |x - base|) (x - base)``: near values are taken over, far ones moved by t (alchemonaut)."""
    assert tensor.base is not None
    return NearSwap(tensor.base, tensor.models[0], float(tensor.options["t"]))
