"""The table of merge methods: pure functions of tensors, by the names that recipes use.

A method is one function in a file of its family, one line here, and its name in ``recipe.MethodName``; a test holds
the two tables together, and the algebra tests pick up whatever stands here.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from .weighted import weighted_sum
from .workspace import Workspace

Method = Callable[[Sequence[Tensor], Sequence[float], Workspace], Tensor]
"""(chunks, weights, workspace) -> float32, in a buffer of the workspace.

The chunks are one range of one tensor in each source, as views of the files: they are not written to.
"""

METHODS: dict[str, Method] = {
    "linear": weighted_sum,
    "task_arithmetic": weighted_sum,
}
