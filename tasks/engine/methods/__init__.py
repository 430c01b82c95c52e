"""The merge methods: ``table`` says what each is called and takes, as data that loads without numpy and torch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .workspace import Workspace

    Method = Callable[[Sequence[Tensor], Sequence[float], Workspace], Tensor]
    METHODS: dict[str, Method]


def __getattr__(name: str) -> Any:
    """``METHODS``: the functions of `recipe`'s methods by name, loaded with torch when they are first asked for."""
    if name != "METHODS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .weighted import weighted_sum

    return {"linear": weighted_sum, "task_arithmetic": weighted_sum}
