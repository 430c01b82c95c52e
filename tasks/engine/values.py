"""What stands for a parameter in a recipe, and its value at one tensor. The meanings are those of mergekit 0.1.5.

A setting is written as a number, a list of numbers (a gradient over depth), one ``{filter, value}``, or a list of
those, each value a number or a gradient. Filters are substrings of the tensor's name and the first match wins; no
filter, and ``"*"``, match everything. All four forms are read into one: rules, each with a filter and points.

Depth runs from 0 in the first layer of a stack to 1 in the last, and is 0 for every tensor outside of the layers:
embeddings, and also the final norm and ``lm_head``. So the first point of a gradient is what the head gets.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .errors import MergeError, RecipeError, refuse_all

Scalar = float | bool | str

_MEMBER = re.compile(r"^(?P<stack>.*?)\.(?P<index>\d+)\.(?P<rest>.+)$")
"""The first number in a name: ``model.layers.3.mlp.experts.7.w1.weight`` is in layer 3 of ``model.layers``."""

_TOKEN_HEAD = "eh_proj.weight"
"""Only in layers that predict further tokens (DeepSeek-V3, GLM-4.5), stored behind the last layer of the stack."""


@dataclass(frozen=True)
class Rule:
    """One value for the tensors that a filter matches."""

    filter: str | None
    """Substring of the tensor's name; None matches every tensor."""
    points: tuple[Scalar, ...]
    """The gradient's points, evenly spread over depth; a single one is a constant. Never empty."""

    def at(self, depth: float) -> Scalar:
        """The value at a depth of 0 to 1: numbers are interpolated, booleans and words are those of the point below."""
        if len(self.points) == 1:
            return self.points[0]
        scaled = depth * (len(self.points) - 1)
        below = int(scaled)
        left, right = self.points[below], self.points[min(below + 1, len(self.points) - 1)]
        if isinstance(left, bool | str) or isinstance(right, bool | str) or left == right:
            return left
        return (1 - (scaled - below)) * left + (scaled - below) * right


@dataclass(frozen=True)
class Setting:
    """What stands for one parameter: rules, of which the first that matches a tensor counts."""

    rules: tuple[Rule, ...]

    def stated(self) -> object:
        """The shortest YAML or JSON value that reads back as this setting."""
        values = [list(rule.points) if len(rule.points) > 1 else rule.points[0] for rule in self.rules]
        if self.rules[0].filter is None:
            return values[0]
        filters = [{} if rule.filter is None else {"filter": rule.filter} for rule in self.rules]
        return [{**filter_, "value": value} for filter_, value in zip(filters, values, strict=True)]


def constant(value: Scalar) -> Setting:
    """The setting that is this value at every tensor."""
    return Setting((Rule(None, (value,)),))


def number(value: object) -> float:
    """A finite number. YAML reads ``1e-4`` as text, so text that is a number is one, as it is for mergekit.

    Raises:
        ValueError: It is something else; the text says what was expected.
    """
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = math.nan
        if math.isfinite(found):
            return found
    raise ValueError("expected a finite number")


def parse_setting(value: object, where: str, scalar: Callable[[object], Scalar] = number) -> Setting:
    """Read what stands for a parameter.

    Args:
        value: A scalar, a list of scalars, a mapping with ``value`` and perhaps ``filter``, or a list of such mappings.
        where: The place, for messages: ``merge.yaml: parameters.t``.
        scalar: Reads one scalar, or raises ValueError with what was expected.

    Raises:
        RecipeError: All that is wrong, each line with its place and value.
    """
    problems: list[MergeError] = []
    entries = value if isinstance(value, list) else [value]
    if not any(isinstance(entry, Mapping) for entry in entries):
        rules = [Rule(None, _points(value, where, scalar, problems))]
    else:
        places = [f"{where}[{index}]" for index in range(len(entries))] if isinstance(value, list) else [where]
        rules = [_rule(entry, place, scalar, problems) for entry, place in zip(entries, places, strict=True)]
    refuse_all(problems)
    # What follows a rule for everything is never reached: leaving it out makes equal settings equal.
    ends = [index for index, rule in enumerate(rules) if rule.filter is None]
    return Setting(tuple(rules[: ends[0] + 1] if ends else rules))


