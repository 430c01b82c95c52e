"""How much memory a merge or an instance needs, and which class of machine it goes to. Pure; GiB are 2**30 bytes.

Bounds, not measurements: what is chosen by them must be able to run there. Two things have a size:

    merge      buffers of the engine in the worker's memory: blocks for every thread, and for methods that look for the
               k-th largest magnitude what lies around it. It reads and writes block by block, so a model's size enters
               by its longest row only.
    serving    weights in the served dtype, the KV cache and what vLLM takes beside both, on the device.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from tasks.domain.errors import CatalogError, InputError
from tasks.domain.models import Noun
from tasks.domain.yaml_lines import Document

GIB = 1024**3
Dtype = Literal["float32", "bfloat16", "float16"]
ITEM_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

BLOCK_ELEMENTS = 1 << 19
TENSORS_AT_ONCE = 4
"""Of which the engine has statistics in work."""
RANK_BYTES = 96 << 20
"""What it keeps of one tensor's delta while it looks for the k-th largest magnitude, at the most."""
RANKS: Mapping[str, int] = {"ties": 1, "breadcrumbs": 2, "breadcrumbs_ties": 2}
"""Thresholds by rank that a method looks for in every delta."""
MARKED = frozenset({"della", "della_linear"})
"""Methods that keep a bit for every element of a tensor in work."""
LARGEST_TENSOR = 1 << 32
"""Elements: twice an embedding of 262,144 tokens by 8,192."""
MERGE_OVERHEAD_GIB = 1.0
"""A bound for the flow run and the engine's interpreter beside its buffers. A ties merge of three models of 2.6 M
parameters in two threads had a peak of 0.21 GiB (2026-11)."""
SERVING_OVERHEAD_GIB = 1.5
"""Of an instance that is neither weights nor KV cache; see ``ServingProfile.memory_bytes``."""

ClassName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]


class DeviceClass(Noun):
    """Machines of one kind, as ``classes/<name>.yaml`` of the catalog declares them. Each has a queue of its own."""

    name: ClassName
    memory_gib: float = Field(gt=0)
    """Of the host, for one worker."""
    cores: int = Field(default=8, ge=1)
    """For one worker: the engine takes a thread, and its buffers, for each."""
    device_gib: float = Field(default=0, ge=0)
    """What instances may use of one device; 0 where nothing is served. On a CPU host, its share of memory."""
    gpus: int = Field(default=0, ge=0)
    """GPUs that a job of this class asks a cluster for."""
    workers: int = Field(default=1, ge=1)
    """How many there are, one worker for each: no more runs of this queue are under way at once."""
    job_variables: Mapping[str, Any] = Field(default_factory=dict)
    """Handed to the work pool with every run: a node selector's label, an image."""


class Weights(NamedTuple):
    """The size of a model."""

    parameters: int
    dtype: Dtype
    """As stored."""


def merge_gib(model: Weights, method: str, *, models: int, threads: int) -> float:
    """GiB that merging ``models`` of this size takes in memory, in so many threads.

    A row is taken to be no longer than the square root of the parameters: a matrix has more rows than columns, or
    there are several of them. The engine's own figure, from the real rows, is never more.
    """
    block = max(BLOCK_ELEMENTS, math.isqrt(model.parameters))
    buffers = threads * block * (6 * models + 16) + (8 + 2 * threads) * block * ITEM_BYTES[model.dtype]
    ranked = RANKS.get(method, 0) * TENSORS_AT_ONCE * min(RANK_BYTES, 4 * model.parameters)
    marked = min(model.parameters, LARGEST_TENSOR) // 8 if method in MARKED else 0
    return (buffers + models * (ranked + marked)) / GIB + MERGE_OVERHEAD_GIB


def serving_gib(parameters: int, dtype: Dtype, *, kv_mib: int) -> float:
    """GiB that one instance takes on its device: weights in the served dtype, KV cache, overhead."""
    return parameters * ITEM_BYTES[dtype] / GIB + kv_mib / 1024 + SERVING_OVERHEAD_GIB


def class_for_merge(classes: Sequence[DeviceClass], model: Weights, method: str, *, models: int) -> DeviceClass:
    """The least class whose memory is enough: one without a device first, since the engine needs none.

    Raises:
        InputError: it fits in none; every class is named with what it has and what would be needed there.
    """
    problems = []
    for one in sorted(classes, key=_least_first):
        needed = merge_gib(model, method, models=models, threads=one.cores)
        if needed <= one.memory_gib:
            return one
        problems.append(f"{one.name}: {needed:.1f} GiB needed in {one.cores} threads, {one.memory_gib:g} GiB there")
    what = f"a {method} merge of {models} models of {billions(model.parameters)} parameters in {model.dtype}"
    raise InputError(f"{what} fits no class of machine; {_ADVICE}", problems=problems)


def class_for_serving(classes: Sequence[DeviceClass], parameters: int, dtype: Dtype, *, kv_mib: int) -> DeviceClass:
    """The least class whose device holds one instance.

    Raises:
        InputError: none does; every class is named with what its device has.
    """
    needed = serving_gib(parameters, dtype, kv_mib=kv_mib)
    for one in sorted(classes, key=_least_first):
        if needed <= one.device_gib:
            return one
    what = f"an instance of {billions(parameters)} parameters in {dtype} needs {needed:.1f} GiB on a device"
    weights = parameters * ITEM_BYTES[dtype] / GIB
    parts = f"weights {weights:.1f}, KV cache {kv_mib / 1024:.1f}, overhead {SERVING_OVERHEAD_GIB}"
    problems = [f"{one.name}: {one.device_gib:g} GiB there" for one in sorted(classes, key=_least_first)]
    raise InputError(f"{what} ({parts}) and fits no class of machine; {_ADVICE}", problems=problems)


def load_classes(catalog: Path) -> tuple[DeviceClass, ...]:
    """The classes that ``classes/*.yaml`` of a catalog folder declare, by name; none if there is no such folder.

    Raises:
        CatalogError: listing file, key and line of everything that is wrong.
    """
    found: list[DeviceClass] = []
    problems: list[str] = []
    for path in sorted((catalog / "classes").glob("*.yaml")):
        try:
            document = Document(path)
            one = document.parse(DeviceClass)
        except CatalogError as error:
            problems.extend(error.problems or [str(error)])
            continue
        if one.name != path.stem:
            problems.append(f"{document.where(('name',))}: {one.name!r} must equal the file's name {path.stem!r}")
        found.append(one)
    if problems:
        raise CatalogError(f"the classes in {catalog / 'classes'} were refused", problems=problems)
    return tuple(found)


def billions(parameters: int) -> str:
    """``8.03 B``, ``2.6 M``."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"


def _least_first(one: DeviceClass) -> tuple[float, float, str]:
    return (one.device_gib, one.memory_gib, one.name)


_ADVICE = "declare a larger one in classes/ of the catalog, or run the family elsewhere"
