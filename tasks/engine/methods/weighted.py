"""Methods that are a sum of deltas with fixed coefficients: linear and task arithmetic differ in the weights alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .workspace import Workspace


def weighted_sum(chunks: Sequence[Tensor], weights: Sequence[float], workspace: Workspace) -> Tensor:
    """sum_j c_j x_j where sum_j c_j = 1, computed as x_0 + sum_{j>0} c_j (x_j - x_0).

    The same number on paper (Ilharco et al., ICLR 2023, equation 1, collected per model), and in float32 it keeps what
    the plain sum loses: where all x_j are equal the result is x_0 bit for bit whatever the weights, and a single source
    comes back unchanged. The differences are exact for bfloat16 inputs within a factor of 2^16 of each other.

    Args:
        chunks: x_j, 1-D, equal lengths, any float dtypes. x_0 is the one with the largest weight.
        weights: c_j; they sum to 1, and c_0 is implied by the others.
        workspace: Where the result and the intermediate values live.

    Returns:
        float32 (float64 if a chunk is), same length; the caller rounds once.
    """
    dtype = torch.float64 if any(chunk.dtype == torch.float64 for chunk in chunks) else torch.float32
    anchor = workspace.widened("anchor", chunks[0], dtype)
    if len(chunks) == 1:
        return anchor
    total = workspace.widened("total", anchor, dtype)
    for chunk, weight in zip(chunks[1:], weights[1:], strict=True):
        difference = workspace.widened("difference", chunk, dtype).sub_(anchor)
        total.add_(difference, alpha=weight)
    return total
