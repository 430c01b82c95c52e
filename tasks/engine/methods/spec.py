"""What a merge method is called and takes, as data: the forms that the table is filled with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Final, Literal

from ..values import Scalar, number


class _Required(Enum):
    REQUIRED = "required"


REQUIRED: Final = _Required.REQUIRED
"""In place of a default: the recipe must state the parameter."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method."""

    scope: Literal["global", "model"]
    """``global``: one value per tensor. ``model``: one per model and tensor; under ``parameters:`` it is for all."""
    kind: type[float] | type[int] | type[bool] | type[str]
    default: Scalar | _Required
    doc: str
    low: float = -math.inf
    high: float = math.inf
    """Both ends belong to the range."""
    choices: tuple[str, ...] = ()
    """The words that are allowed, when the kind is ``str``."""
    gradient: bool = True
    """Whether it may be a curve over depth."""
    effect: bool = True
    """False: accepted because mergekit's files have it, and changes nothing here."""
    whole_from_one: bool = False
    """Below 1 it is a share, from 1 on a whole number of things."""

    def read(self, value: object) -> Scalar:
        """One value of this parameter.

        Raises:
            ValueError: Another kind, or out of range; the text says what was expected.
        """
        if self.kind is str:
            if value in self.choices:
                return str(value)
            raise ValueError(f"expected {' or '.join(self.choices)}")
        if self.kind is bool:
            # mergekit takes 0, 1 and quoted words for switches too.
            word = str(value).lower()
            if isinstance(value, bool | int | float | str) and word in ("true", "1", "1.0", "false", "0", "0.0"):
                return word in ("true", "1", "1.0")
            raise ValueError("expected true or false")
        found = number(value)
        if not self.low <= found <= self.high:
            raise ValueError(f"expected {_range(self.low, self.high)}")
        if self.kind is int and found != int(found):
            raise ValueError("expected a whole number")
        if self.whole_from_one and found >= 1 and found != int(found):
            raise ValueError("expected a share below 1, or a whole number of layers")
        return int(found) if self.kind is int else found


def _range(low: float, high: float) -> str:
    return f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"


@dataclass(frozen=True)
class MethodSpec:
    """What a recipe for this method holds."""

    name: str
    doc: str
    """The formula and where it comes from, in one line."""
    base: Literal["required", "optional", "unused"]
    """``unused``: `base_model`, if stated, is one more model, behind the others unless listed (as in mergekit)."""
    fewest: int
    most: int | None = None
    """How many models, the base not counted unless its role is ``unused``. None: any number."""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    random: bool = False
    """Whether the recipe's seed changes the result."""
    instruct_apart: bool = False
    """The instruct model has a role of its own: `instruct` is required, and it is not among the models."""

    @cached_property
    def of_merge(self) -> dict[str, Parameter]:
        """The global parameters, by name."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.scope == "global"}

    @cached_property
    def of_models(self) -> dict[str, Parameter]:
        """The parameters that each model has, by name."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.scope == "model"}
