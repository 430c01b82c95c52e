"""Methods whose weights follow from angles and lengths: slerp, nuslerp, model stock.

The result lies in the span of the models, so one pass for the inner products in float64 gives the weights, and a second
one adds (mergekit's loops over full tensors are not needed).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.sums import inner_products
from .deltas import Combination, Term
from .operation import Block, Operation, Stage, Tensor, index

Gram = NDArray[np.float64]
"""[vectors, vectors] inner products."""

COLINEAR = 0.9995
"""Cosine above which slerp is linear, as everywhere in the field: sin(theta) is then too small to divide by."""


class FromAngles(Combination):
    """A combination whose weights are found from the inner products of some vectors."""

    def __init__(
        self,
        reference: int,
        vectors: Sequence[tuple[int, int | None]],
        solve: Callable[[Gram], tuple[float, list[Term]]],
    ) -> None:
        """Take vectors as (source, what is subtracted from it or None); `solve` gives scale and terms."""
        pairs = [(plus, reference if minus is None else minus) for plus, minus in vectors]
        super().__init__(reference, [Term(plus, minus, 1.0) for plus, minus in pairs])
        self._plus = index([self.at(plus) for plus, _ in vectors])
        self._minus = index([-1 if minus is None else self.at(minus) for _, minus in vectors])
        self._solve = solve
        self._solved = False

    def stage(self) -> Stage | None:
        """One reading."""
        return None if self._solved else Stage("angles")

    def measure(self, stage: Stage, block: Block) -> Gram:
        """Inner products over one block."""
        products = np.empty((len(self._plus), len(self._plus)))
        inner_products(block.x, self._plus, self._minus, products)
        return products

    def settle(self, stage: Stage, results: Sequence[Any]) -> None:
        """Add up exactly rounded, and solve."""
        stacked = np.stack(results) if results else np.zeros((1, len(self._plus), len(self._plus)))
        gram = np.array(
            [[math.fsum(stacked[:, s, t]) for t in range(stacked.shape[2])] for s in range(stacked.shape[1])]
        )
        scale, terms = self._solve(gram)
        self.scale = np.float32(scale)
        self.set_terms(terms)
        self._solved = True


def slerp(tensor: Tensor) -> Operation:
    """Spherical interpolation from the base to the other model by `t`, the whole tensor as one vector.

    ``sin((1-t) theta) / sin theta * base + sin(t theta) / sin theta * other``; linear where |cos theta| > 0.9995.
    (Shoemake, SIGGRAPH 1985.)
    """
    assert tensor.base is not None
    base, other, t = tensor.base, tensor.models[0], float(tensor.options["t"])

    def solve(gram: Gram) -> tuple[float, list[Term]]:
        cosine = _cosine(gram, floor=1e-8)
        near, far = (1 - t, t) if abs(cosine) > COLINEAR else _sines(math.acos(cosine), t)
        return near + far, [Term(other, base, far)]

    return FromAngles(base, [(base, None), (other, None)], solve)


def nuslerp(tensor: Tensor) -> Operation:
    """Spherical interpolation of two models, or of their deltas where a base is given; t = w_2 / (w_1 + w_2).

    With `nuslerp_flatten` the whole tensor is one vector; else each row, or with `nuslerp_row_wise` each column.
    """
    from .rows import NuslerpRows

    first, second = (settings["weight"] for settings in tensor.settings)
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    if not tensor.options["nuslerp_flatten"] and len(tensor.shape) > 1:
        return NuslerpRows(tensor, t, columns=bool(tensor.options["nuslerp_row_wise"]))
    one, other = tensor.models
    if tensor.base is None:
        return FromAngles(one, [(one, None), (other, None)], lambda gram: _nuslerp_models(gram, one, other, t))
    base, parents = tensor.base, tensor.parents

    def solve(gram: Gram) -> tuple[float, list[Term]]:
        near, far = nuslerp_shares(_cosine(gram, floor=1e-7), t)
        return 1.0, [Term(one, parents[0], near), Term(other, parents[1], far)]

    return FromAngles(base, [(one, parents[0]), (other, parents[1])], solve)


def _nuslerp_models(gram: Gram, one: int, other: int, t: float) -> tuple[float, list[Term]]:
    near, far = nuslerp_shares(_cosine(gram, floor=1e-7), t)
    return near + far, [Term(other, one, far)]


def nuslerp_shares(cosine: float, t: float) -> tuple[float, float]:
    """Weights of the two vectors; linear where they are colinear in float32."""
    if 1 - cosine * cosine <= 1e-14:
        return 1 - t, t
    return _sines(math.acos(cosine), t)


def _sines(theta: float, t: float) -> tuple[float, float]:
    return math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)


def _cosine(gram: Gram, floor: float) -> float:
    """Between vectors 0 and 1; a length below `floor` counts as the floor. Equal ones are 1, however short."""
    if gram[0, 0] == gram[0, 1] == gram[1, 1]:
        return 1.0
    lengths = [math.sqrt(max(float(gram[k, k]), 0.0)) for k in (0, 1)]
    divisor = math.prod(max(length, floor) for length in lengths)
    return min(1.0, max(-1.0, float(gram[0, 1]) / divisor))


def model_stock(tensor: Tensor) -> Operation:
    """``t * mean + (1 - t) * base``, t = N c / (1 + (N - 1) c) from the mean cosine c between the N deltas.

    With `filter_wise` every row has its own t. (Jang et al., ECCV 2024, arXiv 2403.19522, equation 6.)
    """
    from .rows import StockRows

    assert tensor.base is not None
    base, models, parents = tensor.base, tensor.models, tensor.parents
    if tensor.options["filter_wise"] and len(tensor.shape) > 1:
        return StockRows(tensor)

    def solve(gram: Gram) -> tuple[float, list[Term]]:
        share = float(stock_share(gram[None])[0]) / len(models)
        return 1.0, [Term(model, parent, share) for model, parent in zip(models, parents, strict=True)]

    return FromAngles(base, list(zip(models, parents, strict=True)), solve)


def stock_share(grams: NDArray[np.float64]) -> NDArray[np.float64]:
    """The t of model stock for each of [rows, N, N] Gram matrices of deltas; 0 where its denominator vanishes."""
    count = grams.shape[1]
    lengths = np.sqrt(np.maximum(np.einsum("rkk->rk", grams), 0.0))
    cosines = []
    for s in range(count):
        for t in range(s + 1, count):
            product = lengths[:, s] * lengths[:, t]
            cosines.append(np.clip(grams[:, s, t] / np.where(product > 0, product, 1.0), -1, 1))
    mean = np.mean(cosines, axis=0)
    denominator = 1 + (count - 1) * mean
    safe = np.where(np.abs(denominator) < 1e-6, 1.0, denominator)
    return np.where(np.abs(denominator) < 1e-6, 0.0, count * mean / safe)
