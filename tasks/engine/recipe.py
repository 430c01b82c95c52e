"""A recipe: what a merge does, as data with a digest. Loads without numpy, so that a catalog can be checked anywhere.

A recipe speaks of roles: the base, the instruct model, tuned bases by language. `Recipe.config` puts folders into the
roles and gives the merge that the engine carries out. For methods that add deltas the roles mean (Huang et al., ACL
2024; Ilharco et al., ICLR 2023)::

    theta = theta_0 + a * tau_I + sum_k b_k * tau_k         tau_x = theta_x - parent(x)

    linear             a = w_I / W    b_k = w_k / W         W = w_I + sum_k w_k
    task_arithmetic    a = w_I        b_k = w_k

With every parent the base, linear is the weighted mean of the instruct and tuned models, and theta_0 drops out.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, field_validator, model_validator

from .config import parse_config
from .errors import MergeError, RecipeError, refuse_all
from .merge_config import MergeConfig
from .methods.table import TABLE

OutDtype = Literal["bfloat16", "float16", "float32"]
Weight = Annotated[float, Strict(), Field(ge=0.0, le=4.0, allow_inf_nan=False)]
"""0 to 4. Published sweeps end at 2, and task arithmetic collapses from 1.5: more than 4 is a slip of the pen."""

METHOD_NAMES: tuple[str, ...] = tuple(TABLE)

_INSTRUCT_FIRST = frozenset({"slerp", "nearswap"})
"""Methods of two models whose base is one of them: here the instruct model, from which the other one is neared."""


class Tuned(NamedTuple):
    """Where a tuned base lies, and what it was trained from."""

    path: str
    parent: str | None = None
    """None means the base."""


class Coefficients(NamedTuple):
    """The a and b_k of the formula above."""

    a: float
    """Of the instruct delta."""
    b: dict[str, float]
    """Of each language's delta, by language name, in the order asked for."""


