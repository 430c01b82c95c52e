"""Read the header of one safetensors file, and believe nothing in it.

Layout (huggingface/safetensors, README "Format"): 8 bytes N, little endian; N bytes of JSON; then the data. The JSON
maps a tensor name to dtype, shape and data_offsets [begin, end) counted from the end of the header. We parse it
ourselves because the library stops at its first complaint and names neither file nor tensor, and because a truncated
shard has to be noticed before a single byte is merged.
"""

import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .errors import CorruptShard, MergeError, refuse_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .reading import ShardFiles

MAX_HEADER_BYTES = 100_000_000
"""The library's own limit. 100,000 tensors take about 12 MB."""

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip


class ElementSource(Protocol):
    """Where the elements of a tensor come from that is kept in another form, as `packs` does. Threads may share it."""

    def fill(self, files: "ShardFiles", spec: "TensorSpec", start: int, buffer: "NDArray[Any]") -> None:
        """As `ShardFiles.fill`, which calls it; ``files`` has the open files."""


class TensorSpec(NamedTuple):
    """One named tensor: what it is and where its bytes lie."""

    name: str
    dtype: str
    """As safetensors spells it: ``BF16``."""
    shape: tuple[int, ...]
    shard: Path
    """The file."""
    begin: int
    """First byte, counted from the start of the file."""
    end: int
    """One past the last byte."""
    source: "ElementSource | None" = None
    """What its elements come from, where they do not lie in the file as they are; begin and end are then the
    original's."""

    @property
    def elements(self) -> int:
        """How many numbers it holds; a scalar holds one."""
        return math.prod(self.shape)

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return ITEM_BYTES[self.dtype]


def read_header(path: Path) -> list[TensorSpec]:
    """The tensors of one file in the order of their bytes.

    Args:
        path: A safetensors file.

    Raises:
        CorruptShard: Every contradiction found: a short file, a header that is no JSON object or over 100 MB, a name
            twice, an unknown dtype, a shape that does not give the byte count, gaps, overlaps, bytes past the end.
            Or the system does not let us read it.
    """
    try:
        raw, size = _header_bytes(path)
    except OSError as error:
        raise CorruptShard(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_header(path, raw, size)


def parse_header(path: Path, raw: bytes, size: int) -> list[TensorSpec]:
    """The same from the JSON itself.

    Args:
        path: What messages call the file.
        raw: The JSON.
        size: Of the whole file.

    Raises:
        CorruptShard: As `read_header`.
    """
    length = len(raw)
    header = _json_object(path, raw)
    header.pop("__metadata__", None)

    problems: list[MergeError] = []
    specs = []
    for name, entry in header.items():
        spec = _spec(path, name, entry, 8 + length)
        if isinstance(spec, TensorSpec):
            specs.append(spec)
        else:
            problems.append(spec)
    specs.sort(key=lambda spec: (spec.begin, spec.end))
    if not problems:  # with an entry missing, every neighbour would be reported as well
        problems = _layout_problems(path, specs, 8 + length, size)
    refuse_all(problems)
    return specs


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """The JSON, and the size of the whole file."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        prefix = file.read(8)
        if len(prefix) < 8:
            raise CorruptShard(f"{path}: {size} bytes, expected at least 8 of header length; fetch the file again")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise CorruptShard(
                f"{path}: its header claims {length} bytes, at most {MAX_HEADER_BYTES} are allowed; not a safetensors "
                "file, or a hostile one"
            )
        if 8 + length > size:
            raise CorruptShard(
                f"{path}: truncated inside its header: {size} bytes, expected at least {8 + length}; fetch it again"
            )
        return file.read(length), size


def _json_object(path: Path, raw: bytes) -> dict[str, Any]:
    twice: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            counts = Counter(name for name, _ in items)
            twice.extend(sorted(_shown(name) for name, count in counts.items() if count > 1))
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or a number of more than 4300 digits
        raise CorruptShard(f"{path}: its header is not JSON ({error}); fetch the file again") from error
    if not isinstance(header, dict):
        raise CorruptShard(f"{path}: its header is a JSON {type(header).__name__}, expected an object")
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise CorruptShard(f"{path}: its header names {', '.join(twice[:5])}{more} twice; expected each name once")
    return header


def _spec(path: Path, name: str, entry: Any, data_start: int) -> TensorSpec | CorruptShard:
    where = f"{path}: tensor {_shown(name)}"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return CorruptShard(f"{where}: half of a pair of surrogates is no character; expected a name in UTF-8")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return CorruptShard(f"{where}: expected dtype, shape and data_offsets, found {_short(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        return CorruptShard(f"{where}: unknown dtype {_short(dtype)}; known are {', '.join(ITEM_BYTES)}")
    if not _are_sizes(shape):
        return CorruptShard(f"{where}: shape {_short(shape)} is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return CorruptShard(f"{where}: data_offsets {_short(offsets)} are not [begin, end]")
    begin, end = offsets
    expected = _size(shape, ITEM_BYTES[dtype])
    if end - begin != expected:
        takes = "2^63 bytes or more" if expected is None else f"{expected} bytes"
        return CorruptShard(f"{where}: {dtype} {_short(tuple(shape))} takes {takes}, data_offsets give {end - begin}")
    return TensorSpec(name, dtype, tuple(shape), path, data_start + begin, data_start + end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _size(shape: list[int], item_bytes: int) -> int | None:
    """Bytes of a tensor; None from 2^63 on. (The product of a million large sizes would take minutes.)"""
    if 0 in shape:
        return 0
    size = item_bytes
    for length in shape:
        size *= length
        if size >= 2**63:
            return None
    return size


def _shown(name: str) -> str:
    """A name as a message can carry it."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= 200 else text[:197] + "..."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _layout_problems(path: Path, specs: list[TensorSpec], data_start: int, size: int) -> list[MergeError]:
    """Tensors must tile the data: no overlap, no gap, and end exactly where the file does."""
    problems: list[MergeError] = []
    reached, before = data_start, "the header"
    for spec in specs:
        if spec.begin != reached:
            what = "overlaps" if spec.begin < reached else "leaves a gap after"
            problems.append(
                CorruptShard(
                    f"{path}: tensor {_shown(spec.name)} {what} {before}: it begins at byte {spec.begin}, "
                    f"expected {reached}"
                )
            )
        reached, before = max(reached, spec.end), _shown(spec.name)
    if reached > size:
        problems.append(CorruptShard(f"{path}: truncated: {size} bytes, its header needs {reached}; fetch it again"))
    elif reached < size:
        problems.append(CorruptShard(f"{path}: {size} bytes, its header accounts for {reached}; fetch it again"))
    return problems
