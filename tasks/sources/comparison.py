"""Can the release's tensors be added to the base's, and does it bring no code? Pure functions over ModelFacts."""

from collections.abc import Collection, Iterator
from typing import Any

from tasks.sources.detection import INDEX
from tasks.sources.facts import ModelFacts
from tasks.sources.headers import Tensor

SHOWN = 5
"""Differences named one by one; the rest are counted."""
SHAPE_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)
CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
"""Keys by which a JSON file makes a loader run code of the repository; some loaders did so without being allowed to."""
VOCABULARIES = (INDEX, "tokenizer.json", "vocab.json")
"""Their keys are tensor names and tokens, among which ``auto_map`` would be no wonder."""


def code_problems(facts: ModelFacts) -> list[str]:
    """Anything by which loading the model would run code that came with it."""
    problems = [f"{path} of {facts.ref}: custom code" for path in sorted(facts.files) if path.endswith(".py")]
    for path in sorted(facts.files):
        if path.endswith(".json") and "/" not in path and path not in VOCABULARIES:
            for key, value in _code_keys(facts.json_object(path), ""):
                problems.append(f"{path} of {facts.ref}: {key} is {value!r}; models with code of their own are refused")
    return problems


def _code_keys(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _code_keys(item, f"{at}[{number}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            where = f"{at}.{key}" if at else str(key)
            if key in CODE_KEYS and item is not False:
                yield where, item
            else:
                yield from _code_keys(item, where)


def config_problems(release: ModelFacts, base: ModelFacts, allowed: Collection[str]) -> list[str]:
    """Architecture and sizes, as config.json states them. Nothing is said about a config that could not be read."""
    if not release.config or not base.config:
        return []
    problems: list[str] = []
    where = f"config.json of {release.ref}"
    mine, theirs = release.architectures, base.architectures
    if mine != theirs:
        problems.append(f"{where}: architectures is {list(mine)} but {list(theirs)} in the base")
    if not mine or not set(mine) <= set(allowed):
        problems.append(f"{where}: architectures is {list(mine)}; the family allows {sorted(allowed)}")
    ours, its = _sizes(release.config), _sizes(base.config)
    problems += [f"{where}: {key} is {ours[key]} but {its[key]} in the base" for key in ours if ours[key] != its[key]]
    tied = [side.config.get("tie_word_embeddings") for side in (release, base)]
    # Left out where it is the class's default, so only two statements can contradict each other.
    if None not in tied and tied[0] != tied[1]:
        problems.append(f"{where}: tie_word_embeddings is {tied[0]} but {tied[1]} in the base")
    for side in (release, base):
        if side.config.get("quantization_config") is not None:
            method = side.config["quantization_config"]
            problems.append(f"config.json of {side.ref}: quantization_config is {method!r}; whole weights are merged")
    return problems


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The keys that fix shapes and positions, with what a missing one means."""
    sizes: dict[str, Any] = {key: config.get(key) for key in SHAPE_KEYS}
    heads = sizes["num_attention_heads"]
    if sizes["num_key_value_heads"] is None:
        sizes["num_key_value_heads"] = heads
    if sizes["head_dim"] is None and isinstance(heads, int) and heads and isinstance(sizes["hidden_size"], int):
        sizes["head_dim"] = sizes["hidden_size"] // heads
    sizes["rope"] = _rope(config)
    return sizes


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """One form for transformers 5 (``rope_parameters``) and 4 (``rope_theta`` and ``rope_scaling``)."""
    stated = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(stated, dict):
        return {"rope": stated}
    rope = {"rope_theta": config.get("rope_theta")} | stated
    kind = rope.pop("type", None)
    rope["rope_type"] = rope.get("rope_type") or kind or "default"
    if isinstance(rope["rope_theta"], int | float):
        rope["rope_theta"] = float(rope["rope_theta"])
    return rope


def tensor_problems(release: ModelFacts, base: ModelFacts) -> list[str]:
    """Names, shapes and dtypes, as the headers state them. Nothing is said where a header could not be read."""
    if not release.tensors or not base.tensors:
        return []
    ours, its = release.tensors, base.tensors
    shared = sorted(ours.keys() & its.keys())
    shapes = [n for n in shared if ours[n].shape != its[n].shape]
    dtypes = [n for n in shared if ours[n].dtype != its[n].dtype]
    problems: list[str] = []
    for names, told in (
        (sorted(its.keys() - ours.keys()), "tensors of the base are missing"),
        (sorted(ours.keys() - its.keys()), "tensors are not in the base"),
    ):
        if names:
            problems.append(f"weights of {release.ref}: {len(names)} {told}; the first: {', '.join(names[:SHOWN])}")
    for names, told in ((shapes, "shapes"), (dtypes, "dtypes")):
        if names:
            first = "; ".join(_both(name, ours[name], its[name], told) for name in names[:SHOWN])
            problems.append(f"weights of {release.ref}: {len(names)} {told} differ; the first: {first}")
    return problems


def _both(name: str, ours: Tensor, its: Tensor, told: str) -> str:
    values = (ours.shape, its.shape) if told == "shapes" else (ours.dtype, its.dtype)
    return f"{name} is {values[0]} but {values[1]} in the base"
