"""The language part of a graft as a low-rank adapter over the instruct model.

With a = 1 a graft is ``theta_I + sum_k b_k tau_k``: the instruct model itself, and a change that does not depend on the
instruct release. Here that change is cut down to a rank, tensor by tensor, and written as an adapter (see
``adapter_files``), so that one server with the instruct model answers in every language. What a rank keeps is reported
as energy: the sum of squares of the change, which is that of its singular values; what no adapter carries (norms, and
what else ``adapter_files.modules_of`` names) is reported as well.
"""

import json
import time
import uuid
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .adapter_files import CONFIG, HEAD, RANKS, Carried, Module, config_json, is_tied, modules_of, weights_layout
from .checkpoint import Checkpoint
from .command_file import MergeFile
from .donor import donor_files
from .errors import CheckpointError, MergeError, RecipeError, refuse_all
from .kernels.widths import narrow_bf16
from .low_rank import Factors, Matrix, factorize
from .merge import plan_all
from .methods.deltas import Combination
from .methods.operation import BLOCK_ELEMENTS
from .plan import MergePlan, TensorPlan
from .reading import STORED, BlockReader, ShardFiles
from .run import OnProgress, Progress
from .writer import FileDigest, OutputFolder

REPORT = "energy.json"
"""Beside the weights: what was kept of each module."""
SUMS = ("task_arithmetic", "language_graft")
"""Methods that leave the instruct model as it is, and add to it, where its own weight is 1."""
_WIDE_BYTES = 1 << 28
"""Larger matrices are held in float32."""


class Energy(NamedTuple):
    """What became of one tensor's change."""

    tensor: str
    shape: tuple[int, ...]
    energy: float
    """Sum of squares of the change. Tied embeddings stand twice, since the model uses them twice."""
    kept: float
    """Share of it in the singular values kept, 0 to 1; 1 where there is nothing to keep, 0 where it is left out."""
    lost: float
    """Share of it that the factors as they are stored miss: 1 - kept, and the rounding to their type."""
    exact: bool
    """The decomposition was exact, not by random projection."""
    why: str = ""
    """Why it is left out; empty for what is carried."""


@dataclass(frozen=True)
class AdapterReport:
    """What an extraction did."""

    rank: int
    dtype: str
    instruct: str
    """Folder of the model that it is for."""
    coefficients: dict[str, float]
    """b by tuned base."""
    tensors: tuple[Energy, ...]
    """In the order of the model."""
    parameters: int
    """Numbers in the adapter."""
    files: dict[str, FileDigest]
    seconds: float
    warnings: tuple[str, ...]

    @property
    def energy(self) -> float:
        """Of the whole change."""
        return sum(one.energy for one in self.tensors)

    @property
    def carried(self) -> float:
        """Share of the energy in tensors that the adapter has modules for."""
        return _share(sum(one.energy for one in self.tensors if not one.why), self.energy)

    @property
    def kept(self) -> float:
        """Share of the energy that is in the adapter."""
        return _share(sum(one.energy * one.kept for one in self.tensors), self.energy)

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        told = asdict(self) | {"energy": self.energy, "carried": self.carried, "kept": self.kept}
        told["tensors"] = [one._asdict() for one in self.tensors]
        return told | {"files": {name: digest._asdict() for name, digest in self.files.items()}}


