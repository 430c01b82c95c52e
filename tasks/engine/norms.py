"""``python -m tasks.engine.norms FOLDER...``: the Euclidean norm of every tensor of checkpoints, every element read.

Prints one JSON object per line: ``progress`` now and then, then ``result`` with ``norms``: folder to tensor to norm,
which is NaN or Infinity if an element is, or overflows. Exit code 2: a folder cannot be read; an ``error`` says why.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint import Checkpoint
from .errors import CheckpointError, MergeError
from .reading import ShardFiles
from .sampling import as_floats, is_number_type

BLOCK = 1 << 20
"""Elements read at once."""
_SECONDS_BETWEEN = 5.0


def _emit(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def norms(folder: Path) -> dict[str, float]:
    """Tensor name to norm.

    Raises:
        MergeError: if it is no checkpoint, is truncated, or holds a type that has no values here (integers, FP8).
    """
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
