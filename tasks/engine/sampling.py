"""A few hundred kilobytes of a model, whatever its size: the same elements of every model, spread over its matrices.

Which elements are read follows from names and shapes alone, so two models of one architecture give samples that can be
subtracted. 1-D tensors are left out: norms and biases lie near 1 or 0 in every model and tell nothing of its origin.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .checkpoint import Checkpoint
from .errors import CheckpointError, CorruptShard
from .header import TensorSpec
from .reading import ShardFiles

Floats = npt.NDArray[np.float64]

ELEMENTS = 1 << 17
"""Read of one model at most: 256 kB of bfloat16."""
SLICE = 1024
"""Consecutive elements of a slice: below this a read costs a page of 4 kB all the same."""
_FEW = 64
"""Slices that a model of fewer elements than `ELEMENTS` is cut into at least: a spread needs many to be known."""
_SHORTEST = 16
_GOLDEN = 0.6180339887498949
"""Its multiples modulo 1 lie evenly spread however many are taken (the additive recurrence of Weyl and Steinhaus)."""

_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_NUMBER = re.compile(r"(?:^|(?<=\.))\d+(?=\.|$)")


class Slice(NamedTuple):
    """Elements [start, stop) of one flattened tensor."""

    name: str
    start: int
    stop: int
    weight: float
    """Elements of the model that each sampled one stands for."""


class Place(NamedTuple):
    """Where a tensor stands in its model, by its name."""

    layer: int | None
    """The first number in the name; None outside the layers."""
    kind: str
    """The name without that number, and a ``*`` for each further one: ``model.layers.mlp.experts.*.up_proj.weight``."""


class Picked(NamedTuple):
    """A sample of one model."""

    values: Floats
    """All slices one after the other; 1-D."""
    first: npt.NDArray[np.intp]
    """Where each slice begins in ``values``."""
    counts: Floats
    """Elements of the model that each slice stands for; of the slices' number."""


def place_of(name: str) -> Place:
    """Take a tensor's name apart: ``layers.3.mlp.up_proj.weight`` is ``layers.mlp.up_proj.weight`` of layer 3."""
    found = _NUMBER.search(name)
    if found is None:
        return Place(None, name)
    after = name[found.end() :].removeprefix(".")
    return Place(int(found[0]), name[: found.start()] + _NUMBER.sub("*", f".{after}")[1:])


def matrices(checkpoint: Checkpoint) -> dict[str, TensorSpec]:
    """The tensors that can be sampled: two dimensions or more, a floating-point type, at least one element."""
    return {
        name: spec
        for name, spec in checkpoint.tensors.items()
        if len(spec.shape) > 1 and spec.dtype in _STORED and spec.elements
    }


def shared_matrices(model: Checkpoint, others: Mapping[str, Checkpoint]) -> tuple[list[TensorSpec], dict[str, str]]:
    """The matrices that all have under one name and in one shape, and the models that share too few to take part.

    Args:
        model: Whose matrices are looked for in the others.
        others: By label.

    Returns:
        Specs of ``model``, sorted by name; and label -> why it cannot be compared: it has fewer than half of them.
    """
    ours = matrices(model)
    incomparable: dict[str, str] = {}
    common = set(ours)
    for label, other in others.items():
        theirs = matrices(other)
        alike = {name for name, spec in ours.items() if name in theirs and theirs[name].shape == spec.shape}
        if 2 * len(alike) < len(ours) or not alike:
            incomparable[label] = f"{len(alike)} of {len(ours)} matrices have the same name and shape in both"
        else:
            common &= alike
    return [ours[name] for name in sorted(common)], incomparable


