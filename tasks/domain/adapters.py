"""Targets that are served as adapters: the language part of a linear graft over the instruct model, at a chosen rank.

One server then holds the instruct model once and answers in every language. Not every graft has a language part that
can be told from its instruct model, and not everything can be served so: what cannot is refused when the catalog is
read, and not after a merge.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from tasks.domain.errors import ModelRefused
from tasks.domain.models import Digest, Noun
from tasks.engine.recipe import Recipe

ServedAs = Literal["models", "adapters"]
"""``models``: each target is a model of its own. ``adapters``: it is a low-rank adapter, and many share one model."""
ADAPTER_CONFIG = "adapter_config.json"
"""A folder with this file is an adapter, in PEFT's format."""
BASE_KEY, BASE_KIND = "base_model_name_or_path", "sha256:"
LINEAR_GRAFTS = ("task_arithmetic", "language_graft")
"""Methods whose result is the instruct model and a sum of language deltas, where its own weight is 1."""
HIGHEST_RANK = 512


class AdapterRule(Noun):
    """How the language part becomes an adapter."""

    rank: int = Field(strict=True, ge=1, le=HIGHEST_RANK)
    """Of every module; vLLM takes up to 512."""
    carry: Literal["layers", "input"] = "input"
    """``layers``: the projections. ``input``: and the input embeddings. The output layer cannot be served: two requests
    for log-probabilities of their prompts in one batch end vLLM's engine once it is wrapped (0.32, on a CPU)."""


def recipe_problems(recipe: Recipe) -> list[str]:
    """Why no adapter over the instruct model can be made by ``recipe``; empty if one can."""
    if recipe.method not in LINEAR_GRAFTS:
        return [
            f"{recipe.method} does not leave the instruct model as it is, so there is no adapter over it; use "
            f"{' or '.join(LINEAR_GRAFTS)} with instruct weight 1, or endpoint: models"
        ]
    stated = recipe.parameters.get("instruct_weight", recipe.instruct_weight)
    weight = stated if recipe.method == "language_graft" else recipe.instruct_weight
    if weight != 1.0:
        return [
            f"instruct_weight {weight!r} makes another instruct model than the one that adapters share; use 1, or "
            "endpoint: models"
        ]
    return []


def base_name(instruct: Digest) -> str:
    """What an adapter's configuration calls the model that it is for: part of the adapter's own content digest."""
    return f"{BASE_KIND}{instruct}"


def model_under(config: Mapping[str, Any], where: str) -> Digest:
    """The artifact that an adapter of this configuration is served over.

    Raises:
        ModelRefused: it names none by its content digest.
    """
    named = config.get(BASE_KEY)
    digest = named.removeprefix(BASE_KIND) if isinstance(named, str) and named.startswith(BASE_KIND) else ""
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ModelRefused(
            f"{where}: {BASE_KEY} is {named!r}, expected {BASE_KIND} and the content digest of the instruct model; "
            "only adapters that were made here are served"
        )
    return digest