def _rule(entry: object, where: str, scalar: Callable[[object], Scalar], problems: list[MergeError]) -> Rule:
    if not isinstance(entry, Mapping):
        hint = "as beside it; for the tensors that no filter matches write {value: ...} last"
        problems.append(RecipeError(f"{where} = {entry!r}: expected a mapping with filter and value, {hint}"))
        return Rule(None, ())
    for key in entry:
        if key not in ("filter", "value"):
            problems.append(RecipeError(f"{where}: unknown key {key!r} = {entry[key]!r}; known are filter, value"))
    wanted = entry.get("filter")
    if wanted is not None and not isinstance(wanted, str):
        problems.append(RecipeError(f"{where}.filter = {wanted!r}: expected a part of tensor names, in quotes"))
    if "value" not in entry:
        problems.append(RecipeError(f"{where}: the key 'value' is missing beside {dict(entry)!r}"))
        return Rule(None, ())
    return Rule(None if wanted == "*" else wanted, _points(entry["value"], f"{where}.value", scalar, problems))


def _points(
    value: object, where: str, scalar: Callable[[object], Scalar], problems: list[MergeError]
) -> tuple[Scalar, ...]:
    if isinstance(value, list) and not value:
        problems.append(RecipeError(f"{where} = []: expected at least one point; a gradient of none has no value"))
    points: list[Scalar] = []
    for index, entry in enumerate(value) if isinstance(value, list) else [(None, value)]:
        try:
            points.append(scalar(entry))
        except ValueError as error:
            place = where if index is None else f"{where}[{index}]"
            problems.append(RecipeError(f"{place} = {entry!r}: {error}"))
    return tuple(points)


def resolve(setting: Setting, tensor: str, depth: float) -> Scalar | None:
    """The setting's value at one tensor; None when no filter matches, and the next level of the recipe counts.

    Args:
        setting: What the recipe states.
        tensor: The tensor's name in the checkpoint.
        depth: 0 to 1, from `depth_of`.
    """
    for rule in setting.rules:
        if rule.filter is None or rule.filter in tensor:
            return rule.at(depth)
    return None


class Place(NamedTuple):
    """Where in the layers of a model a tensor lies."""

    stack: str
    """What the layers are members of: ``model.layers``, ``visual.blocks``."""
    layer: int
    """Counted from 0. Layers that predict further tokens lie behind the last: ``layer >= layers``."""
    layers: int


def count_layers(names: Iterable[str]) -> dict[str, int]:
    """Layers by stack, over all tensor names of a model: ``{"model.layers": 32}``.

    A stack is a numbered group of modules that have modules inside, at the first number of the name. So the two linear
    maps of ``visual.merger.mlp.{0,2}.weight`` are none, and lie outside of the layers.
    """
    found: dict[str, int] = {}
    heads: set[tuple[str, int]] = set()
    for name in names:
        member = _MEMBER.match(name)
        if member and "." in member["rest"]:
            stack, index = member["stack"], int(member["index"])
            found[stack] = max(found.get(stack, 0), index + 1)
            if member["rest"] == _TOKEN_HEAD:
                heads.add((stack, index))
    for stack, index in sorted(heads, reverse=True):
        if 0 < index == found[stack] - 1:
            found[stack] = index
    return found


def place_of(tensor: str, layers: Mapping[str, int]) -> Place | None:
    """The layer that a tensor belongs to; None outside of the layers.

    Args:
        tensor: Its name.
        layers: Layers by stack, from `count_layers` over the same model.
    """
    member = _MEMBER.match(tensor)
    if member is None or member["stack"] not in layers:
        return None
    return Place(member["stack"], int(member["index"]), layers[member["stack"]])


def depth_of(tensor: str, layers: Mapping[str, int]) -> float:
    """How deep a tensor lies: layer / (layers - 1); 1 in a stack of one layer, 0 outside of the layers.

    Args:
        tensor: Its name.
        layers: Layers by stack, from `count_layers` over the same model.
    """
    place = place_of(tensor, layers)
    if place is None:
        return 0.0
    return 1.0 if place.layers == 1 else min(1.0, place.layer / (place.layers - 1))
