"""``weights.lbd``: what a packed checkpoint has in the place of its safetensors files.

    16 bytes     ``EMPELT-DELTA-1`` and two zeros
    frames       zstandard, one for each block of a tensor, in the order of files, tensors and elements
    head         JSON, zstandard: the parent's digest; of every original file its size and sha256, of weights also
                 everything before their data; of every tensor its codec and, of each frame, its end, size and CRC-32
    56 bytes     size of the head (8, little endian), its sha256 (32), and the first 16 once more

The head stands at the end, since it is known only then. A frame's CRC-32 is that of the numbers that come out of it: so
a damaged frame is noticed as well as a parent that is not the one.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from ..errors import CorruptShard
from .codec import Codec

PACK = "weights.lbd"
PARENT = "weights.parent"
"""One line beside it: where the parent's folder is, from here."""
MAGIC = b"EMPELT-DELTA-1\0\0"
_TAIL = struct.Struct("<Q32s16s")
_MOST_HEAD_BYTES = 1 << 30
"""Unpacked. A frame takes about 30 bytes of it, and stands for a megabyte."""


class Frame(NamedTuple):
    """One block of a tensor."""

    first: int
    """Its first element."""
    stop: int
    begin: int
    """First byte in the file."""
    end: int
    crc: int
    """CRC-32 of the numbers that come out."""


class PackedTensor(NamedTuple):
    """How one tensor is kept."""

    codec: Codec
    """Of the elements that the parent has too."""
    common: int
    """So many elements, from the first on, are told from the parent's; the others as they are."""
    frames: tuple[Frame, ...]


class PackedFile(NamedTuple):
    """One file of the original folder."""

    name: str
    size: int
    sha256: str
    header: bytes
    """What a safetensors file has before its data; empty of a file that lies beside the pack as it was."""


class Head(NamedTuple):
    """What a pack says of itself."""

    parent: str
    """Digest of the parent, by whoever keeps it; nothing here knows how it is made."""
    files: tuple[PackedFile, ...]
    """By name; weights and all others."""
    tensors: Mapping[str, PackedTensor]


def write_head(head: Head) -> bytes:
    """The end of the file, head and tail."""
    body = {
        "parent": head.parent,
        "files": [[f.name, f.size, f.sha256, base64.b64encode(f.header).decode()] for f in head.files],
        "tensors": {
            name: [t.codec, t.common, [[f.stop, f.end - f.begin, f.crc] for f in t.frames]]
            for name, t in head.tensors.items()
        },
    }
    packed = zstandard.ZstdCompressor(level=3).compress(json.dumps(body).encode())
    return packed + _TAIL.pack(len(packed), hashlib.sha256(packed).digest(), MAGIC)


def read_head(path: Path) -> Head:
    """What a pack says of itself.

    Raises:
        CorruptShard: It was cut, its head is damaged, or the frames are not where it says.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < len(MAGIC) + _TAIL.size:
                raise CorruptShard(f"{path}: {size} bytes, expected at least {len(MAGIC) + _TAIL.size}; it was cut")
            file.seek(0)
            begins = file.read(len(MAGIC))
            file.seek(size - _TAIL.size)
            length, digest, ends = _TAIL.unpack(file.read(_TAIL.size))
            if begins != MAGIC or ends != MAGIC or length > size - len(MAGIC) - _TAIL.size:
                raise CorruptShard(
                    f"{path}: cut, or no pack: it begins {begins!r} and ends {ends!r}, expected {MAGIC!r}"
                )
            place = size - _TAIL.size - length
            file.seek(place)
            packed = file.read(length)
    except OSError as error:
        raise CorruptShard(f"{path}: cannot be read: {error.strerror or error}") from error
    if (found := hashlib.sha256(packed).digest()) != digest:
        raise CorruptShard(
            f"{path}: its head is damaged: sha256 {found.hex()}, expected {digest.hex()}; fetch it again"
        )
    try:
        return _parsed(path, _expanded(packed), place)
    except (KeyError, TypeError, ValueError, zstandard.ZstdError) as error:
        raise CorruptShard(f"{path}: its head is not one that this version reads ({error})") from error


def _expanded(packed: bytes) -> Any:
    if not 0 <= zstandard.frame_content_size(packed) <= _MOST_HEAD_BYTES:
        raise ValueError(f"more than {_MOST_HEAD_BYTES} bytes")
    return json.loads(zstandard.ZstdDecompressor().decompress(packed))


def _parsed(path: Path, body: Any, end: int) -> Head:
    files = tuple(
        PackedFile(str(name), int(size), str(sha256), base64.b64decode(header))
        for name, size, sha256, header in body["files"]
    )
    at, tensors = len(MAGIC), {}
    for name, (codec, common, listed) in body["tensors"].items():
        if codec not in ("ulp", "xor"):
            raise ValueError(f"{name} has the codec {codec!r}")
        frames = _frames(at, listed)
        at = frames[-1].end if frames else at
        tensors[str(name)] = PackedTensor(codec, int(common), frames)
    if at != end:
        raise CorruptShard(f"{path}: its frames end at byte {at} and its head begins at byte {end}; fetch it again")
    return Head(str(body["parent"]), files, tensors)


def _frames(at: int, listed: Sequence[Sequence[int]]) -> tuple[Frame, ...]:
    frames: list[Frame] = []
    first = 0
    for stop, size, crc in listed:
        if not (first < stop and size > 0):
            raise ValueError(f"a frame of {size} bytes for elements {first} to {stop}")
        frames.append(Frame(first, int(stop), at, at + int(size), int(crc)))
        first, at = int(stop), at + int(size)
    return tuple(frames)
