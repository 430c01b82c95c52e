"""Safetensors headers, read and checked without torch.

A file is an 8-byte little-endian length, that many bytes of JSON, and the tensors' bytes. So its header tells the
file's exact size: a truncated shard is found out from its first kilobytes.
"""

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from tasks.domain.errors import ModelRefused

MAX_HEADER_BYTES = 25_000_000
"""The Hub's own cap; 97 % of the headers there are under 100 kB."""
DTYPE_BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32},
    **{"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}


@dataclass(frozen=True)
class Tensor:
    """One entry of a header."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class Header:
    """What one safetensors file holds, by name."""

    path: str
    tensors: dict[str, Tensor]
    starts: dict[str, int]
    """Where each tensor's bytes begin, counted from the first byte of the file."""


def header_length(first: bytes, where: str) -> int:
    """Bytes of JSON that follow the first eight.

    Raises:
        ModelRefused: fewer than eight bytes, or a length that no real header has.
    """
    if len(first) < 8:
        raise ModelRefused(f"{where}: {len(first)} bytes long; a safetensors file has at least 8. Fetch it again.")
    (length,) = struct.unpack("<Q", first[:8])
    if length > MAX_HEADER_BYTES:
        raise ModelRefused(f"{where}: header of {length} bytes; at most {MAX_HEADER_BYTES} are read. Not safetensors?")
    return int(length)


def parse_header(raw: bytes, file_bytes: int, path: str, where: str) -> Header:
    """Parse the JSON of a header and check that it describes a file of exactly ``file_bytes``.

    Args:
        raw: the JSON, without the eight bytes before it.
        file_bytes: size of the whole file, as its source states it.
        path: the file's path, kept in the result.
        where: names model and file in messages.

    Raises:
        ModelRefused: not JSON, double names, unknown dtypes, gaps or overlaps, or another size than stated; all listed.
    """
    try:
        entries = json.loads(raw, object_pairs_hook=_without_doubles)
        if not isinstance(entries, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{where}: header is not sound JSON: {error}") from error
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    problems: list[str] = []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        try:
            tensor = Tensor(entry["dtype"], tuple(int(n) for n in entry["shape"]))
            start, end = (int(n) for n in entry["data_offsets"])
            expected = math.prod(tensor.shape) * DTYPE_BITS[tensor.dtype] // 8
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"{name}: entry {entry!r} is not dtype, shape and data_offsets ({error!r})"[:300])
            continue
        if min(tensor.shape, default=0) < 0 or end - start != expected:
            problems.append(f"{name}: {tensor} needs {expected} bytes but data_offsets give {end - start}")
        tensors[name] = tensor
        spans.append((start, end, name))
    at = 0
    for start, end, name in sorted(spans):
        if start != at:
            problems.append(f"{name}: starts at byte {start} of the data but the tensor before it ends at {at}")
        at = max(at, end)
    stated = 8 + len(raw) + at
    if stated != file_bytes:
        kind = "truncated" if file_bytes < stated else "longer than its header says"
        problems.append(f"{kind}: {file_bytes} bytes, but its header describes {stated}")
    if problems:
        raise ModelRefused(f"{where}: not a sound safetensors file", problems=problems)
    return Header(path, tensors, {name: 8 + len(raw) + start for start, _, name in spans})


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two entries of one name would let two readers see two different models."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"double key {next(n for n in names if names.count(n) > 1)!r}")
    return found
