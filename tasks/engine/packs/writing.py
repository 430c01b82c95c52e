"""Pack a checkpoint against its parent, and give it back. A pack is kept only if every byte comes out of it again."""

import hashlib
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import zstandard
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, CorruptShard, DiskFull, MergeError, WriteError, refuse_all
from ..header import TensorSpec, parse_header
from ..reading import ShardFiles
from ..schedule import ranges
from .codec import codec_of, split
from .form import MAGIC, PACK, PARENT, Frame, Head, PackedFile, PackedTensor, read_head, write_head
from .reading import BITS, is_packed, specs_of

LEVEL = 1
"""Of zstandard. Level 3 takes twice as long for 0 to 1 % less: there is hardly anything but frequencies to be found."""
OnBytes = Callable[[int, int], None]
"""Told of bytes done and of all bytes, from the calling thread."""
_One = TypeVar("_One")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class PackReport:
    """What packing did."""

    raw_bytes: int
    """Of the original weight files."""
    packed_bytes: int
    """Of ``weights.lbd``, which holds the same."""
    seconds: float
    """Of packing, without the proof."""
    proof_seconds: float
    """Of expanding all of it again."""

    @property
    def ratio(self) -> float:
        """Packed bytes for each original one."""
        return self.packed_bytes / self.raw_bytes


class _Piece(NamedTuple):
    """One block to be packed."""

    spec: TensorSpec
    parent: TensorSpec | None
    """None for elements that it does not have."""
    first: int
    stop: int


