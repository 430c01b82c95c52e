"""The functions behind the names of methods."""

from collections.abc import Callable

from .angles import model_stock, nuslerp, slerp
from .deltas import language_graft, layer_swap, linear, passthrough, task_arithmetic
from .operation import Operation, Tensor
from .rows import nearswap
from .sparse import breadcrumbs, breadcrumbs_ties, dare_linear, dare_ties, della, della_linear, ties

METHODS: dict[str, Callable[[Tensor], Operation]] = {
    "linear": linear,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "della": della,
    "della_linear": della_linear,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties,
    "model_stock": model_stock,
    "nearswap": nearswap,
    "passthrough": passthrough,
    "language_graft": language_graft,
    "layer_swap": layer_swap,
}
"""By the names that recipes use."""
