"""A merge as data: method, models, parameters and policies, each parameter with its value at every tensor.

`config` reads it from YAML and refuses what is wrong. Loads without numpy, numba and torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .errors import MergeError, RecipeError, refuse_all
from .methods.spec import REQUIRED, MethodSpec, Parameter
from .methods.table import TABLE
from .values import Setting, constant, resolve

Settings = Mapping[str, Setting]

Dtype = Literal["bfloat16", "float16", "float32"]
Compat = Literal["mergekit-0.1.5"]
FromInstruct = Literal["instruct", "merge"]
VocabularyPolicy = Literal["refuse", "match_tokens", "keep_instruct"]


@dataclass(frozen=True)
class ModelEntry:
    """One entry of ``models:``."""

    model: str
    """Folder of the checkpoint."""
    parent: str | None = None
    """Folder of what it was trained from; None means the base."""
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True)
class MergeConfig:
    """What a merge does. Frozen; the defaults, once released, never change, since `digest` leaves them out."""

    method: str
    """A name in `methods.table.TABLE`."""
    models: tuple[ModelEntry, ...]
    """As listed; `inputs` are those that the method merges."""
    base_model: str | None = None
    parameters: Settings = field(default_factory=dict)
    """For all models, and those of the method itself."""
    dtype: Dtype | None = None
    """mergekit computes in this type. Here sums are float32 whatever it says, and it stands in for `out_dtype`."""
    out_dtype: Dtype | None = None
    instruct: str | None = None
    """Whose configuration, tokenizer, template and chat-token rows the output gets. None: found by looking."""
    compat: Compat | None = None
    """mergekit's way of breaking ties, where it differs from ours."""
    seed: int = 0
    """Of the random methods; the others do not read it."""
    special_rows: FromInstruct = "instruct"
    """Rows of the chat template's tokens in embeddings and head: copied from the instruct model, or merged."""
    routers: FromInstruct = "instruct"
    """Router weights of mixtures of experts."""
    vocabulary: VocabularyPolicy = "refuse"
    """What to do when the tokenizers differ."""
    allow_foreign_parent: bool = False
    """Merge although the weights say that a stated parent is not the true one."""
    where: str = field(default="recipe", compare=False)
    """The file, for messages."""

    @property
    def spec(self) -> MethodSpec:
        """The method's entry in the table."""
        return TABLE[self.method]

    @property
    def output_dtype(self) -> Dtype | None:
        """What the output is stored in; None means as the instruct model is stored."""
        return self.out_dtype or self.dtype

    @property
    def inputs(self) -> tuple[ModelEntry, ...]:
        """The models that the method merges, in order; these the per-model values of `resolved` belong to.

        Where the base has a role of its own it is none of them, listed or not. Otherwise (``linear``,
        ``passthrough``) it is one of them, and behind the others unless listed, as in mergekit.
        """
        if self.spec.base != "unused":
            return tuple(entry for entry in self.models if entry.model != self.base_model)
        if self.base_model is None or any(entry.model == self.base_model for entry in self.models):
            return self.models
        return (*self.models, ModelEntry(self.base_model))

    def digest(self) -> str:
        """sha256 of what was stated, as canonical JSON (sorted keys, no spaces), 64 hex digits.

        Left out is what changes nothing: fields and parameters at their default, parameters without effect, the seed
        of a method that is not random, a base that is listed though it has a role of its own. Models stand as their
        number in `names`: the digest says which is the base and how each is merged, and not in which folder it lies;
        what is in the folders is for their own digests to say.
        """
        return hashlib.sha256(json.dumps(self._stated(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def _stated(self) -> dict[str, Any]:
        number = {name: index for index, name in enumerate(names(self))}
        shared = _stated_settings(self.spec, self.parameters, {})
        models = []
        for entry in self.inputs:
            own = _stated_settings(self.spec, entry.parameters, self.parameters)
            parent = None if entry.parent in (None, self.base_model) else number[entry.parent]
            models.append({"model": number[entry.model], "parent": parent, "parameters": own})
        stated = {
            "base_model": None if self.base_model is None else number[self.base_model],
            "parameters": shared,
            "instruct": None if self.instruct is None else number[self.instruct],
            "out_dtype": self.output_dtype,
            "compat": self.compat,
            "seed": self.seed if self.spec.random else 0,
            "special_rows": self.special_rows,
            "routers": self.routers,
            "vocabulary": self.vocabulary,
            "allow_foreign_parent": self.allow_foreign_parent,
        }
        defaults = MergeConfig(self.method, ()).__dict__ | {"parameters": {}}
        kept = {key: value for key, value in stated.items() if value != defaults[key]}
        return {"merge_method": self.method, "models": [_without_empty(model) for model in models], **kept}


def _without_empty(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value not in (None, {})}


def _stated_settings(spec: MethodSpec, settings: Settings, above: Settings) -> dict[str, object]:
    """Settings that change something: of parameters with an effect, and not the default where nothing else is said."""
    kept: dict[str, object] = {}
    for name, setting in settings.items():
        parameter = spec.parameters[name]
        default = None if parameter.default is REQUIRED else constant(parameter.default)
        if parameter.effect and not (setting == default and above.get(name, default) == default):
            kept[name] = setting.stated()
    return kept


def names(config: MergeConfig) -> list[str]:
    """Every distinct model folder: the base, each model with its parent behind it, the instruct model."""
    of_models = [name for entry in config.models for name in (entry.model, entry.parent)]
    return list(dict.fromkeys(name for name in (config.base_model, *of_models, config.instruct) if name is not None))


class Resolved(NamedTuple):
    """Every parameter of the method at one tensor."""

    shared: dict[str, Any]
    """Global parameters by name: float, int, bool or str, as the table says."""
    per_model: list[dict[str, Any]]
    """Model parameters by name, one mapping for each of `MergeConfig.inputs`."""


def resolved(config: MergeConfig, tensor: str, depth: float) -> Resolved:
    """The values of every parameter at one tensor: the model's own setting, else the global one, else the default.

    Args:
        config: The merge.
        tensor: The tensor's name.
        depth: 0 to 1, from `values.depth_of`.

    Raises:
        RecipeError: A required parameter has no value here, or the values contradict each other; all of them at once.
    """
    problems: list[MergeError] = []
    spec = config.spec
    shared = _values(config, spec.of_merge, (config.parameters,), tensor, depth, problems)
    per_model = [
        _values(config, spec.of_models, (entry.parameters, config.parameters), tensor, depth, problems, entry.model)
        for entry in config.inputs
    ]
    refuse_all(problems or _contradictions(config, tensor, shared, per_model))
    return Resolved(shared, per_model)


def _values(
    config: MergeConfig,
    parameters: Mapping[str, Parameter],
    levels: tuple[Settings, ...],
    tensor: str,
    depth: float,
    problems: list[MergeError],
    model: str = "",
) -> dict[str, Any]:
    """Every one of these parameters, from the first level that has a value for it, else its default."""
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        value: Any = parameter.default
        for level in levels:
            if name in level and (found := resolve(level[name], tensor, depth)) is not None:
                value = found
                break
        if value is REQUIRED:
            of_model = f" of {model}" if model else ""
            problems.append(
                RecipeError(
                    f"{config.where}: no filter of {name}{of_model} matches {tensor}, and {config.method} needs a "
                    f"value there; add {{value: ...}} without a filter as the last entry of {name}"
                )
            )
        values[name] = value
    return values


def _contradictions(
    config: MergeConfig, tensor: str, shared: Mapping[str, Any], per_model: list[dict[str, Any]]
) -> list[MergeError]:
    if config.method == "linear" and shared["normalize"] and abs(sum(values["weight"] for values in per_model)) < 1e-8:
        weights = ", ".join(f"{values['weight']:g}" for values in per_model)
        return [
            RecipeError(
                f"{config.where}: the weights at {tensor} are {weights}: their sum is 0, and linear divides by it; "
                "change a weight, or set normalize: false"
            )
        ]
    problems: list[MergeError] = []
    for entry, values in zip(config.inputs, per_model, strict=True):
        density, epsilon = values.get("density", 1.0), values.get("epsilon")
        if epsilon is not None and 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            problems.append(
                RecipeError(
                    f"{config.where}: density {density:g} and epsilon {epsilon:g} of {entry.model} at {tensor}: the "
                    f"keep probabilities {density - epsilon:g} to {density + epsilon:g} are expected between 0 and 1; "
                    f"make epsilon smaller than {min(density, 1 - density):g}"
                )
            )
    return problems


def unmatched_filters(config: MergeConfig, tensors: Iterable[str]) -> list[str]:
    """Filters that match no tensor at all, with their places: a word in a filter that is spelt wrong does nothing.

    Args:
        config: The merge.
        tensors: Names of all tensors of the output.
    """
    known = list(tensors)
    places = [("parameters", config.parameters)]
    places += [(f"models[{index}].parameters", entry.parameters) for index, entry in enumerate(config.models)]
    return [
        f"{config.where}: {place}.{name}: the filter {rule.filter!r} matches no tensor"
        for place, settings in places
        for name, setting in settings.items()
        for rule in setting.rules
        if rule.filter is not None and not any(rule.filter in tensor for tensor in known)
    ]
