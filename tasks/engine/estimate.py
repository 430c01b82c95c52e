"""What a merge will take, told before it begins: bytes, memory, disk, seconds."""

import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from .places import output_bytes
from .plan import MergePlan
from .run import available_threads

NS_PER_ELEMENT: dict[str, float] = {
    "linear": 2.0, "task_arithmetic": 2.2, "language_graft": 2.2, "layer_swap": 2.0, "passthrough": 1.7,
    "nearswap": 4.0, "slerp": 4.5, "nuslerp": 4.5, "model_stock": 5.5, "ties": 8.0, "breadcrumbs": 8.5,
    "breadcrumbs_ties": 9.0, "dare_linear": 7.0, "dare_ties": 7.5, "della": 14.0, "della_linear": 13.5,
}  # fmt: skip
"""Core time for an element of the output, two or three bfloat16 inputs in the page cache, hashing and writing included;
from BENCHMARKS.md. An estimate is for choosing between minutes and hours."""

_SAMPLE_BYTES = 8 << 20


class Estimate(NamedTuple):
    """The cost of one output."""

    tensors: int
    bytes_in: int
    """Of one reading; methods with statistics read twice, the second time mostly from the page cache."""
    bytes_out: int
    memory_bytes: int
    """Buffers, beside the interpreter and its libraries (about 150 MB)."""
    free_bytes: int
    """On the output's file system."""
    threads: int
    seconds: float


def estimate(plan: MergePlan, out: Path, threads: int | None = None) -> Estimate:
    """Look at the plan, the disk, and how fast the inputs can be read just now."""
    workers = threads or available_threads()
    elements = sum(tensor.tensor.elements for tensor in plan.tensors.values())
    computing = elements * NS_PER_ELEMENT[plan.config.method] * 1e-9 / workers
    reading = plan.bytes_to_read / _read_rate(plan)
    return Estimate(
        len(plan.tensors),
        plan.bytes_to_read,
        output_bytes(plan),
        plan.memory_bytes(workers),
        shutil.disk_usage(out.absolute().parent).free,
        workers,
        max(computing, reading),
    )


def _read_rate(plan: MergePlan) -> float:
    """Bytes per second from the middle of the largest shard of every source, read once more than the merge will."""
    total, began = 0, time.perf_counter()
    for source in plan.sources:
        shard = max({spec.shard for spec in source.checkpoint.tensors.values()}, key=lambda path: path.stat().st_size)
        handle = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
        try:
            middle = max(0, shard.stat().st_size // 2 - _SAMPLE_BYTES // 2)
            total += len(os.pread(handle, _SAMPLE_BYTES, middle))
        finally:
            os.close(handle)
    return total / max(time.perf_counter() - began, 1e-6)