def extract(
    file: MergeFile,
    out: Path,
    rank: int,
    *,
    carried: Carried = "input",
    base_name: str = "",
    on_progress: OnProgress | None = None,
) -> AdapterReport:
    """Write the language part of a merge as an adapter. The folder appears whole or not at all.

    Args:
        file: The merge, as `command_file.read_merge_file` understands it: a sum of deltas with instruct weight 1.
        out: The folder to be; it must not exist, its parent must.
        rank: Of the adapter, for every module; 1 to 512.
        carried: What is carried beside the projections, where the server can.
        base_name: What the adapter calls the model that it is for. With a name, that model's configuration, tokenizer
            and template are put beside it, so that the folder says all but the weights of what is served.
        on_progress: Called before each tensor, and at the end, with elements of the model's weights.

    Raises:
        RecipeError: The merge is no sum over the instruct model as it is, or the rank is out of range.
        CheckpointError: What `merge` refuses of the inputs.
        WriteError: The output exists or cannot be written; `DiskFull` when there is no room.
    """
    began = time.monotonic()
    if not 1 <= rank <= RANKS[-1]:
        raise RecipeError(f"rank {rank}: expected 1 to {RANKS[-1]}, the largest that vLLM serves")
    config = file.config
    if config.method not in SUMS:
        raise RecipeError(
            f"{config.where}: {config.method} does not leave the instruct model as it is, so there is no adapter over "
            f"it; expected {' or '.join(SUMS)} with weight 1 for the instruct model"
        )
    (plan,) = plan_all({out: config}, labels=file.labels, base=file.base).values()
    terms = _language_terms(plan)
    instruct = plan.sources[0].checkpoint
    places = {name: modules_of(name, instruct, carried=carried) for name in terms}
    modules = [module for found, _ in places.values() for module in found]
    if not modules:
        raise CheckpointError(
            f"{instruct.path}: none of its {len(terms)} tensors is a projection that an adapter is served for, as "
            "model.layers.0.self_attn.q_proj.weight would be; serve the full merge"
        )
    shapes = {
        key: shape
        for name, (found, _) in places.items()
        for module in found
        for key, shape in module.shapes(instruct.tensors[name].shape, rank).items()
    }
    layout = weights_layout(shapes, plan.out_dtype)
    energies: list[Energy] = []
    inputs = plan.inputs()
    total, done = sum(plan.tensors[name].tensor.elements for name in terms), 0
    # Never gone on with: a name of its own, by which what a killed one left is removed.
    with OutputFolder(out, layout.size_bytes + len(terms) * 400, uuid.uuid4().hex) as folder, ShardFiles() as files:
        weights = folder.weights(layout.file, layout.header, layout.size_bytes)
        pieces = _InOrder(layout.tensors)
        for name, of_sources in terms.items():
            if on_progress is not None:
                on_progress(Progress(done, total, name))
            done += plan.tensors[name].tensor.elements
            delta = _delta(files, plan.tensors[name], of_sources)
            found, why = places[name]
            if why:
                one = Energy(name, delta.shape, _squared(delta), 0.0, 1.0, True, why)
                energies += [one, *_as_head(one, instruct, carried)]
                continue
            factors = factorize(delta, rank, seed=zlib.crc32(name.encode()))
            one = _energy(name, delta, factors, plan.out_dtype)
            energies += [one, *_as_head(one, instruct, carried)]
            for key, matrix in _matrices(found, factors).items():
                for data in pieces.take(key, _stored(matrix, plan.out_dtype, name)):
                    weights.place(data, weights.hashed)
                    weights.advance(data)
        if plan.inputs() != inputs:
            raise CheckpointError(f"{config.where}: an input was written meanwhile; extract again when it is complete")
        folder.finish(weights)
        folder.write(CONFIG, config_json(modules, rank, base_name))
        if base_name:
            for path in (instruct.path / "config.json", *donor_files(instruct.path)):
                folder.copy(path)
        folder.write(REPORT, _energies_json(rank, energies))
        folder.commit()
    if on_progress is not None:
        on_progress(Progress(total, total, ""))
    return AdapterReport(
        rank=rank,
        dtype=plan.out_dtype,
        instruct=str(instruct.path),
        coefficients=_coefficients(plan, terms),
        tensors=tuple(energies),
        parameters=sum(int(np.prod(shape)) for shape in shapes.values()),
        files=folder.files,
        seconds=time.monotonic() - began,
        warnings=plan.warnings,
    )


Terms = list[tuple[int, int, float]]
"""(source, source that is taken off, weight) of one tensor, the instruct delta left out."""


def _language_terms(plan: MergePlan) -> dict[str, Terms]:
    """What is added to the instruct model, by tensor; refuses a merge that does anything else to it."""
    found: dict[str, Terms] = {}
    problems: dict[str, MergeError] = {}
    for name, tensor in plan.tensors.items():
        operation = tensor.operation()
        if not isinstance(operation, Combination) or tensor.copied:
            found[name] = []
            continue
        rows = zip(operation.plus, operation.minus, operation.weights, strict=True)
        terms = [(operation.sources[p], operation.sources[m], float(w)) for p, m, w in rows]
        own = {(tensor.instruct, tensor.tensor.base): 1.0, (tensor.tensor.base, tensor.instruct): -1.0}
        weight = sum(own[p, m] * w for p, m, w in terms if (p, m) in own)
        found[name] = [term for term in terms if term[:2] not in own]
        if weight != 1 or any(p == tensor.instruct for p, _, _ in found[name]):
            problems.setdefault(
                f"{weight:g}",
                RecipeError(
                    f"{plan.config.where}: the instruct delta has weight {weight:g} at {name}, and the adapter's base "
                    "is the instruct model as it is, so that it must be 1; state weight 1 (task arithmetic), or serve "
                    "the full merge"
                ),
            )
    refuse_all(list(problems.values()))
    if not any(found.values()):
        raise RecipeError(f"{plan.config.where}: no language has a weight above 0, so there is nothing to carry")
    return found


