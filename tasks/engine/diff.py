"""How two checkpoints differ, tensor by tensor: every element of both, in a bounded memory, exactly the same each time.

Both models are read once, in blocks, by threads; the blocks' sums are added in their order, so that nothing depends on
the number of threads.
"""

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .checkpoint import Checkpoint
from .errors import CorruptShard
from .header import TensorSpec
from .reading import ShardFiles
from .sampling import is_number_type
from .sums import Summer, Sums, added

BLOCK = 1 << 20
"""Elements read at once: with 2 bytes each, 4 MB of both models in each thread."""

OnRead = Callable[[int, int], None]
"""Called with bytes read and bytes to read, by one thread at a time."""


class TensorDiff(NamedTuple):
    """Two tensors of one name and shape, or all of them. Ratios are None where the length below the line is 0."""

    name: str
    shape: tuple[int, ...]
    dtype_a: str
    dtype_b: str
    elements: int
    norm_a: float
    """|A|, Euclidean; NaN or infinite if an element is."""
    norm_b: float
    norm_delta: float
    """|A - B|, from the differences themselves."""
    relative: float | None
    """|A - B| / |A|."""
    cosine: float | None
    """<A, B> / (|A| |B|)."""
    equal: float
    """Share of the elements that have one value in both, 0 to 1. NaN equals nothing."""
    max_abs: float
    """Largest |a - b|."""


