"""Methods that are one sum of weighted deltas: linear, task arithmetic, passthrough, language graft, layer swap.

All of them are ``theta = scale * x_r + sum_t w_t (x_p(t) - x_m(t))``, so all of them are one `Combination`. Written
with differences, equal models give the reference bit for bit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.sums import add_deltas
from .operation import Block, Operation, Tensor, index
from .table import language_share


class Term(NamedTuple):
    """``weight * (x[plus] - x[minus])``."""

    plus: int
    minus: int
    weight: float


class Combination(Operation):
    """``scale * reference + sum of terms``; weights are rounded to float32, as is every product and sum."""

    shows_all = True

    def __init__(self, reference: int, terms: Sequence[Term], scale: float = 1.0) -> None:
        """Drop terms of weight 0 and of a model against itself: their sources are not even read."""
        kept = [term for term in terms if term.weight != 0 and term.plus != term.minus]
        super().__init__([reference, *(source for term in kept for source in term[:2])])
        self.reference, self.scale = self.at(reference), np.float32(scale)
        self.set_terms(kept)

    def set_terms(self, terms: Sequence[Term]) -> None:
        """The terms, as arrays for the kernels, which want weights of 0 or more: -w (x - y) is w (y - x)."""
        terms = [term if term.weight >= 0 else Term(term.minus, term.plus, -term.weight) for term in terms]
        self.plus = index([self.at(term.plus) for term in terms])
        self.minus = index([self.at(term.minus) for term in terms])
        self.weights = np.array([term.weight for term in terms], dtype=np.float32)

    @property
    def copied(self) -> int | None:
        """The source that comes back unchanged, if the whole operation is a copy."""
        return self.sources[self.reference] if not len(self.weights) and self.scale == 1 else None

    def apply(self, block: Block, out: NDArray[Any]) -> bool:
        """One pass over the block."""
        arguments = self.reference, self.scale, self.plus, self.minus, self.weights
        return bool(add_deltas(block.x, *arguments, out))


def linear(tensor: Tensor) -> Operation:
    """Weighted mean ``sum w_i x_i / sum w_i``; without `normalize` the plain sum (Wortsman et al., ICML 2022)."""
    weights = [settings["weight"] for settings in tensor.settings]
    total = sum(weights)
    divisor = total if tensor.options["normalize"] else 1.0
    reference = tensor.models[int(np.argmax(weights))]
    terms = [Term(model, reference, weight / divisor) for model, weight in zip(tensor.models, weights, strict=True)]
    return Combination(reference, terms, total / divisor)


def task_arithmetic(tensor: Tensor) -> Operation:
    """``base + lambda * sum w_i (x_i - parent_i)``, divided by the sum of the weights with `normalize`.

    Ilharco et al., ICLR 2023, arXiv 2212.04089.
    """
    assert tensor.base is not None
    weights = [settings["weight"] for settings in tensor.settings]
    factor = tensor.options["lambda"] * (divided(weights) if tensor.options["normalize"] else 1.0)
    return Combination(tensor.base, _terms(tensor, [factor * weight for weight in weights]))


def divided(weights: Sequence[float]) -> float:
    """One over the sum of the weights; 1 where that is less than 1e-8."""
    total = sum(weights)
    return 1.0 if abs(total) < 1e-8 else 1.0 / total


def _terms(tensor: Tensor, weights: Sequence[float]) -> list[Term]:
    parts = zip(tensor.models, tensor.parents, weights, strict=True)
    return [Term(model, parent, weight) for model, parent, weight in parts]


def language_graft(tensor: Tensor) -> Operation:
    """``base + a (instruct - base) + sum b_k (x_k - parent_k)``; a = `instruct_weight`, b_k = each language's `weight`.

    Huang et al., ACL 2024, arXiv 2310.04799, with a = b = 1.
    """
    assert tensor.base is not None
    assert tensor.instruct is not None
    instruct = Term(tensor.instruct, tensor.base, tensor.options["instruct_weight"])
    return Combination(tensor.base, [instruct, *_terms(tensor, [settings["weight"] for settings in tensor.settings])])


def layer_swap(tensor: Tensor) -> Operation:
    """The language model's outer layers around the instruct model's middle, with a blended zone between them.

    Bandarkar et al., ICLR 2025, arXiv 2410.01335.
    """
    assert tensor.instruct is not None
    share = language_share(tensor.name, tensor.layers, **tensor.options)
    (language,) = tensor.models
    if share == 1:
        return Combination(language, [])
    return Combination(tensor.instruct, [Term(language, tensor.instruct, share)])


def passthrough(tensor: Tensor) -> Operation:
    """One model, times `scale` where that is given."""
    return Combination(tensor.models[0], [], tensor.settings[0]["scale"])
