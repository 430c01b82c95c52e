"""The merge itself: threads take blocks, read, compute, round once, write in place; files are hashed in order.

Memory is a few blocks for each thread, whatever the model's size. Whoever has finished a block writes it where it
belongs;
one thread at a time, whichever comes by, hashes what is complete up to there, while the block is still in the cache.
"""

import os
import queue
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError
from .header import ITEM_BYTES, TensorSpec
from .kernels.widths import is_finite, narrow_bf16
from .methods.operation import BLOCK_ELEMENTS, WAITING_BLOCKS, Block, Operation
from .plan import MergePlan, TensorPlan
from .reading import STORED, BlockReader, ShardFiles
from .schedule import Schedule, Task, Work
from .writer import OutputFolder, WeightFile


class Progress(NamedTuple):
    """How far a merge is."""

    done_bytes: int
    """Of weight files, written and hashed."""
    total_bytes: int
    tensor: str
    """The one that the last block belongs to."""


OnProgress = Callable[[Progress], None]


class Output(NamedTuple):
    """One folder to be written."""

    plan: MergePlan
    folder: OutputFolder


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_weights(outputs: Sequence[Output], on_progress: OnProgress | None = None, threads: int | None = None) -> None:
    """Write the weight files of merges of the same models, each input block read once for all of them.

    Args:
        outputs: Plans over the same sources and tensors, and where each goes; nothing is committed here.
        on_progress: Called from the thread that hashes, after each block. What it raises ends the merge.
        threads: How many; all available cores by default. The bytes do not depend on it.

    Raises:
        CheckpointError: An input with NaN or Inf, or a result that its type cannot hold.
        WriteError: Or `DiskFull`, from the folder.
    """
    with ShardFiles() as files:
        merge = _Merge(outputs, files, on_progress)
        merge.run(threads or available_threads())
    for output in outputs:
        if output.plan.layout.index_json is not None:
            output.folder.write("model.safetensors.index.json", output.plan.layout.index_json)


class _Piece(NamedTuple):
    """A merged block of one tensor in every output, as bytes."""

    tensor: int
    start: int
    data: list[NDArray[Any]]


