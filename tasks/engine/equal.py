"""Tensors that are compared by their bytes: heads that repeat the embeddings, and tensors of whole numbers.

Exporters differ in what they store of a tied head: one model of a family has ``lm_head.weight`` beside
``embed_tokens.weight``, with the same bytes, and the next has not. And older vision towers store the numbers of their
positions (``position_ids``, I64), which nobody can add up.
"""

import os
from collections.abc import Mapping

from .checkpoint import MERGEABLE, Checkpoint
from .errors import CorruptShard, DtypeMismatch, MergeError
from .header import TensorSpec
from .rows import is_token_tensor

WHOLE = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
"""Types that are copied where all models have the same bytes."""
_HEAD = "lm_head.weight"
_PIECE = 1 << 20


def same_bytes(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether two tensors are stored alike, to the byte. Reads both, a megabyte at a time.

    Raises:
        CorruptShard: A file cannot be read.
    """
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    for place in range(0, one.end - one.begin, _PIECE):
        size = min(_PIECE, one.end - one.begin - place)
        if _read(one, place, size) != _read(other, place, size):
            return False
    return True


def _read(spec: TensorSpec, place: int, size: int) -> bytes:
    try:
        handle = os.open(spec.shard, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(handle, size, spec.begin + place)
        finally:
            os.close(handle)
    except OSError as error:
        raise CorruptShard(f"{spec.shard}: {spec.name} cannot be read: {error.strerror or error}") from error


def without_repeated_heads(opened: Mapping[str, Checkpoint], donor: str) -> tuple[dict[str, Checkpoint], list[str]]:
    """The same checkpoints; where only some of them store a head, one that repeats the embeddings is left out.

    It stays where the configuration says that the head is not tied, where it differs from the embeddings, and where
    every model stores one: then it is a tensor like any other. The donor, whose configuration the output gets, must
    say that its head is tied: left unsaid it means no in some architectures, and the output would have none.

    Returns:
        The checkpoints, and warnings of what was left out.
    """
    storing = [name for name, checkpoint in opened.items() if _HEAD in checkpoint.tensors]
    if not storing or len(storing) == len(opened):
        return dict(opened), []
    kept = {
        name: _without_head(checkpoint, stated=name == donor) if name in storing else checkpoint
        for name, checkpoint in opened.items()
    }
    return kept, [
        f"{opened[name].tensors[_HEAD].shard}: {_HEAD} repeats the embeddings, and another model does not store it; "
        "it is left out, and the merged model's head is tied to its embeddings"
        for name in storing
        if _HEAD not in kept[name].tensors
    ]


def _without_head(checkpoint: Checkpoint, *, stated: bool) -> Checkpoint:
    tied = checkpoint.config.get("tie_word_embeddings")
    if tied is False or (stated and tied is not True):
        return checkpoint
    head = checkpoint.tensors[_HEAD]
    others = (spec for name, spec in checkpoint.tensors.items() if name != _HEAD and is_token_tensor(name))
    if not any(same_bytes(head, spec) for spec in others):
        return checkpoint
    kept = {name: spec for name, spec in checkpoint.tensors.items() if name != _HEAD}
    return Checkpoint(checkpoint.path, checkpoint.config, kept)


def whole_number_problems(instruct: Checkpoint, others: Mapping[str, Checkpoint]) -> list[MergeError]:
    """Tensors that can neither be added nor copied: of an odd type, or whole numbers that differ.

    Args:
        instruct: The model whose tensors are copied.
        others: The other inputs by label.
    """
    problems: list[MergeError] = []
    for label, checkpoint in {"instruct": instruct, **others}.items():
        for name, spec in sorted(checkpoint.tensors.items()):
            ours = instruct.tensors.get(name)
            if spec.dtype in MERGEABLE and (ours is None or ours.dtype in MERGEABLE):
                continue
            if spec.dtype not in (*MERGEABLE, *WHOLE):
                problems.append(
                    DtypeMismatch(
                        f"{name} is stored as {spec.dtype} in {label} ({spec.shard}); expected one of "
                        f"{', '.join(MERGEABLE)}, or whole numbers that are the same in all models"
                    )
                )
            elif ours is not None and ours.shape == spec.shape and not same_bytes(ours, spec):
                problems.append(
                    DtypeMismatch(
                        f"{name} is stored as {spec.dtype} in {label} ({spec.shard}) and as {ours.dtype} in instruct "
                        f"({ours.shard}), and the bytes differ; whole numbers cannot be merged: expected the same in "
                        "all models"
                    )
                )
    return problems
