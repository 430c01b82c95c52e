"""The merges that are run by mergekit and by our engine: YAML as a user of mergekit writes it.

``$base``, ``$instruct``, ``$eu``, ``$ca`` and the same with ``_half`` stand for folders of models. The keys that only our
engine has (``instruct``, ``special_rows``, ``routers``, ``seed``) are added for it by ``Case.for_engine``.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml

from tests.engine.parity.models import HALF

SEED = 0


@dataclass(frozen=True)
class Case:
    """One merge.

    Attributes:
        name: unique; the golden's file has it.
        architecture: key of ``models.ARCHITECTURES``.
        text: mergekit's YAML with ``$role`` for paths.
        experts: whether the experts of a Mixtral can be compared: mergekit fuses them, so whatever is computed over a
            whole tensor (norms, thresholds, masks) is computed over another tensor there.
    """

    name: str
    architecture: str
    text: str
    experts: bool = True

    @property
    def roles(self) -> list[str]:
        """The models that the text names, sorted."""
        return sorted(set(re.findall(r"\$(\w+)", self.text)))

    def for_mergekit(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        """The mapping as mergekit reads it."""
        found: dict[str, Any] = yaml.safe_load(Template(self.text).substitute(folders))
        return found

    def for_engine(self, folders: Mapping[str, Path]) -> dict[str, Any]:
        """The same with our keys, which say that every row and router is merged like the rest."""
        instruct = next(role for role in self.roles if role.removesuffix(HALF) == "instruct")
        ours = {"instruct": str(folders[instruct]), "special_rows": "merge", "routers": "merge", "seed": SEED}
        return self.for_mergekit(folders) | ours


def recipe(method: str, *models: str, base: str = "base", **keys: str) -> str:
    """YAML text; a model is ``role`` or ``role parameters``, and an empty base leaves the key out."""
    lines = [f"merge_method: {method}"]
    lines += [f"base_model: ${base}"] if base else []
    lines += ["models:"]
    for role, _, own in (model.partition(" ") for model in models):
        lines.append(f"- {{model: ${role}, parameters: {{{own}}}}}" if own else f"- model: ${role}")
    lines += [f"{key}: {{{value}}}" if key == "parameters" else f"{key}: {value}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def linear() -> Iterator[tuple[str, str]]:
    yield "per_model", recipe("linear", "instruct weight: 0.7", "eu weight: 0.3", base="")
    yield "three", recipe("linear", "instruct weight: 1", "eu weight: 0.5", "ca weight: 0.25", base="")
    yield "global", recipe("linear", "instruct", "eu", "ca", base="", parameters="weight: 1.0")
    yield "sum", recipe("linear", "instruct weight: 0.6", "eu weight: 0.3", base="", parameters="normalize: false")
    yield "gradient", recipe("linear", "instruct weight: [0.2, 0.5, 0.9]", "eu weight: [0.8, 0.1]", base="")
    filters = "weight: [{filter: self_attn, value: [0, 1]}, {filter: mlp.up, value: 0.3}, {value: 0.6}]"
    yield "filter", recipe("linear", f"instruct {filters}", "eu weight: 0.5", base="")
    fallback = "weight: [{filter: layernorm, value: 1.5}]"
    yield "filter_then_global", recipe("linear", f"instruct {fallback}", "eu", base="", parameters="weight: 0.5")
    yield "negative", recipe("linear", "instruct weight: 1.2", "eu weight: -0.2", base="")
    yield "base_listed", recipe("linear", "eu weight: 0.2", "base weight: 0.3", "instruct weight: 0.5")
    yield "base_unlisted", recipe("linear", "instruct", "eu", parameters="weight: 0.5")
    for dtype in ("bfloat16", "float16"):
        yield dtype, recipe("linear", "instruct weight: 0.7", "eu weight: 0.3", base="", out_dtype=dtype)
    half = ("instruct_half weight: 0.7", "eu_half weight: 0.3")
    yield "half_models", recipe("linear", *half, base="", dtype="bfloat16")
    yield "mixed_models", recipe("linear", "instruct weight: 0.7", "ca_half weight: 0.3", base="")


def slerp() -> Iterator[tuple[str, str]]:
    yield "arc", recipe("slerp", "base", "instruct", parameters="t: 0.4")
    yield "base_unlisted", recipe("slerp", "instruct", parameters="t: 0.4")
    yield "base_last", recipe("slerp", "instruct", "base", parameters="t: 0.4")
    yield "two_tuned", recipe("slerp", "eu", "instruct", base="eu", parameters="t: 0.6")
    yield "line", recipe("slerp", "instruct_half", "instruct", base="instruct_half", parameters="t: 0.6")
    yield "gradient", recipe("slerp", "base", "instruct", parameters="t: [0.1, 0.5, 0.9, 0.3]")
    typical = (
        "t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0.5, 0.7]}, {value: 0.5}]"
    )
    yield "filter", recipe("slerp", "base", "instruct", parameters=typical)
    yield "ends", recipe("slerp", "base", "instruct", parameters="t: [{filter: attn, value: 0}, {value: 1}]")
    yield "bfloat16", recipe("slerp", "base", "instruct", parameters="t: 0.4", out_dtype="bfloat16")
    yield "half_models", recipe("slerp", "instruct_half", base="base_half", parameters="t: 0.4", dtype="bfloat16")


def nuslerp() -> Iterator[tuple[str, str]]:
    pair = ("instruct weight: 0.7", "eu weight: 0.5")
    yield "flat", recipe("nuslerp", *pair, base="")
    yield "flat_base", recipe("nuslerp", *pair)
    yield "base_listed", recipe("nuslerp", "instruct weight: 0.7", "base", "eu weight: 0.5")
    yield "rows", recipe("nuslerp", *pair, base="", parameters="nuslerp_flatten: false")
    yield "rows_base", recipe("nuslerp", *pair, parameters="nuslerp_flatten: false")
    columns = "nuslerp_flatten: false, nuslerp_row_wise: true"
    yield "row_wise", recipe("nuslerp", *pair, base="", parameters=columns)
    yield "row_wise_base", recipe("nuslerp", *pair, parameters=columns)
    yield "flat_wins", recipe("nuslerp", *pair, parameters="nuslerp_flatten: true, nuslerp_row_wise: true")
    yield "gradient", recipe("nuslerp", "instruct weight: [0.1, 0.9]", "eu weight: 0.5")
    yield "filter", recipe("nuslerp", "instruct", "eu weight: [{filter: mlp, value: 2}]", parameters="weight: 0.5")
    yield "no_sum", recipe("nuslerp", "instruct weight: 0.5", "eu weight: -0.5")
    yield "float16", recipe("nuslerp", *pair, out_dtype="float16")


def model_stock() -> Iterator[tuple[str, str]]:
    yield "two", recipe("model_stock", "instruct", "eu")
    yield "three", recipe("model_stock", "instruct", "eu", "ca")
    yield "base_listed", recipe("model_stock", "ca", "base", "instruct")
    yield "filter_wise", recipe("model_stock", "instruct", "eu", "ca", parameters="filter_wise: true")
    some = "filter_wise: [{filter: self_attn, value: true}, {filter: mlp, value: [false, true]}, {value: false}]"
    yield "some_filter_wise", recipe("model_stock", "instruct", "eu", parameters=some)
    yield "bfloat16", recipe("model_stock", "instruct", "eu", "ca", out_dtype="bfloat16")


def nearswap() -> Iterator[tuple[str, str]]:
    yield "global", recipe("nearswap", "base", "instruct", parameters="t: 0.0005")
    yield "base_unlisted", recipe("nearswap", "instruct", parameters="t: 5e-4")
    yield "gradient", recipe("nearswap", "base", "instruct", parameters="t: [0, 0.003]")
    yield "filter", recipe("nearswap", "base", "instruct", parameters="t: [{filter: mlp, value: 0.002}, {value: 1e-4}]")
    yield "float16", recipe("nearswap", "instruct", parameters="t: 0.0005", out_dtype="float16")


def passthrough() -> Iterator[tuple[str, str]]:
    yield "plain", recipe("passthrough", "instruct", base="")
    yield "base_listed", recipe("passthrough", "instruct", base="instruct")
    yield "scale", recipe("passthrough", "instruct scale: 0.9", base="")
    yield "gradient", recipe("passthrough", "instruct", base="", parameters="scale: [0.5, 1.5]")
    yield "filter", recipe("passthrough", "instruct scale: [{filter: o_proj, value: 0}, {value: 1.0}]", base="")
    yield "bfloat16", recipe("passthrough", "instruct", base="", out_dtype="bfloat16")
    yield "upcast", recipe("passthrough", "instruct_half", base="", dtype="float32")


# Method -> the default of normalize and of rescale; the variants below turn each over.
TASK_VECTORS = {
    "task_arithmetic": (False, False),
    "ties": (True, False),
    "dare_linear": (False, True),
    "dare_ties": (False, True),
    "della": (True, True),
    "della_linear": (False, True),
    "breadcrumbs": (False, False),
    "breadcrumbs_ties": (False, False),
}
# One method of each kind of sparsification gets the variants that act after it.
FULLER = ("task_arithmetic", "ties", "dare_ties", "della")
OWN = {"della": ", epsilon: 0.1", "della_linear": ", epsilon: 0.2", "breadcrumbs": ", gamma: 0.05"}


def task_vectors(method: str) -> Iterator[tuple[str, str]]:
    """The variants that all methods over deltas share; epsilon and gamma are given for some and left out for others."""
    normalize, rescale = TASK_VECTORS[method]
    own = OWN.get(method, "")

    def model(role: str, weight: str, density: str) -> str:
        sparse = "" if method == "task_arithmetic" else f", density: {density}{own}"
        return f"{role} weight: {weight}{sparse}"

    pair = (model("instruct", "0.8", "0.5"), model("eu", "0.4", "0.35"))
    yield "per_model", recipe(method, *pair)
    yield "global", recipe(method, "instruct", "eu", "ca", parameters=model("", "0.5", "0.6").strip())
    yield "gradient", recipe(method, model("instruct", "[0.2, 1]", "[0.3, 0.7, 0.5]"), model("eu", "0.4", "[0.6, 0.4]"))
    weight = "[{filter: self_attn, value: 0}, {filter: mlp, value: [1, 0.5]}, {value: 0.7}]"
    density = "[{filter: down_proj, value: 0.3}, {filter: proj, value: [0.7, 0.4]}]"
    yield "filter", recipe(method, model("instruct", weight, density), model("eu", "0.4", "0.35"))
    yield "base_listed", recipe(method, pair[1], "base weight: 9", pair[0])
    lasting = f"normalize: {str(not normalize).lower()}, lambda: 0.7"
    yield "normalize_lambda", recipe(method, *pair, model("ca", "1.5", "0.75"), parameters=lasting)
    yield "negative", recipe(method, pair[0], model("eu", "-0.3", "0.6"), parameters="normalize: false")
    if method != "task_arithmetic":
        yield "rescale", recipe(method, *pair, parameters=f"rescale: {str(not rescale).lower()}")
    if method in FULLER:
        yield "dense", recipe(method, "instruct weight: 0.8", "eu weight: 0.4")
        yield "lambda_gradient", recipe(method, *pair, parameters="lambda: [1, 0.5], int8_mask: true")
        yield "bfloat16", recipe(method, *pair, out_dtype="bfloat16")


def edges() -> Iterator[tuple[str, str]]:
    """Counts at their limits, and models of 16 bits computed in 32."""
    pair = ("instruct weight: 1, density: 0.0001", "eu weight: 1, density: 0")
    yield "ties_one_element", recipe("ties", *pair)
    yield "breadcrumbs_nothing", recipe("breadcrumbs", *pair)
    wide = ("instruct weight: 1, density: 0.9, gamma: 0.2", "eu weight: 1, density: 0.5, gamma: 0.001")
    yield "breadcrumbs_wide", recipe("breadcrumbs", *wide)
    yield "breadcrumbs_dense", recipe("breadcrumbs", "instruct weight: 1, gamma: 0.2", "eu weight: 1")
    half = ("instruct_half weight: 0.8", "eu_half weight: 0.4")
    yield "task_arithmetic_half_models", recipe("task_arithmetic", *half, base="base_half", dtype="float32")
    sparse = ("instruct_half weight: 0.8, density: 0.5", "eu_half weight: 0.4, density: 0.5")
    yield (
        "dare_linear_half_models",
        recipe("dare_linear", *sparse, base="base_half", dtype="float32", out_dtype="bfloat16"),
    )


def others(*, tied: bool) -> Iterator[tuple[str, str, bool]]:
    """What the other architectures are merged with; the last element says whether fused experts give the same."""
    yield "linear", recipe("linear", "instruct weight: [0.2, 0.9]", "eu weight: 0.5", base=""), True
    yield (
        "slerp",
        recipe("slerp", "instruct", parameters="t: [{filter: self_attn, value: [0, 1]}, {value: 0.3}]"),
        False,
    )
    pair = ("instruct weight: 0.8, density: 0.5", "eu weight: 0.4, density: 0.35")
    yield "ties", recipe("ties", *pair), False
    yield "dare_ties", recipe("dare_ties", *pair), False
    if tied:  # What is left is as in the untied architecture; the lack of a head shows in these four.
        return
    weight = "weight: [{filter: self_attn, value: 1}, {filter: norm, value: 0.2}, {value: 0.6}]"
    yield "task_arithmetic", recipe("task_arithmetic", f"instruct {weight}", "eu weight: 0.4"), True
    yield (
        "della_linear",
        recipe("della_linear", "instruct weight: 0.8, density: 0.5", "eu", parameters="weight: 1"),
        False,
    )
    yield "model_stock", recipe("model_stock", "instruct", "eu", "ca", parameters="filter_wise: true"), True
    yield "nearswap", recipe("nearswap", "instruct", parameters="t: [0, 0.003]"), True


def all_cases() -> list[Case]:
    """Every case, in a fixed order."""
    methods = (linear, slerp, nuslerp, model_stock, nearswap, passthrough)
    texts = [(f"{make.__name__}_{name}", text) for make in methods for name, text in make()]
    texts += [(f"{method}_{name}", text) for method in TASK_VECTORS for name, text in task_vectors(method)]
    found = [Case(f"llama_{name}", "llama", text) for name, text in [*texts, *edges()]]
    for architecture in ("qwen2", "qwen2_tied", "qwen3", "qwen3_tied", "mixtral", "unknown"):
        for name, text, experts in others(tied=architecture.endswith("_tied")):
            found.append(Case(f"{architecture}_{name}", architecture, text, experts or architecture != "mixtral"))
    return found