def pack(
    folder: Path, parent: Path, out: Path, *, digest: str, on_bytes: OnBytes | None = None, threads: int = 1
) -> PackReport:
    """Write ``out``: the pack of a checkpoint's weights, and its other files as they are.

    Args:
        folder: The checkpoint.
        parent: What it was trained from; it stays needed.
        out: The folder to be; it must not exist.
        digest: Of the parent, put down in the pack.
        on_bytes: Told of progress; each byte counts twice, once for the proof.
        threads: That compress.

    Raises:
        CheckpointError: One of the two cannot be read, is packed, or what comes out is not what went in.
        WriteError: ``out`` exists or cannot be written; `DiskFull` when there is no room. Nothing is left of it then.
    """
    refuse_all([CheckpointError(f"{one}: is packed already; unpack it") for one in (folder, parent) if is_packed(one)])
    child, origin = Checkpoint.open(folder), Checkpoint.open(parent)
    try:
        out.mkdir()
    except OSError as error:
        raise WriteError(f"{out}: cannot be made: {error.strerror}; name a folder that does not exist yet") from error
    try:
        return _pack_into(out, child, origin, digest, on_bytes or (lambda done, total: None), threads)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def unpack(folder: Path, out: Path, *, on_bytes: OnBytes | None = None, threads: int = 1) -> int:
    """Write ``out``: the checkpoint as it was before it was packed, every file proven by its sha256; bytes of weights.

    Raises:
        CheckpointError: The folder is no pack, or it or its parent is damaged.
        WriteError: ``out`` exists or cannot be written. Nothing is left of it then.
    """
    if not is_packed(folder):
        raise CheckpointError(f"{folder}: has no {PACK}; there is nothing to unpack")
    head, specs = read_head(folder / PACK), Checkpoint.open(folder).tensors
    try:
        out.mkdir()
    except OSError as error:
        raise WriteError(f"{out}: cannot be made: {error.strerror}; name a folder that does not exist yet") from error
    try:
        with _ToldOfRoom(out):
            _copy_beside(folder, out, head)
            return _expand(head, specs, on_bytes or (lambda done, total: None), threads, out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


class _ToldOfRoom:
    """A full disk as `DiskFull`, any other refusal of the system as `WriteError`."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            full = error.errno in (28, 122)  # ENOSPC, EDQUOT
            raise (DiskFull if full else WriteError)(f"{self._out}: cannot be written: {error.strerror}") from error


def _pack_into(
    out: Path, child: Checkpoint, origin: Checkpoint, digest: str, on_bytes: OnBytes, threads: int
) -> PackReport:
    began = time.monotonic()
    shards = sorted({spec.shard for spec in child.tensors.values()})
    raw_bytes = sum(shard.stat().st_size for shard in shards)
    with _ToldOfRoom(out):
        files = _originals(child, shards, out)
        frames: dict[str, list[Frame]] = {name: [] for name in child.tensors}
        with (out / PACK).open("xb") as file, ShardFiles() as opened:
            file.write(MAGIC)
            at, done = len(MAGIC), 0
            for piece, packed, crc in _in_order(_pieces(child, origin), _packer(opened), threads):
                file.write(packed)
                frames[piece.spec.name].append(Frame(piece.first, piece.stop, at, at + len(packed), crc))
                at, done = at + len(packed), done + (piece.stop - piece.first) * piece.spec.item_bytes
                on_bytes(done, 2 * raw_bytes)
            head = Head(digest, files, _kept(child, origin, frames))
            file.write(write_head(head))
            file.flush()
            os.fsync(file.fileno())
        (out / PARENT).write_text(os.path.relpath(origin.path.absolute(), out.absolute()) + "\n", encoding="utf-8")
        packed_at = time.monotonic()
        again = read_head(out / PACK)  # from the disk, as any later reader will
        specs = specs_of(out / PACK, again, origin.tensors)
        _expand(again, specs, lambda proven, _: on_bytes(raw_bytes + proven, 2 * raw_bytes), threads)
        refuse_all(_bad_copies(again, out))
    return PackReport(raw_bytes, (out / PACK).stat().st_size, packed_at - began, time.monotonic() - packed_at)


def _bad_copies(head: Head, out: Path) -> list[MergeError]:
    """Files beside the weights whose copy is not what was copied, the originals being about to go."""
    return [
        CorruptShard(f"{out / file.name}: the copy has another sha256 than its original; nothing is packed")
        for file in head.files
        if not file.header and hashlib.sha256((out / file.name).read_bytes()).hexdigest() != file.sha256
    ]


def _originals(child: Checkpoint, shards: list[Path], out: Path) -> tuple[PackedFile, ...]:
    """Every file of the folder; all but the weights are copied."""
    found = []
    for path in sorted(path for path in child.path.rglob("*") if path.is_file()):
        header, name = b"", path.relative_to(child.path).as_posix()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if path in shards:
                file.seek(0)
                header = file.read(min(spec.begin for spec in child.tensors.values() if spec.shard == path))
        if not header:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)
        found.append(PackedFile(name, path.stat().st_size, digest, header))
    return tuple(found)


def _common(spec: TensorSpec, parent: TensorSpec | None) -> int:
    """So many elements, from the first on, mean the same in both: rows that a larger vocabulary has more are others."""
    if parent is None or parent.dtype != spec.dtype or not spec.shape or parent.shape[1:] != spec.shape[1:]:
        return spec.elements if parent is not None and (parent.dtype, parent.shape) == (spec.dtype, spec.shape) else 0
    return min(spec.elements, parent.elements) if parent.shape else 0


def _kept(child: Checkpoint, origin: Checkpoint, frames: Mapping[str, list[Frame]]) -> dict[str, PackedTensor]:
    return {
        name: PackedTensor(codec_of(spec.dtype), _common(spec, origin.tensors.get(name)), tuple(frames[name]))
        for name, spec in child.tensors.items()
    }


def _pieces(child: Checkpoint, origin: Checkpoint) -> Iterator[_Piece]:
    """Every block, cut as a merge cuts them, and where the parent ends."""
    for name, spec in child.tensors.items():
        parent = origin.tensors.get(name)
        common = _common(spec, parent)
        width = spec.elements // spec.shape[0] if len(spec.shape) > 1 and spec.shape[0] else 0
        for first, stop in ranges(spec.elements, width, by_row=False):
            cut = min(max(first, common), stop)
            if first < cut:
                yield _Piece(spec, parent, first, cut)
            if cut < stop:
                yield _Piece(spec, None, cut, stop)


def _packer(opened: ShardFiles) -> Callable[[_Piece], tuple[_Piece, bytes, int]]:
    def packed(piece: _Piece) -> tuple[_Piece, bytes, int]:
        ours = _bits(opened, piece.spec, piece.first, piece.stop)
        parent = None if piece.parent is None else _bits(opened, piece.parent, piece.first, piece.stop)
        planes = split("planes" if parent is None else codec_of(piece.spec.dtype), ours, parent)
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        return piece, compressor.compress(planes.data), zlib.crc32(ours.data)

    return packed


def _bits(opened: ShardFiles, spec: TensorSpec, first: int, stop: int) -> NDArray[Any]:
    found: NDArray[Any] = np.empty(stop - first, BITS[spec.item_bytes])
    opened.fill(spec, first, found)
    return found


def _expand(
    head: Head, specs: Mapping[str, TensorSpec], on_bytes: OnBytes, threads: int, out: Path | None = None
) -> int:
    """Expand every weight file, into ``out`` if it is given, and hold each against its sha256; bytes of all."""
    done, total = 0, sum(file.size for file in head.files if file.header)
    problems = []
    with ShardFiles() as opened:
        for file in (file for file in head.files if file.header):
            order = [spec.name for spec in parse_header(Path(file.name), file.header[8:], file.size)]
            pieces = ((specs[name], frame) for name in order for frame in head.tensors[name].frames)
            digest = hashlib.sha256(file.header)
            written = None if out is None else (out / file.name).open("xb")
            try:
                if written is not None:
                    written.write(file.header)
                for block in _in_order(pieces, lambda p: _bits(opened, p[0], p[1].first, p[1].stop), threads):
                    digest.update(block.data)
                    if written is not None:
                        written.write(block.data)
                    done += block.nbytes
                    on_bytes(done, total)
            finally:
                if written is not None:
                    written.close()
            if digest.hexdigest() != file.sha256:
                told = f"{file.name}: sha256 {digest.hexdigest()} comes out, expected {file.sha256}; it is not used"
                problems.append(CorruptShard(told))
    refuse_all(problems)
    return total


def _copy_beside(folder: Path, out: Path, head: Head) -> None:
    """The files that are no weights, each held against its sha256."""
    problems = []
    for file in (file for file in head.files if not file.header):
        try:
            content = (folder / file.name).read_bytes()
        except OSError as error:
            problems.append(CorruptShard(f"{folder / file.name}: cannot be read: {error.strerror}"))
            continue
        if (found := hashlib.sha256(content).hexdigest()) != file.sha256:
            problems.append(CorruptShard(f"{folder / file.name}: sha256 {found}, expected {file.sha256}"))
            continue
        (out / file.name).parent.mkdir(parents=True, exist_ok=True)
        (out / file.name).write_bytes(content)
    refuse_all(problems)


def _in_order(items: Iterable[_One], work: Callable[[_One], _Made], threads: int) -> Iterator[_Made]:
    """What ``work`` makes of each, in order, by so many threads; no more than two for each thread wait in memory."""
    waiting: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