class _Merge:
    """State that the threads share."""

    def __init__(self, outputs: Sequence[Output], files: ShardFiles, on_progress: OnProgress | None) -> None:
        self._outputs, self._files, self._on_progress = outputs, files, on_progress
        self._targets = [_Target(output) for output in outputs]
        names = list(outputs[0].plan.tensors)
        self._names = [name for name in names if not all(target.has(name) for target in self._targets)]
        self._tensors = [[output.plan.tensors[name] for name in self._names] for output in outputs]
        self._works: dict[int, Work] = {}
        self._schedule = Schedule(self._work, len(self._names))
        self._pieces: dict[int, _Piece] = {}
        self._turn = 0
        self._hashing = False
        self._order = threading.Condition()
        self._error: BaseException | None = None
        self._ended: list[int] = []
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._done = sum(target.begun for target in self._targets)
        self._total = sum(shard.size_bytes for output in outputs for shard in output.plan.layout.shards)

    def run(self, threads: int) -> None:
        """All tensors, with this many threads."""
        workers = [threading.Thread(target=self._work_on, name=f"merge-{n}", daemon=True) for n in range(threads)]
        try:
            for worker in workers:
                worker.start()
            self._wait(threads)
        finally:
            self._stop(None)
            self._wait(sum(worker.ident is not None for worker in workers))  # those that were started
        if self._error is not None:
            raise self._error
        for target in self._targets:
            target.finish()

    def _wait(self, threads: int) -> None:
        """Until so many have ended.

        Not by `Thread.join`: in Python 3.11 a signal that raises in there marks a running thread as ended, and the
        next join returns while it still writes into files that are about to be closed.
        """
        while len(self._ended) < threads:
            with suppress(queue.Empty):
                self._bell.get(timeout=0.2)

    def _stop(self, error: BaseException | None) -> None:
        with self._order:
            self._error = self._error or error
            self._turn = -1 if error else self._turn
            self._order.notify_all()
        self._schedule.stop()

    def _work(self, number: int) -> Work:
        plans = [tensors[number] for tensors in self._tensors]
        tensor = plans[0].tensor
        work = Work(tensor.elements, tensor.width, tuple(plan.operation() for plan in plans))
        self._works[number] = work
        return work

    def _work_on(self) -> None:
        """One thread."""
        reader = BlockReader(self._files, len(self._outputs[0].plan.sources), BLOCK_ELEMENTS)
        try:
            for task in self._schedule.tasks():
                if task.stages is not None:
                    self._schedule.measured(task, self._measure(task, reader))
                else:
                    self._hand_over(task, self._merge(task, reader))
        except BaseException as error:
            self._stop(error)
        finally:
            self._ended.append(threading.get_ident())
            self._bell.put(None)

    def _measure(self, task: Task, reader: BlockReader) -> list[Any]:
        assert task.stages is not None
        work, plan = self._works[task.tensor], self._tensors[0][task.tensor]
        asking = [op for op, stage in zip(work.operations, task.stages, strict=True) if stage is not None]
        sources = list(dict.fromkeys(source for operation in asking for source in operation.sources))
        x = reader.block([plan.specs[source] for source in sources], task.start, task.stop, check=task.first)
        return [
            None if stage is None else op.measure(stage, Block(_rows(x, sources, op.sources), task.start))
            for op, stage in zip(work.operations, task.stages, strict=True)
        ]

    def _merge(self, task: Task, reader: BlockReader) -> list[NDArray[Any]]:
        """One block for every output, in the output's type."""
        work = self._works[task.tensor]
        plans = [tensors[task.tensor] for tensors in self._tensors]
        if plans[0].dtype not in STORED:
            return [_whole_numbers(self._files, plans[0], task)] * len(plans)
        sources = list(dict.fromkeys(source for operation in work.operations for source in operation.sources))
        specs = [plans[0].specs[source] for source in sources]
        looked = task.first and not all(operation.shows_all for operation in work.operations)
        x = reader.block(specs, task.start, task.stop, check=looked)
        written = []
        for plan, operation, output in zip(plans, work.operations, self._outputs, strict=True):
            block = Block(_rows(x, sources, operation.sources), task.start)
            stored = _stored(operation, block, output.plan.out_dtype)
            if stored is None:
                reader.block(specs, task.start, task.stop, check=True)  # refuses if it was an input
                raise _too_large(plan, operation, block, output.plan.out_dtype)
            copy_rows(self._files, plan, task.start, stored, output.plan.out_dtype)
            written.append(stored)
        return written

    def _hand_over(self, task: Task, data: list[NDArray[Any]]) -> None:
        """Write a block, and hash whatever is complete if nobody else is hashing."""
        for target, piece in zip(self._targets, data, strict=True):
            target.place(self._names[task.tensor], task.start, piece)
        with self._order:
            self._pieces[task.number] = _Piece(task.tensor, task.start, data)
            while self._hashing or self._turn not in self._pieces:
                if len(self._pieces) <= WAITING_BLOCKS or self._turn < 0:
                    return
                self._order.wait()
            self._hashing = True
        self._hash_what_is_complete()

    def _hash_what_is_complete(self) -> None:
        while True:
            with self._order:
                found = self._pieces.pop(self._turn, None)
                if found is None:
                    self._hashing = False
                    self._order.notify_all()
                    return
            self._hash(found)
            with self._order:
                if self._turn >= 0:
                    self._turn += 1

    def _hash(self, piece: _Piece) -> None:
        name = self._names[piece.tensor]
        for done in [number for number in list(self._works) if number < piece.tensor]:
            del self._works[done]  # with its masks and buffers: else memory grows with the model
        for target, data in zip(self._targets, piece.data, strict=True):
            self._done += target.advance(name, piece.start, data)
        if self._on_progress is not None:
            self._on_progress(Progress(min(self._done, self._total), self._total, name))


