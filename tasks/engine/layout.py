"""Where every output byte goes, decided before the first is written.

The order is the tensors' names with numbers read as numbers (layer 2 before layer 10): it depends on the tensors
alone, so inputs that are sharded differently give the same files. The headers are known before the data, and every
file is written from front to back.
"""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .header import ITEM_BYTES

_ALIGNMENT = 8
"""safetensors pads its header with spaces so that the data begins at a multiple of 8."""


class Placed(NamedTuple):
    """One output tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors spells it: ``BF16``."""
    size_bytes: int


class ShardLayout(NamedTuple):
    """One output file: its header, then its tensors in order."""

    file: str
    header: bytes
    """With the 8 bytes of length and the padding."""
    tensors: tuple[str, ...]
    size_bytes: int
    """Of the whole file."""


class Layout(NamedTuple):
    """All weight files, and the index when there is more than one."""

    shards: tuple[ShardLayout, ...]
    index_json: bytes | None
    """``model.safetensors.index.json``; None for one file."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all these files."""
        return sum(shard.size_bytes for shard in self.shards) + len(self.index_json or b"")


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def lay_out(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str], max_shard_bytes: int) -> Layout:
    """Put tensors into files.

    Args:
        shapes: By name.
        dtypes: By name, as safetensors spells them: ``BF16``.
        max_shard_bytes: Data bytes after which a new file begins. A bigger tensor has a file of its own.
    """
    groups: list[list[Placed]] = [[]]
    filled = 0
    for name in sorted(shapes, key=lambda name: (natural_order(name), name)):
        size = math.prod(shapes[name]) * ITEM_BYTES[dtypes[name]]
        if groups[-1] and filled + size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(Placed(name, shapes[name], dtypes[name], size))
        filled += size
    shards = tuple(shard_layout(_file_name(number, len(groups)), group) for number, group in enumerate(groups, start=1))
    if len(shards) == 1:
        return Layout(shards, None)
    weight_map = {name: shard.file for shard in shards for name in shard.tensors}
    total = sum(placed.size_bytes for group in groups for placed in group)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return Layout(shards, (json.dumps(index, indent=2) + "\n").encode())


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def shard_layout(file: str, group: Sequence[Placed]) -> ShardLayout:
    """One file: its header, and these tensors in their order."""
    # transformers refuses a file without format "pt".
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for placed in group:
        begin, end = end, end + placed.size_bytes
        entries[placed.name] = {"dtype": placed.dtype, "shape": list(placed.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    return ShardLayout(file, header, tuple(placed.name for placed in group), len(header) + end)
