"""Elements of checkpoints as float32, by plain reads into buffers that are used again.

Reads and not memory maps: mapped pages count as resident, and each is a fault to take (two threads, warm cache: 12 GB/s
moved by read and write, 8 GB/s by maps and write).
"""

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError, CorruptShard
from .header import TensorSpec
from .kernels.widths import is_finite, widen_bf16
from .token_rows import MatchedRows

STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
"""What the bytes of each type are read as. bfloat16 has no numpy type; its bits are."""


class ShardFiles:
    """Open files of any number of checkpoints; each is opened at its first read. Threads may share it."""

    def __init__(self) -> None:
        """Hold nothing open yet."""
        self._open: dict[Path, int] = {}

    def fill(self, spec: TensorSpec, start: int, buffer: NDArray[Any]) -> None:
        """Read ``buffer.size`` elements of a tensor from flat place ``start`` into a contiguous array of its type.

        Raises:
            CorruptShard: The file has become shorter than its header says, or cannot be read.
        """
        offset = spec.begin + start * spec.item_bytes
        view = memoryview(buffer.data).cast("B")
        try:
            handle = self._handle(spec.shard)
            while view:
                count = os.preadv(handle, [view], offset)
                if count == 0:
                    raise CorruptShard(
                        f"{spec.shard}: ends at byte {offset}, in {spec.name}; its header says that the tensor reaches "
                        f"byte {spec.end}. It was truncated during the merge; fetch it again"
                    )
                view, offset = view[count:], offset + count
        except OSError as error:
            raise CorruptShard(
                f"{spec.shard}: {spec.name} cannot be read at byte {offset}: {error.strerror or error}"
            ) from error

    def _handle(self, path: Path) -> int:
        handle = self._open.get(path)
        if handle is None:
            handle = self._open.setdefault(path, mine := os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            if handle != mine:
                os.close(mine)
            elif hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return handle

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all files."""
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()


class BlockReader:
    """One thread's buffers: raw bytes of a block in every source, and the same as float32."""

    def __init__(self, files: ShardFiles, sources: int, elements: int) -> None:
        """Make room for blocks of this size; a bigger one makes more."""
        self._files = files
        self._sources = sources
        self._grow(elements)

    def _grow(self, elements: int) -> None:
        self._raw = np.empty(self._sources * elements, np.uint16)
        self._wide = np.empty(self._sources * elements, np.float32)

    def _room(self, sources: int, length: int) -> None:
        if len(self._wide) < sources * length:
            self._sources = max(self._sources, sources)
            self._grow(length)

    def bf16(self, specs: Iterable[TensorSpec], start: int, stop: int) -> NDArray[np.uint16]:
        """The bits of elements [start, stop), uint16 [sources, stop - start]; all specs are BF16."""
        length, specs = stop - start, list(specs)
        self._room(len(specs), length)
        raw = self._raw[: len(specs) * length].reshape(len(specs), length)
        for row, spec in zip(raw, specs, strict=True):
            self._files.fill(spec, start, row)
        return raw

    def floats(self, specs: Iterable[TensorSpec | MatchedRows], start: int, stop: int) -> NDArray[np.float32]:
        """Elements [start, stop) as float32 [sources, stop - start].

        Float64 is rounded to float32; the others are exact.

        Raises:
            CheckpointError: NaN or Inf in an input, with file, tensor and place.
        """
        length, specs = stop - start, list(specs)
        self._room(len(specs), length)
        wide = self._wide[: len(specs) * length].reshape(len(specs), length)
        for row, spec in zip(wide, specs, strict=True):
            if isinstance(spec, MatchedRows):
                for own, place, first, last in spec.pieces(start, stop):
                    self._widen(own, place, row[first:last])
            else:
                self._widen(spec, start, row)
        return wide

    def _widen(self, spec: TensorSpec, start: int, out: NDArray[np.float32]) -> None:
        """Elements of one tensor from ``start``, as many as fit into float32 [n]."""
        if spec.dtype == "BF16":
            raw = self._raw[: len(out)]
            self._files.fill(spec, start, raw)
            finite = widen_bf16(raw, out)
        elif spec.dtype == "F32":
            self._files.fill(spec, start, out)
            finite = is_finite(out)
        else:
            other = np.empty(len(out), STORED[spec.dtype])
            self._files.fill(spec, start, other)
            with np.errstate(over="ignore"):
                out[:] = other
            finite = is_finite(out)
        if not finite:
            raise not_finite(spec, out, start)


def not_finite(spec: TensorSpec, values: NDArray[np.float32], start: int) -> CheckpointError:
    """What to say about an input with NaN or Inf."""
    places = np.flatnonzero(~np.isfinite(values))
    beyond = ", or numbers beyond float32," if spec.dtype == "F64" else ""
    return CheckpointError(
        f"{spec.shard}: {spec.name} has {values[places[0]]} at element {start + int(places[0])} ({len(places)} such"
        f"{beyond} in the block from element {start}); expected finite numbers. Fetch the file again, or "
        "leave this model out"
    )
