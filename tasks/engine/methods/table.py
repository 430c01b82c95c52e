"""The merge methods as data: names, parameters, what they need. A new method is described here and computed beside it.

Names, parameters and defaults are mergekit 0.1.5's, so that its YAML means the same here; ``language_graft`` and
``layer_swap`` are our own. Notation: x_i the models, b the base, d_i = x_i - b, w_i the weights, n the elements of one
tensor. Everything is computed per tensor. Loads without numpy, numba and torch: a catalog can be checked anywhere.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType

from ..errors import RecipeError
from ..values import place_of
from .spec import REQUIRED, MethodSpec, Parameter

__all__ = ["REQUIRED", "TABLE", "MethodSpec", "Parameter", "language_share", "layer_share"]

_BESIDE_TEXT = re.compile(r"(^|[._])(vision|visual|vit|image|img|video|audio|speech|projector|merger|mtp)")
"""In the names of towers for pictures and sound, of what ties them to the text, and of heads for further tokens."""


def _switch(default: bool, doc: str, *, effect: bool = True) -> Parameter:
    return Parameter("global", bool, default, doc, effect=effect)


def _weight(doc: str) -> Parameter:
    return Parameter("model", float, REQUIRED, doc)


_GAMMA = Parameter("model", float, 0.01, "share of the largest |d| that is dropped as outliers", 0.0, 1.0)
_EPSILON = Parameter(
    "model", float, 0.15, "how far the keep probability goes from the density, both ways, by rank of |d|", 0.0, 0.5
)


def _of_deltas(
    name: str, doc: str, *, normalize: bool = False, rescale: bool = False, random: bool = False, **more: Parameter
) -> MethodSpec:
    """The methods that are b + lambda * (deltas, sparsified, weighted, perhaps with sign consensus, summed)."""
    sparsified = name != "task_arithmetic"
    parameters = {
        "weight": _weight("w_i"),
        "density": Parameter(
            "model", float, 1.0, "share of d_i that is kept; 1 keeps all", 0.0, 1.0, effect=sparsified
        ),
        **more,
        "normalize": _switch(normalize, "divide by the sum of the weights that counted"),
        "rescale": _switch(rescale, "scale what is kept to the L1 norm of the whole d_i", effect=sparsified),
        "lambda": Parameter("global", float, 1.0, "factor on the merged delta"),
        "int8_mask": _switch(False, "no effect: masks take no memory here", effect=False),
    }
    return MethodSpec(name, doc, "required", 1, parameters=MappingProxyType(parameters), random=random)


def _swapped(default: float, where: str) -> Parameter:
    doc = f"layers at the {where} from the language model: below 1 a share of the depth, from 1 on a number of layers"
    return Parameter("global", float, default, doc, 0.0, gradient=False, whole_from_one=True)


_SPECS = (
    MethodSpec(
        "linear",
        "sum w_i x_i / sum w_i (Wortsman et al., ICML 2022, arXiv 2203.05482)",
        "unused",
        1,
        parameters={"weight": _weight("w_i"), "normalize": _switch(True, "divide by the sum of the weights")},
    ),
    MethodSpec(
        "slerp",
        "from b (t = 0) to x (t = 1) on the great circle, each tensor as one vector (Shoemake, SIGGRAPH 1985)",
        "required",
        1,
        1,
        {"t": Parameter("global", float, REQUIRED, "0 is the base, 1 the other model", 0.0, 1.0)},
    ),
    MethodSpec(
        "nuslerp",
        "slerp of two models at t = w_2 / (w_1 + w_2); with a base, of their deltas, added to it (mergekit)",
        "optional",
        2,
        2,
        {
            "weight": _weight("w_i"),
            "nuslerp_flatten": _switch(True, "each tensor is one vector, whatever nuslerp_row_wise says"),
            "nuslerp_row_wise": _switch(False, "false: vectors along the last dimension, true: along the first"),
        },
    ),
    _of_deltas("task_arithmetic", "b + lambda * sum w_i d_i (Ilharco et al., ICLR 2023, arXiv 2212.04089)"),
    _of_deltas(
        "ties",
        "the largest |d_i|, sign by the weighted sum, mean of those that agree (Yadav et al., arXiv 2306.01708)",
        normalize=True,
        random=True,  # which of equal magnitudes stay
    ),
    _of_deltas(
        "dare_linear",
        "elements of d_i kept with probability density, rescaled, summed (Yu et al., arXiv 2311.03099)",
        rescale=True,
        random=True,
    ),
    _of_deltas(
        "dare_ties",
        "as dare_linear, with the sign consensus of ties (Yu et al., arXiv 2311.03099)",
        rescale=True,
        random=True,
    ),
    _of_deltas(
        "della",
        "kept with a probability that rises with the rank of |d_i| in its row, sign consensus (arXiv 2406.11617)",
        normalize=True,
        rescale=True,
        random=True,
        epsilon=_EPSILON,
    ),
    _of_deltas(
        "della_linear",
        "as della, without sign consensus (Deep et al., arXiv 2406.11617)",
        rescale=True,
        random=True,
        epsilon=_EPSILON,
    ),
    _of_deltas(
        "breadcrumbs",
        "d_i without its largest gamma n and its smallest elements (Davari and Belilovsky, arXiv 2312.06795)",
        random=True,
        gamma=_GAMMA,
    ),
    _of_deltas(
        "breadcrumbs_ties",
        "as breadcrumbs, with the sign consensus of ties (arXiv 2312.06795)",
        random=True,
        gamma=_GAMMA,
    ),
    MethodSpec(
        "model_stock",
        "t mean(x_i) + (1 - t) b, t = N c / (1 + (N - 1) c), c the mean cosine of d_i, d_j (arXiv 2403.19522)",
        "required",
        2,
        parameters={"filter_wise": _switch(False, "one t per row instead of one per tensor")},
    ),
    MethodSpec(
        "nearswap",
        "b + clip(t / |x - b|, 0, 1) (x - b): goes over to x where it is near (alchemonaut, QuartetAnemoi-70B)",
        "required",
        1,
        1,
        {"t": Parameter("global", float, REQUIRED, "the distance up to which x is taken whole", 0.0)},
    ),
    MethodSpec(
        "passthrough",
        "scale * x (mergekit)",
        "unused",
        1,
        1,
        {"scale": Parameter("model", float, 1.0, "factor on every element")},
    ),
    MethodSpec(
        "language_graft",
        "theta_0 + a tau_I + sum_k b_k tau_k (Huang et al., ACL 2024, arXiv 2310.04799; several languages at once)",
        "required",
        0,
        # As in `recipe`: published sweeps end at 2 and collapse from 1.5 on, so more than 4 is a slip of the pen.
        parameters={
            "instruct_weight": Parameter("global", float, 1.0, "a, of the instruct delta", 0.0, 4.0),
            "weight": Parameter("model", float, 1.0, "b_k, of this language's delta", 0.0, 4.0),
        },
        instruct_apart=True,
    ),
    MethodSpec(
        "layer_swap",
        "s x_L + (1 - s) x_I, s from `language_share`: the language outside (Bandarkar et al., arXiv 2410.01335)",
        "optional",
        1,
        1,
        {
            "bottom": _swapped(5 / 32, "bottom"),
            "top": _swapped(2 / 32, "top"),
            "blend": Parameter(
                "global", int, 1, "layers beside each end over which s goes linearly from 1 to 0", 0.0, gradient=False
            ),
            "embeddings": Parameter(
                "global",
                str,
                "language",
                "which model gives the tensors outside the layers (the chat tokens' rows are special_rows' affair)",
                choices=("language", "instruct"),
                gradient=False,
            ),
        },
        instruct_apart=True,
    ),
)

TABLE: Mapping[str, MethodSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""Every method by the name that `merge_method` has in a recipe."""