class _Target:
    """The weight files of one output: where each tensor's bytes go."""

    def __init__(self, output: Output) -> None:
        self._folder = output.folder
        self._items = {name: ITEM_BYTES[plan.dtype] for name, plan in output.plan.tensors.items()}
        self._files: list[WeightFile] = []
        self._where: dict[str, tuple[WeightFile, int]] = {}
        self._ends: dict[str, int] = {}
        for shard in output.plan.layout.shards:
            file = output.folder.weights(shard.file, shard.header, shard.size_bytes)
            self._files.append(file)
            offset = len(shard.header)
            for name in shard.tensors:
                self._where[name] = file, offset
                offset += output.plan.tensors[name].tensor.elements * self._items[name]
                self._ends[name] = offset
        self.begun = sum(file.hashed for file in self._files)
        self._resumed = output.folder.resumed_bytes > 0
        self._noted = {file.name: file.hashed for file in self._files}

    def has(self, name: str) -> bool:
        """Whether a merge that was killed has written all of this tensor."""
        file, _ = self._where[name]
        return self._resumed and file.hashed >= self._ends[name]

    def place(self, name: str, start: int, data: NDArray[Any]) -> None:
        """Write a block where it belongs."""
        file, offset = self._where[name]
        file.place(data.data.cast("B"), offset + start * self._items[name])

    def advance(self, name: str, start: int, data: NDArray[Any]) -> int:
        """Hash a block, or what is new of it after a resumption; returns how many bytes that was."""
        file, offset = self._where[name]
        view = data.data.cast("B")[max(0, file.hashed - offset - start * self._items[name]) :]
        if view:
            file.advance(view)
        behind = file.hashed - self._noted[file.name]
        if behind >= self._folder.journal_bytes or (file.hashed == file.size and behind):
            self._folder.note(file)
            self._noted[file.name] = file.hashed
        return len(view)

    def finish(self) -> None:
        """Every file is complete."""
        for file in self._files:
            self._folder.finish(file)


def _rows(x: NDArray[Any], have: Sequence[int], want: Sequence[int]) -> NDArray[Any]:
    """The rows that one operation reads, out of those that were read for several."""
    if len(have) == len(want) and list(have) == list(want):
        return x
    return np.ascontiguousarray(x[[have.index(source) for source in want]])


def _stored(operation: Operation, block: Block, dtype: str) -> NDArray[Any] | None:
    """One block in the output's type, rounded once; None when a result is no finite number of it."""
    length = block.x.shape[1]
    if dtype in ("BF16", "F32"):
        out = np.empty(length, STORED[dtype])
        return out if operation.apply(block, out) else None
    merged = np.empty(length, np.float32)
    operation.apply(block, merged)
    return _narrow(merged, dtype)


def _whole_numbers(files: ShardFiles, plan: TensorPlan, task: Task) -> NDArray[Any]:
    """The instruct model's, as they are: the plan has found the same in all models."""
    spec = plan.specs[plan.instruct]
    assert isinstance(spec, TensorSpec), "rows of tokens are no whole numbers"
    stored = np.empty(task.stop - task.start, f"<u{ITEM_BYTES[plan.dtype]}")
    files.fill(spec, task.start, stored)
    return stored


def _narrow(merged: NDArray[np.float32], dtype: str) -> NDArray[Any] | None:
    """Round once to the output's type; None when a result is no finite number of it."""
    if dtype == "BF16":
        out = np.empty(len(merged), np.uint16)
        return out if narrow_bf16(merged, out) else None
    if dtype == "F32":
        return merged.copy() if is_finite(merged) else None
    with np.errstate(over="ignore"):
        stored = merged.astype(STORED[dtype])
    return stored if bool(np.isfinite(stored).all()) else None


def _too_large(plan: TensorPlan, operation: Operation, block: Block, dtype: str) -> CheckpointError:
    merged = np.empty(block.x.shape[1], np.float32)
    operation.apply(block, merged)
    return _beyond(plan, merged, block.start, dtype)


def _beyond(plan: TensorPlan, merged: NDArray[np.float32], start: int, dtype: str) -> CheckpointError:
    worst = int(np.argmax(np.where(np.isnan(merged), np.inf, np.abs(merged))))
    return CheckpointError(
        f"{plan.tensor.name}: the merged value at element {start + worst} is {merged[worst]}, expected a finite "
        f"{dtype}; the inputs are finite, so the weights are too large for this type"
    )


def copy_rows(files: ShardFiles, plan: TensorPlan, start: int, stored: NDArray[Any], dtype: str) -> None:
    """Overwrite the parts of the instruct model's own rows that lie in a block beginning at flat place ``start``."""
    if not plan.copied_rows:
        return
    width, stop = plan.tensor.width, start + len(stored)
    spec = plan.specs[plan.instruct]
    assert isinstance(spec, TensorSpec), "the instruct model's rows are in its own order"
    for row in plan.copied_rows[bisect_left(plan.copied_rows, start // width) :]:
        first, last = max(row * width, start), min((row + 1) * width, stop)
        if first >= stop:
            return
        # By way of float32, which is exact where the type stays, so that NaN and Inf are noticed here too.
        wide = BlockReader(files, 1, last - first).floats([spec], first, last)[0]
        narrowed = _narrow(wide, dtype)
        if narrowed is None:
            raise _beyond(plan, wide, first, dtype)
        stored[first - start : last - start] = narrowed
