"""``python -m tasks.engine.norms FOLDER...``: the Euclidean norm of every tensor of checkpoints, every element read.

Of an adapter it is the norm of what it adds to each weight, by the weight's name.

Prints one JSON object per line: ``progress`` now and then, then ``result`` with ``norms``: folder to tensor to norm,
which is NaN or Infinity if an element is, or overflows. Exit code 2: a folder cannot be read; an ``error`` says why.
"""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .adapter_files import CONFIG, WEIGHTS
from .checkpoint import Checkpoint, read_json
from .errors import CheckpointError, MergeError
from .header import TensorSpec, read_header
from .reading import ShardFiles
from .sampling import as_floats, is_number_type

BLOCK = 1 << 20
"""Elements read at once."""
_SECONDS_BETWEEN = 5.0
_PREFIX = "base_model.model."


def _emit(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def norms(folder: Path) -> dict[str, float]:
    """Tensor name to norm.

    Raises:
        MergeError: if it is no checkpoint, is truncated, or holds a type that has no values here (integers, FP8).
    """
    if (folder / CONFIG).is_file():
        return changes(folder)
    checkpoint, found, told = Checkpoint.open(folder), {}, time.monotonic()
    opaque = {name: spec.dtype for name, spec in checkpoint.tensors.items() if not is_number_type(spec.dtype)}
    if opaque:
        raise CheckpointError(f"{folder}: {len(opaque)} tensors are of types without values here: {opaque}")
    with ShardFiles() as files:
        for name, spec in checkpoint.tensors.items():
            squares = []
            for start in range(0, spec.elements, BLOCK):
                raw = files.bytes_of(spec, start, min(start + BLOCK, spec.elements))
                values = as_floats(raw, spec.dtype).astype(np.float64)
                with np.errstate(invalid="ignore", over="ignore"):
                    squares.append(float(np.sum(values * values)))
                if time.monotonic() - told > _SECONDS_BETWEEN:
                    told = time.monotonic()
                    _emit("progress", tensor=name)
            finite = all(map(math.isfinite, squares))
            found[name] = math.sqrt(math.fsum(squares)) if finite else float(np.sum(squares))
    return found


def changes(folder: Path) -> dict[str, float]:
    """Name of a weight to the norm of what an adapter adds to it, without the product of its factors being made.

    Raises:
        MergeError: if it is no adapter in PEFT's format for LoRA, or is truncated.
    """
    settings, specs = read_json(folder / CONFIG), {spec.name: spec for spec in read_header(folder / WEIGHTS)}
    alpha, rank = settings.get("lora_alpha"), settings.get("r")
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
        raise CheckpointError(f"{folder / CONFIG}: lora_alpha is {alpha!r}, r {rank!r}; expected two numbers")
    found, told = {}, time.monotonic()
    with ShardFiles() as files:
        for module, (down, up) in _pairs(folder, specs).items():
            narrow, wide = _matrix(files, specs[down]), _matrix(files, specs[up])
            with np.errstate(invalid="ignore", over="ignore"):
                square = float(np.sum((wide.T @ wide) * (narrow @ narrow.T)))
            found[f"{module}.weight"] = alpha / rank * math.sqrt(max(square, 0.0)) if math.isfinite(square) else square
            if time.monotonic() - told > _SECONDS_BETWEEN:
                told = time.monotonic()
                _emit("progress", tensor=module)
    return found


def _pairs(folder: Path, specs: Mapping[str, TensorSpec]) -> dict[str, tuple[str, str]]:
    """Module to the names of its two factors: what goes into the narrow middle, and what comes out of it."""
    found = {}
    for name in specs:
        for down, up in ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B")):
            if name.endswith(down):
                found[name.removesuffix(down).removeprefix(_PREFIX)] = (name, name.removesuffix(down) + up)
    alone = sorted(specs.keys() ^ {name for pair in found.values() for name in pair})
    if alone or not found:
        raise CheckpointError(
            f"{folder / WEIGHTS}: expected two factors of each module; missing, or without the other: {alone}"
        )
    return found


def _matrix(files: ShardFiles, spec: TensorSpec) -> NDArray[np.float64]:
    if not is_number_type(spec.dtype) or len(spec.shape) != 2:
        raise CheckpointError(f"{spec.name}: {spec.dtype} of shape {spec.shape}, expected a matrix of numbers")
    values: NDArray[np.float64] = as_floats(files.bytes_of(spec, 0, spec.elements), spec.dtype).astype(np.float64)
    return values.reshape(spec.shape)


def main(folders: list[str]) -> int:
    """Read them all; returns the exit code."""
    try:
        found = {folder: norms(Path(folder)) for folder in folders}
    except MergeError as error:
        _emit("error", kind=error.kind, message=str(error))
        return 2
    _emit("result", norms=found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
