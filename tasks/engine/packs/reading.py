"""Tensors whose elements come from a parent and from frames: what `Checkpoint.open` gives for a packed folder.

A frame is expanded whole, and the last one of each thread is kept: blocks of a merge are cut as frames are, so each is
expanded once. Memory is a frame for each thread and packed model, at most 4 MB.
"""

import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from ..errors import CheckpointError, CorruptShard, MergeError, refuse_all
from ..header import TensorSpec, parse_header
from .codec import join
from .form import PACK, PARENT, Frame, Head, PackedTensor, read_head

if TYPE_CHECKING:
    from ..reading import ShardFiles

BITS: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""What numbers of so many bytes are read as here: their bits."""


def is_packed(folder: Path) -> bool:
    """Whether a checkpoint's weights are a pack."""
    return (folder / PACK).is_file()


def parent_of(folder: Path) -> Path:
    """Where the parent of a packed checkpoint lies.

    Raises:
        CheckpointError: Nothing there says so.
    """
    try:
        return folder / (folder / PARENT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder / PARENT}: cannot be read ({error}); expected the parent's folder, from {folder}, on one line"
        ) from error


def packed_tensors(folder: Path, tensors_of: Callable[[Path], Mapping[str, TensorSpec]]) -> dict[str, TensorSpec]:
    """The tensors of a packed checkpoint, in the order of the original files.

    Args:
        folder: With ``weights.lbd`` and ``weights.parent``.
        tensors_of: Opens the parent's folder.

    Raises:
        CorruptShard: The pack is damaged.
        CheckpointError: The parent cannot be opened, is packed itself, or is not the one.
    """
    where = parent_of(folder)
    if is_packed(where):
        raise CheckpointError(f"{folder / PACK}: its parent {where} is packed as well; unpack that one")
    return specs_of(folder / PACK, read_head(folder / PACK), tensors_of(where), where)


def specs_of(
    path: Path, head: Head, parents: Mapping[str, TensorSpec], where: Path = Path("its parent")
) -> dict[str, TensorSpec]:
    """The tensors of a pack with this head, over these of its parent."""
    found: dict[str, TensorSpec] = {}
    problems: list[MergeError] = []
    for file in head.files:
        for spec in parse_header(path, file.header[8:], file.size) if file.header else []:
            kept = head.tensors.get(spec.name)
            problem = _problem(spec, kept, parents.get(spec.name))
            if kept is None or problem:
                told = problem or "it has no frames"
                problems.append(CorruptShard(f"{path}: {spec.name} of {file.name}: {told} ({where})"))
            else:
                found[spec.name] = spec._replace(source=_Expansion(path, kept, parents.get(spec.name)))
    refuse_all(problems)
    return found


def _problem(spec: TensorSpec, kept: PackedTensor | None, parent: TensorSpec | None) -> str:
    if kept is None:
        return "the head has no frames of it"
    reached = kept.frames[-1].stop if kept.frames else 0
    if reached != spec.elements or not 0 <= kept.common <= reached:
        return f"its frames hold {reached} elements, {kept.common} of them as differences; expected {spec.elements}"
    if kept.common and parent is None:
        return "the parent has no such tensor; it is not the one that this was packed against"
    if kept.common and parent is not None and (parent.dtype != spec.dtype or parent.elements < kept.common):
        return (
            f"the parent has {parent.dtype} {parent.shape}, expected {spec.dtype} with {kept.common} elements or more"
        )
    return ""


class _Expansion:
    """Where the elements of one tensor come from. Threads may share it."""

    def __init__(self, path: Path, kept: PackedTensor, parent: TensorSpec | None) -> None:
        self._path, self._kept, self._parent = path, kept, parent
        self._stops = np.array([frame.stop for frame in kept.frames], np.int64)

    def fill(self, files: "ShardFiles", spec: TensorSpec, start: int, buffer: NDArray[Any]) -> None:
        """Elements from flat place ``start``, as many as there is room for."""
        bits = buffer.view(BITS[spec.item_bytes])
        stop = start + len(bits)
        number = int(np.searchsorted(self._stops, start, side="right"))
        while start < stop:
            frame = self._kept.frames[number]
            last = min(stop, frame.stop)
            out = bits[start - stop + len(bits) : last - stop + len(bits)]
            if (start, last) == (frame.first, frame.stop):
                self._expand(files, spec, number, frame, out)
            else:
                out[:] = self._whole(files, spec, number, frame)[start - frame.first : last - frame.first]
            start, number = last, number + 1

    def _whole(self, files: "ShardFiles", spec: TensorSpec, number: int, frame: Frame) -> NDArray[Any]:
        """The numbers of a frame of which only some are asked for: the last one of this thread is kept."""
        key = (self._path, frame.begin)
        if getattr(_LAST, "key", None) != key:
            _LAST.key = None
            out = np.empty(frame.stop - frame.first, BITS[spec.item_bytes])
            self._expand(files, spec, number, frame, out)
            _LAST.key, _LAST.numbers = key, out
        numbers: NDArray[Any] = _LAST.numbers
        return numbers

    def _expand(self, files: "ShardFiles", spec: TensorSpec, number: int, frame: Frame, out: NDArray[Any]) -> None:
        count = frame.stop - frame.first
        packed = np.empty(frame.end - frame.begin, np.uint8)
        files.fill(TensorSpec(spec.name, "U8", packed.shape, self._path, frame.begin, frame.end), 0, packed)
        where = f"{self._path}: {spec.name}: frame {number}, elements {frame.first} to {frame.stop}"
        planes = np.frombuffer(decompressed(packed.data, count * spec.item_bytes, where), np.uint8)
        parent_shard: Path | None = None
        if frame.first < self._kept.common:
            assert self._parent is not None, "checked when it was opened"
            parent_shard = self._parent.shard
            parent = np.empty(count, out.dtype)
            files.fill(self._parent, frame.first, parent)
            join(self._kept.codec, planes, parent, out)
        else:
            join("planes", planes, None, out)
        if (found := zlib.crc32(out.data)) != frame.crc:
            beside = f", or its parent {parent_shard} is not as it was" if parent_shard else ""
            raise CorruptShard(
                f"{where}: is damaged{beside}: CRC-32 {found:08x} comes out of it, expected {frame.crc:08x}"
            )


_LAST = threading.local()


def decompressed(packed: memoryview, size: int, where: str) -> bytes:
    """One frame of zstandard, which must hold so many bytes: nothing is made room for before that is known.

    Raises:
        CorruptShard: It is damaged, or holds more or less.
    """
    try:
        told = zstandard.frame_content_size(packed)
        if told != size:
            raise CorruptShard(f"{where}: is damaged: it holds {told} bytes, expected {size}")
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except zstandard.ZstdError as error:
        raise CorruptShard(f"{where}: is damaged: {error}; unpack another copy, or fetch the model again") from error
