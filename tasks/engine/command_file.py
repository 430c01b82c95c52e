"""CONFIG, as the engine's command reads it: a merge of roles, or mergekit's YAML."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .config import parse_config, read_config
from .errors import RecipeError
from .merge import TunedPaths, by_roles
from .merge_config import MergeConfig
from .plan import DEFAULT_MAX_SHARD_BYTES
from .strict_yaml import load_yaml

if TYPE_CHECKING:
    from .recipe import Coefficients


class MergeFile(NamedTuple):
    """CONFIG, understood."""

    config: MergeConfig
    labels: dict[str, str]
    """What messages call the folders."""
    max_shard_bytes: int
    base: Path | None = None
    """Of a merge of roles."""
    coefficients: "Coefficients | None" = None
    """Of a recipe that is one of the two sums of deltas."""


def read_merge_file(path: Path) -> MergeFile:
    """Read and check CONFIG: YAML or JSON, told apart by the key ``merge_method``.

    Raises:
        RecipeError: The file is missing or cannot be read, a key is unknown or missing, a value has the wrong form.
    """
    content = _load_json(path) if path.suffix == ".json" else load_yaml(path)
    if isinstance(content, Mapping) and "merge_method" in content:
        config = parse_config(content, str(path)) if path.suffix == ".json" else read_config(path)
        return MergeFile(config, {}, DEFAULT_MAX_SHARD_BYTES)
    _expect(content, str(path), required={"recipe", "base", "instruct", "tuned"}, optional={"max_shard_bytes"})
    assert isinstance(content, Mapping)
    _expect(content["tuned"], f"{path}: tuned", required=set(), optional=None)
    tuned = {}
    for language, source in content["tuned"].items():
        where = f"{path}: tuned.{language}"
        _expect(source, where, required={"path"}, optional={"parent"})
        parent = source.get("parent")
        tuned[language] = TunedPaths(
            _path(source["path"], f"{where}.path"), None if parent is None else _path(parent, f"{where}.parent")
        )
    size = content.get("max_shard_bytes", DEFAULT_MAX_SHARD_BYTES)
    if type(size) is not int or size <= 0:
        raise RecipeError(f"{path}: max_shard_bytes is {size!r}, expected a number of bytes above 0")
    from .recipe import parse_recipe

    recipe = parse_recipe(content["recipe"], f"{path}: recipe")
    base, instruct = (_path(content[role], f"{path}: {role}") for role in ("base", "instruct"))
    return MergeFile(*by_roles(recipe, base, instruct, tuned), size, base, recipe.sums(list(tuned)))


def _load_json(path: Path) -> Any:
    """JSON by its own rules: YAML reads 1e-05 as text."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as JSON: {error}") from error


def _expect(value: object, where: str, *, required: set[str], optional: set[str] | None) -> None:
    """A mapping with these keys; ``optional=None`` allows any."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, found {value!r}")
    unknown = set() if optional is None else set(value) - required - optional
    missing = required - set(value)
    if unknown or missing:
        known = sorted(required | (optional or set()))
        raise RecipeError(
            f"{where}: unknown keys {sorted(map(str, unknown))}, missing keys {sorted(missing)}; known are {known}"
        )


def _path(value: object, where: str) -> Path:
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{where}: {value!r} is no path; expected a string")
    return Path(value)