def layer_share(layer: int, layers: int, bottom: float, top: float, blend: int) -> float:
    """The language model's share of one layer in ``layer_swap``: 1 at both ends, 0 in the middle.

    Beside each end that has layers at all, ``blend`` layers lead over: with 1 that layer is half and half, with 3 the
    shares are 3/4, 1/2 and 1/4. Where the two zones meet, the larger share counts. The defaults of the method are those
    reported of Bandarkar et al. as shares of any depth: 5 and 2 of 32 layers, one averaged layer beside each.

    Args:
        layer: Counted from 0.
        layers: Of the stack.
        bottom: Layers at the start, or their share of the depth when below 1 (rounded to whole layers, half up).
        top: The same at the end.
        blend: Width of each zone, in layers.

    Raises:
        RecipeError: Both ends together have more layers than there are.
    """
    first, last = _layers_of(bottom, layers), _layers_of(top, layers)
    if first + last > layers:
        raise RecipeError(
            f"bottom {bottom:g} and top {top:g} are {first} and {last} layers, and the model has {layers}; "
            "expected no more than that together; make one smaller"
        )
    below = _falloff(layer - first, blend) if first else 0.0
    above = _falloff(layers - 1 - layer - last, blend) if last else 0.0
    return max(below, above)


def language_share(
    tensor: str, layers: Mapping[str, int], *, bottom: float, top: float, blend: int, embeddings: str
) -> float:
    """The language model's share of one tensor in ``layer_swap``; the rest is the instruct model's.

    Towers for pictures and sound and heads for further tokens are the instruct model's: continued training on text
    has not kept them in step with the layers, and they are no part of what the method was tried on.

    Args:
        tensor: Its name.
        layers: Layers by stack, from `values.count_layers` over the model's names.
        bottom: As in `layer_share`.
        top: As in `layer_share`.
        blend: As in `layer_share`.
        embeddings: ``language`` or ``instruct``: who gives the tensors outside the layers.

    Raises:
        RecipeError: Both ends together have more layers than there are.
    """
    place = place_of(tensor, layers)
    if _BESIDE_TEXT.search(tensor) or (place is not None and place.layer >= place.layers):
        return 0.0
    if place is None:
        return 1.0 if embeddings == "language" else 0.0
    return layer_share(place.layer, place.layers, bottom, top, blend)


def _layers_of(amount: float, layers: int) -> int:
    return math.floor(amount * layers + 0.5) if amount < 1 else int(amount)


def _falloff(distance: int, blend: int) -> float:
    """1 inside an end (distance below 0), then down to 0 in equal steps over ``blend`` layers."""
    return 1.0 if distance < 0 else max(0.0, 1 - (distance + 1) / (blend + 1))
