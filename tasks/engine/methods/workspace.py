"""Buffers that methods use again for every block: fresh ones of 4 MB come from the kernel page by page, each time."""

import torch
from torch import Tensor


class Workspace:
    """Named scratch buffers. One thread uses it; what it hands out is valid until the same slot is asked for again."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, slot: str, elements: int, dtype: torch.dtype) -> Tensor:
        """A 1-D buffer of this length and type, with whatever was in it before."""
        held = self._held.get((slot, dtype))
        if held is None or held.numel() < elements:
            held = self._held[slot, dtype] = torch.empty(elements, dtype=dtype)
        return held[:elements]

    def widened(self, slot: str, chunk: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of ``chunk`` in this type; the chunk itself is a view of a file and is not written to."""
        return self.take(slot, chunk.numel(), dtype).copy_(chunk)