@dataclass(frozen=True)
class Diff:
    """How two checkpoints differ."""

    tensors: tuple[TensorDiff, ...]
    """Those of one name and shape whose elements are numbers, in the order of A's files."""
    total: TensorDiff
    """All of these as one long vector; its name is ``all``, its shape (elements,)."""
    only_a: dict[str, tuple[int, ...]]
    """Name -> shape of what B lacks."""
    only_b: dict[str, tuple[int, ...]]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Name -> both shapes where they differ; not compared further."""
    dtypes: dict[str, tuple[str, str]]
    """Name -> both types where they differ; compared by value if both are numbers."""
    opaque: dict[str, str]
    """Name -> what is known of a tensor that is stored in a type we do not read (integers, FP8)."""

    @property
    def same_tensors(self) -> bool:
        """Whether both have the same names, shapes and types."""
        return not (self.only_a or self.only_b or self.shapes or self.dtypes)


def diff(one: Checkpoint, other: Checkpoint, *, threads: int = 2, on_read: OnRead | None = None) -> Diff:
    """Compare two checkpoints, whatever their size.

    Args:
        one: A.
        other: B.
        threads: So many blocks are read and computed at once; each takes 6 MB for models in bfloat16.
        on_read: Told of progress; what it raises ends the comparison.

    Raises:
        CorruptShard: A file has become shorter since its header was read.
    """
    both = [name for name in one.tensors if name in other.tensors]
    alike = [name for name in both if one.tensors[name].shape == other.tensors[name].shape]
    dtypes = {name: (one.tensors[name].dtype, other.tensors[name].dtype) for name in both}
    numbers = [name for name in alike if all(map(is_number_type, dtypes[name]))]
    pairs = [(one.tensors[name], other.tensors[name]) for name in numbers]
    with _opened([spec.shard for name in alike for spec in (one.tensors[name], other.tensors[name])]) as files:
        sums = _sums_of(pairs, files, threads, on_read)
        opaque = {
            name: _bytes_told(one.tensors[name], other.tensors[name], files) for name in alike if name not in numbers
        }
    return Diff(
        tensors=tuple(
            _told(a.name, a.shape, (a.dtype, b.dtype), a.elements, found)
            for (a, b), found in zip(pairs, sums, strict=True)
        ),
        total=_total(pairs, sums),
        only_a={name: spec.shape for name, spec in one.tensors.items() if name not in other.tensors},
        only_b={name: spec.shape for name, spec in other.tensors.items() if name not in one.tensors},
        shapes={name: (one.tensors[name].shape, other.tensors[name].shape) for name in both if name not in alike},
        dtypes={name: types for name, types in dtypes.items() if types[0] != types[1]},
        opaque=opaque,
    )


class _Block(NamedTuple):
    """Elements [start, stop) of one pair of tensors."""

    pair: int
    start: int
    stop: int


def _sums_of(
    pairs: Sequence[tuple[TensorSpec, TensorSpec]], files: Mapping[Path, int], threads: int, on_read: OnRead | None
) -> list[Sums]:
    """Of each pair, by threads that take the next block as soon as they are done with one."""
    blocks = [
        _Block(number, start, min(start + BLOCK, spec.elements))
        for number, (spec, _) in enumerate(pairs)
        for start in range(0, spec.elements, BLOCK)
    ]
    found: list[Sums] = [Sums()] * len(blocks)
    total = sum(a.end - a.begin + b.end - b.begin for a, b in pairs)
    left, lock, stop = iter(range(len(blocks))), threading.Lock(), threading.Event()
    done = 0

    def work() -> None:
        nonlocal done
        summer = Summer()
        while not stop.is_set():
            with lock:
                k = next(left, None)
            if k is None:
                return
            block = blocks[k]
            a, b = pairs[block.pair]
            found[k] = summer.block(_read(a, block, files), a.dtype, _read(b, block, files), b.dtype)
            with lock:
                done += (block.stop - block.start) * (a.item_bytes + b.item_bytes)
                if on_read is not None:
                    on_read(done, total)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        try:
            workers = [pool.submit(work) for _ in range(max(1, threads))]
            wait(workers, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
    for worker in workers:
        worker.result()
    of_pair: list[list[Sums]] = [[] for _ in pairs]
    for block, sums in zip(blocks, found, strict=True):
        of_pair[block.pair].append(sums)
    return [added(sums) for sums in of_pair]


def _total(pairs: Sequence[tuple[TensorSpec, TensorSpec]], sums: Sequence[Sums]) -> TensorDiff:
    count = sum(spec.elements for spec, _ in pairs)
    types = ("/".join(sorted({a.dtype for a, _ in pairs})), "/".join(sorted({b.dtype for _, b in pairs})))
    return _told("all", (count,), types, count, added(sums))


def _told(name: str, shape: tuple[int, ...], dtypes: tuple[str, str], count: int, sums: Sums) -> TensorDiff:
    norm_a, norm_b, norm_delta = math.sqrt(sums.aa), math.sqrt(sums.bb), math.sqrt(sums.dd)
    return TensorDiff(
        name=name,
        shape=shape,
        dtype_a=dtypes[0],
        dtype_b=dtypes[1],
        elements=count,
        norm_a=norm_a,
        norm_b=norm_b,
        norm_delta=norm_delta,
        relative=norm_delta / norm_a if norm_a else None,
        cosine=_cosine(sums),
        equal=sums.equal / count if count else 1.0,
        max_abs=sums.max_abs,
    )


def _cosine(sums: Sums) -> float | None:
    below = math.sqrt(sums.aa) * math.sqrt(sums.bb)
    if not below:
        return None
    # Rounding alone leads beyond 1; comparisons with NaN are false, so that it stays.
    cosine = sums.ab / below
    return math.copysign(1.0, cosine) if abs(cosine) > 1 else cosine


@contextmanager
def _opened(shards: Sequence[Path]) -> Iterator[dict[Path, int]]:
    files: dict[Path, int] = {}
    try:
        for shard in dict.fromkeys(shards):
            files[shard] = os.open(shard, os.O_RDONLY)
        yield files
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _read(spec: TensorSpec, block: _Block, files: Mapping[Path, int]) -> bytes:
    size = (block.stop - block.start) * spec.item_bytes
    if spec.source is not None:
        with ShardFiles() as opened:
            return opened.bytes_of(spec, block.start, block.stop)
    raw = os.pread(files[spec.shard], size, spec.begin + block.start * spec.item_bytes)
    if len(raw) != size:
        raise CorruptShard(f"{spec.shard}: {spec.name} ends {size - len(raw)} bytes early; fetch the file again")
    return raw


def _bytes_told(a: TensorSpec, b: TensorSpec, files: Mapping[Path, int]) -> str:
    if a.dtype != b.dtype:
        return f"stored as {a.dtype} and {b.dtype}, which cannot be compared"
    for start in range(0, a.elements, BLOCK):
        block = _Block(0, start, min(start + BLOCK, a.elements))
        if _read(a, block, files) != _read(b, block, files):
            return f"stored as {a.dtype}, which has no distance here; the bytes differ"
    return f"stored as {a.dtype}, which has no distance here; the bytes are equal"
