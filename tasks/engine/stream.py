"""The hot loop: blocks in through memory maps, one method call, one rounding, blocks out behind a writing thread.

Memory is a few blocks whatever the model's size: pages of the inputs are given back as soon as a block is done, and
three output buffers go round between this thread and the one that hashes and writes.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError
from .methods import METHODS
from .methods.workspace import Workspace
from .plan import MergePlan, MergeStep
from .writer import HashedFile, OutputFolder

BLOCK_ELEMENTS = 1 << 20
"""Elements per block and source: 4 MB in float32. Three bf16 models of 101 M elements took 0.57 s of CPU in blocks of
2^18 and 0.63 s in 2^20; two took 0.48 s in both and 0.57 s in 2^17 (hand-overs): flat, and memory is small anyway."""

_BUFFERS = 3
"""One being filled, one waiting, one being hashed and written."""

_TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Progress(NamedTuple):
    """How far a merge is."""

    done_bytes: int
    """Of weight files, handed to the writer."""
    total_bytes: int
    tensor: str
    """The one that the last block belongs to."""


OnProgress = Callable[[Progress], None]


def write_weights(plan: MergePlan, folder: OutputFolder, on_progress: OnProgress | None = None) -> None:
    """Write every shard, then the index.

    Args:
        plan: What to compute, and where each byte goes.
        folder: Where to; it is not committed here.
        on_progress: Called after each block, from this thread. What it raises ends the merge.

    Raises:
        CheckpointError: A result that is not a finite number of the output's type.
        WriteError: Or `DiskFull`, from the folder.
    """
    dtype = _TORCH[plan.recipe.out_dtype]
    buffers = [torch.empty(BLOCK_ELEMENTS, dtype=dtype) for _ in range(_BUFFERS)]
    workspace = Workspace()
    total = sum(shard.size_bytes for shard in plan.layout.shards)
    done = 0
    for shard in plan.layout.shards:
        # One thread only: the blocks of a file must be hashed and written in order. It ends before the file closes.
        with folder.create(shard.file) as file, ThreadPoolExecutor(1, thread_name_prefix="empelt-writer") as writer:
            file.append(shard.header)
            done += len(shard.header)
            pending: deque[Future[None]] = deque()
            for turn, (step, start, stop) in enumerate(_blocks(plan, shard.tensors)):
                if len(pending) == _BUFFERS:
                    pending.popleft().result()
                buffer = buffers[turn % _BUFFERS][: stop - start]
                _merge_block(plan, step, start, stop, workspace, buffer)
                pending.append(writer.submit(_append, file, buffer))
                done += buffer.nbytes
                if on_progress is not None:
                    on_progress(Progress(done, total, step.name))
            while pending:
                pending.popleft().result()
    if plan.layout.index_json is not None:
        folder.write("model.safetensors.index.json", plan.layout.index_json)


def _blocks(plan: MergePlan, names: Iterable[str]) -> Iterator[tuple[MergeStep, int, int]]:
    for name in names:
        step = plan.steps[name]
        for start in range(0, step.elements, BLOCK_ELEMENTS):
            yield step, start, min(start + BLOCK_ELEMENTS, step.elements)


def _append(file: HashedFile, block: Tensor) -> None:
    file.append(block.view(torch.uint8).numpy().data)


def _merge_block(plan: MergePlan, step: MergeStep, start: int, stop: int, workspace: Workspace, out: Tensor) -> None:
    """Elements [start, stop) of one tensor into ``out``, which has the output's dtype: the only rounding."""
    sources = [plan.checkpoints[label] for label in step.sources]
    chunks = [source.read(step.name, start, stop) for source in sources]
    merged = METHODS[plan.recipe.method](chunks, step.weights, workspace)
    low, high = (float(bound) for bound in torch.aminmax(merged))
    limit = torch.finfo(out.dtype).max
    if not (-limit <= low and high <= limit):  # False for NaN as well
        raise CheckpointError(_not_finite(plan, step, start, chunks, low, high))
    out.copy_(merged)
    _copy_instruct_rows(plan, step, start, stop, out)
    for source in sources:
        source.forget(step.name, start, stop)


def _copy_instruct_rows(plan: MergePlan, step: MergeStep, start: int, stop: int, out: Tensor) -> None:
    """Overwrite the parts of the instruct model's rows that lie in this block."""
    if not step.instruct_rows:
        return
    width = step.shape[1]
    instruct = plan.checkpoints["instruct"]
    for row in step.instruct_rows[bisect_left(step.instruct_rows, start // width) :]:
        first, last = max(row * width, start), min((row + 1) * width, stop)
        if first >= stop:
            return
        out[first - start : last - start].copy_(instruct.read(step.name, first, last))


def _not_finite(plan: MergePlan, step: MergeStep, start: int, chunks: list[Tensor], low: float, high: float) -> str:
    guilty = [
        f"{label} ({plan.checkpoints[label].tensors[step.name].shard})"
        for label, chunk in zip(step.sources, chunks, strict=True)
        if not bool(torch.isfinite(chunk).all())
    ]
    cause = f"NaN or Inf in {', '.join(guilty)}" if guilty else "the inputs are finite, so the weights are too large"
    return (
        f"{step.name}: a value in the block from element {start} is between {low} and {high}, expected a finite "
        f"{plan.recipe.out_dtype}: {cause}"
    )
