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
from .kernels.widths import is_finite, is_finite_bf16, widen_bf16
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
        if spec.source is not None:
            spec.source.fill(self, spec, start, buffer)
            return
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

    def bytes_of(self, spec: TensorSpec, start: int, stop: int) -> bytes:
        """Elements [start, stop) as they are stored; raises as `fill`."""
        raw = np.empty((stop - start) * spec.item_bytes, np.uint8)
        self.fill(spec, start, raw)
        return raw.tobytes()

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
        self._raw = np.empty(sources * elements, np.uint16)
        self._wide = np.empty(0, np.float32)

    def _room(self, sources: int, length: int) -> None:
        if len(self._raw) < sources * length:
            self._raw = np.empty(sources * length, np.uint16)

    def block(self, specs: Iterable[TensorSpec | MatchedRows], start: int, stop: int, *, check: bool) -> NDArray[Any]:
        """Elements [start, stop) of every tensor, [sources, stop - start]: as they are where all are bfloat16 (uint16).

        Raises:
            CheckpointError: NaN or Inf in an input, with file, tensor and place. Without `check`, only where the block
                had to be widened.
        """
        specs = list(specs)
        plain = [spec for spec in specs if isinstance(spec, TensorSpec) and spec.dtype == "BF16"]
        if len(plain) < len(specs):
            return self.floats(specs, start, stop)
        length = stop - start
        self._room(len(plain), length)
        raw = self._raw[: len(plain) * length].reshape(len(plain), length)
        for row, spec in zip(raw, plain, strict=True):
            self._files.fill(spec, start, row)
            if check and not is_finite_bf16(row):
                wide = np.empty(length, np.float32)
                widen_bf16(row, wide)
                raise not_finite(spec, wide, start)
        return raw

    def floats(self, specs: Iterable[TensorSpec | MatchedRows], start: int, stop: int) -> NDArray[np.float32]:
        """Elements [start, stop) as float32 [sources, stop - start].

        Float64 is rounded to float32; the others are exact.

        Raises:
            CheckpointError: NaN or Inf in an input, with file, tensor and place.
        """
        length, specs = stop - start, list(specs)
        self._room(1, length)
        if len(self._wide) < len(specs) * length:
            self._wide = np.empty(len(specs) * length, np.float32)
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