def of_layers(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Those that belong to a layer; all if none does.

    Embeddings mislead: rows of tokens that training never met are those of the parent and of the grandparent alike, and
    the others answer to the corpus. (The demo family's Basque model: of its embeddings alone it could as well be the
    instruct model's child, projection 0.51; of its layers it is the base's, 0.27.)
    """
    return [spec for spec in specs if place_of(spec.name).layer is not None] or list(specs)


def choose_slices(specs: Sequence[TensorSpec], elements: int = ELEMENTS) -> list[Slice]:
    """The elements to read: as many of each kind of matrix, and of each kind in layers from first to last.

    Args:
        specs: Tensors with at least one element each.
        elements: So many are chosen at most, unless there are more kinds than slices: none is left out.
    """
    kinds: dict[str, list[TensorSpec]] = defaultdict(list)
    for spec in sorted(specs, key=lambda spec: _order(spec.name)):
        kinds[place_of(spec.name).kind].append(spec)
    total = sum(spec.elements for spec in specs)
    length = min(SLICE, max(_SHORTEST, total // _FEW))
    pieces = {kind: sum(_pieces(spec, length) for spec in members) for kind, members in kinds.items()}
    shares = _shares(pieces, elements // length)
    chosen: list[Slice] = []
    for kind, members in kinds.items():
        slices = _of_one_kind(members, shares[kind], length, len(chosen))
        read = sum(stop - start for _, start, stop, _ in slices)
        stands_for = sum(spec.elements for spec in members) / read if read else 0.0
        chosen += [piece._replace(weight=stands_for) for piece in slices]
    return chosen


def pick(checkpoint: Checkpoint, slices: Sequence[Slice]) -> Picked:
    """Read the slices with one pread each; nothing is mapped, so memory stays at what was read.

    Raises:
        CorruptShard: A file has become shorter since its header was read.
        CheckpointError: A sampled value is NaN or infinite.
    """
    values = np.empty(sum(piece.stop - piece.start for piece in slices), dtype=np.float64)
    first = np.empty(len(slices), dtype=np.intp)
    files: dict[str, int] = {}
    packs = ShardFiles()
    done = 0
    try:
        for k, piece in enumerate(slices):
            spec = checkpoint.tensors[piece.name]
            file = str(spec.shard)
            if file not in files and spec.source is None:
                files[file] = os.open(file, os.O_RDONLY)
            wanted = (piece.stop - piece.start) * spec.item_bytes
            if spec.source is not None:
                raw = packs.bytes_of(spec, piece.start, piece.stop)
            else:
                raw = os.pread(files[file], wanted, spec.begin + piece.start * spec.item_bytes)
            if len(raw) != wanted:
                raise CorruptShard(f"{file}: {piece.name} ends {wanted - len(raw)} bytes early; fetch the file again")
            found = as_floats(raw, spec.dtype)
            if not np.isfinite(found).all():
                place = int(np.flatnonzero(~np.isfinite(found))[0])
                raise CheckpointError(
                    f"{file}: {piece.name} has {found[place]} at element {piece.start + place}, which is not finite; "
                    "expected numbers. Fetch the file again, or leave this model out"
                )
            first[k] = done
            values[done : done + len(found)] = found
            done += len(found)
    finally:
        packs.__exit__(None, None, None)
        for descriptor in files.values():
            os.close(descriptor)
    return Picked(values, first, np.array([piece.weight * (piece.stop - piece.start) for piece in slices]))


def as_floats(raw: bytes | memoryview, dtype: str) -> npt.NDArray[np.floating]:
    """Stored bytes as numbers, exactly: float64 for F64, else float32.

    Raises:
        KeyError: Another type than F64, F32, F16 and BF16.
    """
    found = np.frombuffer(raw, dtype=_STORED[dtype])
    if dtype == "BF16":  # the upper half of a float32
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found if dtype in ("F64", "F32") else found.astype(np.float32)


def is_number_type(dtype: str) -> bool:
    """Whether elements of this type can be read as numbers here."""
    return dtype in _STORED


def _order(name: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _pieces(spec: TensorSpec, length: int) -> int:
    return max(1, spec.elements // length)


def _shares(pieces: Mapping[str, int], total: int) -> dict[str, int]:
    """So many slices for each kind: equal shares, and what a small kind cannot use goes to the larger ones."""
    shares: dict[str, int] = {}
    left, kinds = total, sorted(pieces, key=lambda kind: (pieces[kind], kind))
    for k, kind in enumerate(kinds):
        # Never 0: a model of more kinds than slices is read a little further instead of leaving some unseen.
        shares[kind] = max(1, min(pieces[kind], left // (len(kinds) - k)))
        left = max(0, left - shares[kind])
    return shares


def _of_one_kind(members: Sequence[TensorSpec], share: int, length: int, seen: int) -> list[Slice]:
    """``share`` slices over the tensors of one kind; ``seen`` moves the spots from kind to kind."""
    # Of many layers evenly spread ones; the shift keeps the kinds from all being read in the same layers.
    step, shift = max(1.0, len(members) / share), _GOLDEN * (seen + 1) % 1
    taken = [members[int((k + shift) * step)] for k in range(min(share, len(members)))]
    counts = [share // len(taken) + (k < share % len(taken)) for k in range(len(taken))]
    slices: list[Slice] = []
    for spec, count in zip(taken, counts, strict=True):
        parts = min(count, _pieces(spec, length))
        for part in range(parts):
            begin, end = spec.elements * part // parts, spec.elements * (part + 1) // parts
            size = min(length, end - begin)
            start = begin + int((end - begin - size) * (_GOLDEN * (seen + len(slices) + 1) % 1))
            slices.append(Slice(spec.name, start, start + size, 0.0))
    return slices
