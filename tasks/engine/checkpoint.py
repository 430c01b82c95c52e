"""A read-only view of a checkpoint folder: names, shapes and places of its tensors.

Opening reads headers and JSON only, and checks that index, shards and headers tell one story; weights are read
elsewhere (``reading``). Pickles are never opened: unpickling runs whatever code they carry.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CheckpointError, CorruptShard, MergeError, MissingTensor, refuse_all
from .header import TensorSpec, read_header
from .packs.form import PACK
from .packs.reading import is_packed, packed_tensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_LONGEST_NAME = 255
"""Of a file, in bytes: what every Linux file system can hold."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

MERGEABLE = ("F64", "F32", "F16", "BF16")
"""The types that can be merged. The plan refuses the others by name."""


class Checkpoint:
    """One model's folder; `Checkpoint.open` looks at it. Nothing stays open."""

    def __init__(self, path: Path, config: dict[str, Any], tensors: Mapping[str, TensorSpec]) -> None:
        """Keep what `open` has checked."""
        self.path = path
        self.config = config
        """``config.json``, parsed."""
        self.tensors = tensors
        """By name, in the order of shards and of bytes within them."""

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Check a folder and its headers.

        Args:
            path: A folder with ``config.json`` and ``model.safetensors``, or shards with their index, or a pack.

        Raises:
            CheckpointError: No such folder, no config, only pickles, or both layouts at once.
            CorruptShard: An index or a header that contradicts itself, a truncated shard, a path out of the folder.
            MissingTensor: A tensor that the index lists and its shard lacks, or the other way round.
        """
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such folder; expected a checkpoint with config.json and safetensors")
        config = read_json(path / "config.json")
        if is_packed(path):
            raw = sorted(file.name for file in path.glob("*.safetensors"))
            if raw:
                raise CheckpointError(
                    f"{path}: has both {PACK} and {', '.join(raw)}; which is the model? Remove the other"
                )
            tensors = packed_tensors(path, lambda parent: cls.open(parent).tensors)
        elif (path / INDEX).is_file():
            tensors = _sharded(path)
        elif (path / SINGLE).is_file():
            tensors = {spec.name: spec for spec in read_header(path / SINGLE)}
        else:
            pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
            raise CheckpointError(
                f"{path}: has only pickled weights ({', '.join(pickles)}), which run code when they are opened; "
                "convert them to safetensors first"
                if pickles
                else f"{path}: has neither {SINGLE} nor {INDEX}; fetch the weights again"
            )
        if not tensors:
            raise MissingTensor(f"{path}: holds no tensor at all; expected a model's weights")
        return cls(path, config, tensors)

    @property
    def names(self) -> list[str]:
        """Tensor names, sorted."""
        return sorted(self.tensors)


def read_small(path: Path) -> bytes:
    """A file beside the weights, whole.

    Raises:
        CheckpointError: It is missing, or the system does not let us read it.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; fetch the checkpoint again") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_text(path: Path) -> str:
    """A text in UTF-8.

    Raises:
        CheckpointError: It is missing, cannot be read, or is no UTF-8.
    """
    try:
        return read_small(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 ({error}); fetch the checkpoint again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        CheckpointError: The file is missing, cannot be read, or holds something else.
    """
    try:
        content = json.loads(read_small(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or a number of more than 4300 digits
        raise CheckpointError(f"{path}: not JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: a JSON {type(content).__name__}, expected an object")
    return content


def _sharded(path: Path) -> dict[str, TensorSpec]:
    """Follow the index, and hold it against every header."""
    if (path / SINGLE).is_file():
        raise CheckpointError(f"{path}: has both {SINGLE} and {INDEX}; which one is the model? Remove the other")
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptShard(f"{path / INDEX}: weight_map is {type(weight_map).__name__}, expected name -> shard")
    problems: list[MergeError] = []
    found: dict[str, TensorSpec] = {}
    of_shard: dict[str, set[str]] = {}
    for name, where in weight_map.items():
        of_shard.setdefault(str(where), set()).add(name)
    for shard, listed in sorted(of_shard.items()):
        problem = _unsafe(shard)
        if problem is not None:
            example = min(listed)
            problems.append(CorruptShard(f"{path / INDEX}: {example} is said to lie in {shard!r}, {problem}"))
        elif not (path / shard).is_file():
            problems.append(
                CorruptShard(f"{path / shard}: missing; {INDEX} puts {len(listed)} tensors there. Fetch it again")
            )
        else:
            problems += _fill(found, path / shard, listed)
    refuse_all(problems)
    return found


def _unsafe(shard: str) -> str | None:
    """Why a shard's name is not one, or None. An index comes from the network and may not lead out of its folder."""
    if Path(shard).name != shard or "\\" in shard or shard in {".", ".."}:
        return "expected a plain file name in the same folder"
    if shard.endswith(_PICKLES):
        return "a pickle, which runs code when it is opened; expected .safetensors"
    if not shard.endswith(".safetensors"):
        return "expected a .safetensors file"
    if len(shard.encode(errors="surrogatepass")) > _LONGEST_NAME:
        return f"expected a file name of at most {_LONGEST_NAME} bytes"
    return None


def _fill(found: dict[str, TensorSpec], shard: Path, listed: set[str]) -> list[MergeError]:
    """Add one shard's tensors; say where it and the index disagree."""
    try:
        specs = read_header(shard)
    except CorruptShard as error:
        return list(error.problems)
    problems: list[MergeError] = []
    held = {spec.name for spec in specs}
    for name in sorted(listed - held):
        problems.append(MissingTensor(f"{shard}: lacks {name}, which {INDEX} puts there; fetch the shard again"))
    for name in sorted(held - listed):
        problems.append(MissingTensor(f"{shard}: holds {name}, which {INDEX} does not put there; which one is right?"))
    found.update({spec.name: spec for spec in specs if spec.name in listed})
    return problems
