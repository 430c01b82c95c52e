"""What is kept of a merged model, and how it is read back: numpy and json only.

A golden holds for every tensor its dtype, shape, three float64 numbers (sum, sum of squares, projection on a fixed
vector) and evenly spread elements; and some tensors whole. A float32 model keeps two whole tensors, a bfloat16 or
float16 one keeps them all, since there the number of differing elements is counted.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.engine.parity.models import from_bfloat16, wave

FOLDER = Path(__file__).parent / "goldens"
SAMPLES = 48
WHOLE = ("model.layers.1.self_attn.q_proj.weight", "model.norm.weight")
STORED = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint.

    Attributes:
        dtype: safetensors' name: F32, F16 or BF16.
        stored: the stored numbers; bfloat16 as its bits, uint16.
    """

    dtype: str
    stored: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.uint16]

    @property
    def values(self) -> NDArray[np.float32]:
        """The numbers as float32, exactly."""
        return from_bfloat16(self.stored) if self.dtype == "BF16" else self.stored.astype(np.float32)

    def ordered_bits(self) -> NDArray[np.int64]:
        """Integers in which neighbouring numbers of a 16-bit type differ by one."""
        bits = self.stored.view(np.uint16).astype(np.int64)
        return np.where(bits & 0x8000, 0x8000 - bits, bits)


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder, from the bytes of its safetensors files."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        content = file.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            numbers = np.frombuffer(content[begin:end], STORED[entry["dtype"]]).reshape(entry["shape"])
            found[name] = Tensor(entry["dtype"], numbers)
    return found


def statistics(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum, sum of squares, and projection on fixed numbers in +-1, in float64."""
    flat = values.astype(np.float64).reshape(-1)
    return np.array([flat.sum(), flat @ flat, flat @ wave(flat.shape, 77, 2.0)])


def sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most ``SAMPLES`` elements, evenly spread over the flat tensor."""
    flat = values.reshape(-1)
    count = min(flat.size, SAMPLES)
    return flat[np.arange(count) * flat.size // count]


@dataclass(frozen=True)
class Golden:
    """One stored result.

    Attributes:
        text: the case's YAML, by which a golden that is older than its case is seen.
        tensors: dtype and shape by name.
        statistics: by name; see ``statistics``.
        samples: by name; see ``sample``. Empty where every tensor is whole.
        whole: tensors kept entirely, by name.
    """

    text: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    statistics: Mapping[str, NDArray[np.float64]]
    samples: Mapping[str, NDArray[np.float32]]
    whole: Mapping[str, Tensor]


def path_of(case: str) -> Path:
    """The file of a case."""
    return FOLDER / f"{case}.safetensors"


def write_golden(case: str, text: str, tensors: Mapping[str, Tensor]) -> None:
    """Store what is kept of a merged model."""
    low = any(tensor.dtype != "F32" for tensor in tensors.values())
    arrays = {"statistics": np.stack([statistics(tensor.values) for tensor in tensors.values()])}
    if not low:
        arrays["samples"] = np.concatenate([sample(tensor.values) for tensor in tensors.values()])
    arrays |= {name: tensor.stored for name, tensor in tensors.items() if low or name in WHOLE}
    table = [[name, tensor.dtype, list(tensor.stored.shape)] for name, tensor in tensors.items()]
    # One key: of several the library writes the order by chance, and the same results would give other bytes.
    about = json.dumps({"text": text, "tensors": table}, separators=(",", ":"))
    save_file(arrays, path_of(case), {"golden": about})


def read_golden(case: str) -> Golden:
    """Read a stored result."""
    with safe_open(path_of(case), framework="numpy") as file:
        about = json.loads(file.metadata()["golden"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    tensors = {name: (dtype, tuple(shape)) for name, dtype, shape in about["tensors"]}
    numbers = dict(zip(tensors, arrays.pop("statistics"), strict=True))
    samples = _split(arrays.pop("samples"), tensors) if "samples" in arrays else {}
    whole = {name: Tensor(tensors[name][0], array) for name, array in arrays.items()}
    return Golden(about["text"], tensors, numbers, samples, whole)


def _split(
    samples: NDArray[np.float32], tensors: Mapping[str, tuple[str, Iterable[int]]]
) -> dict[str, NDArray[np.float32]]:
    counts = [min(math.prod(shape), SAMPLES) for _dtype, shape in tensors.values()]
    return dict(zip(tensors, np.split(samples, np.cumsum(counts)[:-1]), strict=True))