class Recipe(BaseModel):
    """Merge method, parameters and policies. Frozen: the digest is part of what makes two merges the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    """A name of ``methods.table``."""
    instruct_weight: Weight = 1.0
    """w_I."""
    tuned_weight: Weight | dict[str, Weight] = 1.0
    """w_k: one number for every language, or one per language name, each named."""
    tuned_depth: tuple[Weight, ...] = ()
    """Factors of the tuned weights over the depth, evenly spread from the first layer to the last; tensors outside of
    the layers get the first. Only for task_arithmetic, whose weights are not divided by a sum. Empty: 1 everywhere."""
    out_dtype: OutDtype = "bfloat16"
    """What the output is stored in. The sum is float32 whatever this says."""
    special_rows: Literal["merge", "instruct"] = "instruct"
    """`instruct` copies the embedding and head rows of the chat template's special tokens from the instruct model:
    the tuned base never trained them, and averaging halves what the instruct model learnt. Padding rows likewise."""
    routers: Literal["merge", "instruct"] = "instruct"
    """Router weights of a mixture of experts: the instruct model's, or merged."""
    vocabulary: Literal["refuse", "match_tokens", "keep_instruct"] = "refuse"
    """What to do when the tokenizers differ."""
    parameters: dict[str, Any] = {}
    """Every other parameter of the method, as in mergekit's YAML: numbers, gradients over depth, filters."""
    seed: int = 0
    """Of the random methods."""
    compat: Literal["mergekit-0.1.5"] | None = None
    """Break ties as mergekit does."""

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        if name not in TABLE:
            near = difflib.get_close_matches(name, TABLE, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"unknown method {name!r}{hint} Known methods: {', '.join(TABLE)}")
        return name

    @model_validator(mode="after")
    def _something_is_merged(self) -> Self:
        tuned = self.tuned_weight.values() if isinstance(self.tuned_weight, dict) else [self.tuned_weight]
        if not any(weight > 0 for weight in [self.instruct_weight, *tuned]):
            raise ValueError(
                f"instruct_weight {self.instruct_weight} and tuned_weight {self.tuned_weight} leave nothing to merge; "
                "at least one must be above 0"
            )
        return self

    @model_validator(mode="after")
    def _depth_is_of_a_sum(self) -> Self:
        if self.tuned_depth and self.method != "task_arithmetic":
            raise ValueError(
                f"tuned_depth {list(self.tuned_depth)} is for task_arithmetic alone, and the method is {self.method}; "
                "leave it out"
            )
        if self.tuned_depth and not any(self.tuned_depth):
            raise ValueError(f"tuned_depth {list(self.tuned_depth)} leaves nothing of the language; set one above 0")
        return self

    @model_validator(mode="after")
    def _its_parameters_are_the_methods(self) -> Self:
        tuned = self.tuned_weight if isinstance(self.tuned_weight, dict) else {"eu": self.tuned_weight}
        try:
            self.config("base", "instruct", {name: Tuned(name) for name in tuned}, where="recipe")
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return self

    def config(self, base: str, instruct: str, tuned: Mapping[str, Tuned], *, where: str = "recipe") -> MergeConfig:
        """The merge that this recipe is for these folders.

        Args:
            base: Folder of theta_0.
            instruct: Folder of theta_I.
            tuned: theta_k by language name.
            where: The place of the recipe, for messages.

        Raises:
            RecipeError: The recipe does not fit these languages, or its method these roles.
        """
        _each_its_own_folder(base, instruct, tuned, where)
        self._weights_count(where)
        method, weights = self.method, {instruct: self.instruct_weight}
        by_name = self._tuned_weights(list(tuned))
        weights |= {own.path: by_name[name] for name, own in tuned.items()}
        parents = {own.path: own.parent for own in tuned.values() if own.parent not in (None, base)}
        if method == "linear":
            a, b = self.coefficients(list(tuned))
            weights = {instruct: a} | {own.path: b[name] for name, own in tuned.items()}
            method = "task_arithmetic" if parents else method
        spec = TABLE[method]
        apart = {instruct} if spec.instruct_apart or method in _INSTRUCT_FIRST else set()
        per_model = spec.of_models
        stated = self.model_dump(mode="json", include={"special_rows", "routers", "vocabulary", "seed"})
        mapping: dict[str, Any] = {
            "merge_method": method,
            "models": [
                {
                    "model": path,
                    **({"parent": parents[path]} if path in parents else {}),
                    "parameters": {"weight": self._over_depth(weight, path == instruct)}
                    if "weight" in per_model
                    else {},
                }
                for path, weight in weights.items()
                if path not in apart
            ],
            "parameters": dict(self.parameters),
            "instruct": instruct,
            "out_dtype": self.out_dtype,
            "compat": self.compat,
            **stated,
        }
        if method in _INSTRUCT_FIRST:
            mapping["base_model"] = instruct
        elif spec.base != "unused":
            mapping["base_model"] = base
        if "instruct_weight" in spec.parameters:
            mapping["parameters"].setdefault("instruct_weight", self.instruct_weight)
        return parse_config(mapping, where)

    def _over_depth(self, weight: float, is_instruct: bool) -> float | list[float]:
        """The weight of one model, as a gradient where it has one."""
        return weight if is_instruct or not self.tuned_depth else [weight * factor for factor in self.tuned_depth]

    def _weights_count(self, where: str) -> None:
        """Refuse weights that the method has no use for."""
        spec = TABLE[self.method]
        ignored = [] if "weight" in spec.of_models else [("tuned_weight", self.tuned_weight)]
        if "weight" not in spec.of_models or spec.instruct_apart:
            ignored += [] if "instruct_weight" in spec.parameters else [("instruct_weight", self.instruct_weight)]
        problems = [
            RecipeError(f"{where}: {key} = {value!r} has no effect in {self.method}; leave it out")
            for key, value in ignored
            if value != 1.0
        ]
        refuse_all(problems)

    def coefficients(self, languages: Sequence[str]) -> Coefficients:
        """The coefficients of the two kinds of deltas for these languages.

        Args:
            languages: Language names, each once. None at all gives the control theta_0 + a tau_I.

        Raises:
            RecipeError: `tuned_weight` names other languages than these, or every weight that counts is 0.
        """
        weights = self._tuned_weights(languages)
        total = self.instruct_weight + sum(weights.values())
        if total == 0:
            raise RecipeError(
                f"every weight that counts for {list(languages)} is 0 (instruct_weight {self.instruct_weight}, "
                f"tuned_weight {self.tuned_weight}): nothing to merge; set one above 0"
            )
        scale = total if self.method == "linear" else 1.0
        return Coefficients(self.instruct_weight / scale, {name: w / scale for name, w in weights.items()})

    def sums(self, languages: Sequence[str]) -> Coefficients | None:
        """`coefficients` for linear and task arithmetic; None where it is not one sum for all tensors."""
        plain = self.method in ("linear", "task_arithmetic") and not self.tuned_depth
        return self.coefficients(languages) if plain else None

    def _tuned_weights(self, languages: Sequence[str]) -> dict[str, float]:
        if len(set(languages)) != len(languages):
            raise RecipeError(f"languages {list(languages)} name one language twice; its delta would count twice")
        if not isinstance(self.tuned_weight, dict):
            return dict.fromkeys(languages, self.tuned_weight)
        problems = [
            RecipeError(f"tuned_weight has no weight for language {name!r}; it names {sorted(self.tuned_weight)}")
            for name in languages
            if name not in self.tuned_weight
        ] + [
            RecipeError(f"tuned_weight has a weight for {name!r}, which is not merged; merged are {sorted(languages)}")
            for name in self.tuned_weight
            if name not in languages
        ]
        if problems:
            raise RecipeError("; ".join(map(str, problems)), problems)
        return {name: self.tuned_weight[name] for name in languages}

    def digest(self) -> str:
        """sha256 of the canonical JSON: sorted keys, no spaces, 64 hex digits.

        Fields at their default are left out. So a field added later leaves every stored digest as it is, and no merge
        on record becomes due by an upgrade; in return a default, once released, never changes.
        """
        stated = self.model_dump(mode="json", exclude_defaults=True)
        return hashlib.sha256(json.dumps(stated, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _each_its_own_folder(base: str, instruct: str, tuned: Mapping[str, Tuned], where: str) -> None:
    """A folder in two roles would have one weight, and a delta of zero."""
    taken = {base: "the base"}
    problems: list[MergeError] = []
    for folder, role in [
        (instruct, "the instruct model"),
        *((own.path, f"tuned base {k}") for k, own in tuned.items()),
    ]:
        if folder in taken:
            problems.append(RecipeError(f"{where}: {role} and {taken[folder]} are the same folder, {folder}"))
        taken.setdefault(folder, role)
    refuse_all(problems)


def parse_recipe(mapping: object, where: str) -> Recipe:
    """Read a recipe from parsed YAML or JSON.

    Args:
        mapping: What stands at that place; a mapping is expected.
        where: The place, for messages: ``llama.yaml: targets.eu.recipe``.

    Raises:
        RecipeError: All that is wrong at once; each line has the place, the key, its value and what was expected.
    """
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"{where}: a recipe is a mapping with the keys {_known()}, not {mapping!r}")
    try:
        return Recipe.model_validate(dict(mapping))
    except ValidationError as error:
        lines = [_say(problem) for problem in error.errors() if not _is_other_branch(problem)]
        problems = [RecipeError(f"{where}: {line}") for line in dict.fromkeys(lines)]
        raise RecipeError("\n".join(map(str, problems)), problems) from error


def _known() -> str:
    return ", ".join(Recipe.model_fields)


def _is_other_branch(problem: Any) -> bool:
    """Pydantic reports both branches of number-or-mapping; only the one that the writer meant is worth saying."""
    branch = str(problem["loc"][1]) if len(problem["loc"]) > 1 and problem["loc"][0] == "tuned_weight" else ""
    if problem["type"] == "dict_type":
        return branch.startswith("dict")
    return (
        problem["type"] == "float_type"
        and branch.startswith(("float", "constrained"))
        and (isinstance(problem["input"], dict))
    )


def _say(problem: Any) -> str:
    """One line for one pydantic problem: key, value, what was expected."""
    # A union puts its branch's name ("float", "dict[...]") into the path: only keys that a person wrote are shown.
    place = [str(part) for part in problem["loc"] if not str(part).startswith(("float", "dict[", "constrained"))]
    key = ".".join(place)
    match problem["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(key, Recipe.model_fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return f"unknown key {key!r} = {problem['input']!r}{hint} Known keys: {_known()}"
        case "missing":
            return f"key {key!r} is missing; known methods: {', '.join(METHOD_NAMES)}"
        case "value_error":
            return str(problem["ctx"]["error"])
        case _:
            return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