def _coefficients(plan: MergePlan, terms: dict[str, Terms]) -> dict[str, float]:
    """Each b by what its tuned base is called; where it changes from tensor to tensor, the largest."""
    found: dict[str, float] = {}
    for plus, minus, weight in (term for of_one in terms.values() for term in of_one):
        models = {entry.model for entry in plan.config.inputs}
        tuned, sign = (plus, 1.0) if plan.names[plus] in models else (minus, -1.0)
        label = plan.sources[tuned].label.removeprefix("tuned base ")
        found[label] = max(found.get(label, 0.0), sign * weight, key=abs)
    return found


def _delta(files: ShardFiles, plan: TensorPlan, terms: Terms) -> Matrix:
    """The change of one tensor: float64, or float32 where it is large. Rows that are the instruct model's are 0."""
    elements = plan.tensor.elements
    delta: Matrix = np.zeros(elements, np.float64 if elements * 8 <= _WIDE_BYTES else np.float32)
    sources = sorted({source for term in terms for source in term[:2]})
    reader = BlockReader(files, max(1, len(sources)), BLOCK_ELEMENTS)
    for start in range(0, elements if terms else 0, BLOCK_ELEMENTS):
        stop = min(start + BLOCK_ELEMENTS, elements)
        block = reader.floats([plan.specs[source] for source in sources], start, stop)
        for plus, minus, weight in terms:
            pair = (block[sources.index(source)].astype(delta.dtype) for source in (plus, minus))
            delta[start:stop] = delta[start:stop] + weight * np.subtract(*pair)
    shaped: Matrix = delta.reshape(plan.tensor.shape)
    if plan.copied_rows:
        shaped[list(plan.copied_rows)] = 0
    return shaped


def _matrices(modules: tuple[Module, ...], factors: Factors) -> dict[str, NDArray[np.float64]]:
    return {key: matrix for module in modules for key, matrix in module.matrices(factors).items()}


def _energy(name: str, delta: Matrix, factors: Factors, dtype: str) -> Energy:
    """What the factors keep, and what they miss once they are stored."""
    if not factors.energy:
        return Energy(name, delta.shape, 0.0, 1.0, 0.0, factors.exact)
    up, down = (_as_stored(matrix, dtype) for matrix in (factors.up, factors.down))
    step = max(1, BLOCK_ELEMENTS // max(1, delta.shape[1]))
    missed = sum(_squared(delta[row : row + step] - up[row : row + step] @ down) for row in range(0, len(up), step))
    return Energy(name, delta.shape, factors.energy, factors.kept or 0.0, missed / factors.energy, factors.exact)


def _as_head(one: Energy, instruct: Checkpoint, carried: Carried) -> list[Energy]:
    """Tied embeddings once more, as the output layer: what is carried of the one use is not carried of the other."""
    if not is_tied(one.tensor, instruct):
        return []
    if carried == "all" or one.why:
        return [one._replace(tensor=HEAD)]
    return [one._replace(tensor=HEAD, kept=0.0, lost=1.0, why="left out as asked")]


def _squared(matrix: Matrix) -> float:
    return float(np.sum(np.square(matrix, dtype=np.float64)))


def _narrowed(matrix: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    wide = np.ascontiguousarray(matrix, np.float32).reshape(-1)
    if dtype != "BF16":
        return wide.astype(STORED[dtype])
    out = np.empty(wide.size, np.uint16)
    narrow_bf16(wide, out)
    return out


def _as_stored(matrix: NDArray[np.float64], dtype: str) -> NDArray[np.float64]:
    stored = _narrowed(matrix, dtype)
    wide = (stored.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else stored
    return wide.astype(np.float64).reshape(matrix.shape)


def _stored(matrix: NDArray[np.float64], dtype: str, name: str) -> bytes:
    if dtype == "F16" and float(np.abs(matrix).max(initial=0.0)) > np.finfo(np.float16).max:
        raise CheckpointError(f"{name}: a factor is too large for float16; state out_dtype: bfloat16")
    return _narrowed(matrix, dtype).tobytes()


class _InOrder:
    """Hands on what is finished in the order of the file, which is written from front to back."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._left = list(reversed(names))
        self._waiting: dict[str, bytes] = {}

    def take(self, name: str, data: bytes) -> list[bytes]:
        """One tensor in; whatever has its turn now out."""
        self._waiting[name] = data
        ready = []
        while self._left and self._left[-1] in self._waiting:
            ready.append(self._waiting.pop(self._left.pop()))
        return ready


def _energies_json(rank: int, energies: list[Energy]) -> bytes:
    return (json.dumps({"rank": rank, "tensors": [one._asdict() for one in energies]}, indent=1) + "\n").encode()


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0
