"""Checkpoint folders of any shapes and types, and a merge of them by every method of the table, for the tests of algebra.

Written with the safetensors library and read with a reader of their own, never with the engine's.
"""

import json
import math
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file

from tasks.engine.config import parse_config
from tasks.engine.merge_config import MergeConfig
from tasks.engine.methods.operation import Block, Operation
from tasks.engine.methods.spec import REQUIRED, MethodSpec, Parameter
from tests.engine.parity.models import to_bfloat16

Floats = NDArray[np.floating[Any]]

BLOCK_ELEMENTS = 1 << 16
"""Elements of a block in these tests (see conftest.py): an eighth of the real number, so that small tensors have many."""

ODD_SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (40, 24),
    "model.norm.weight": (24,),
    "model.logit_scale": (),
    "model.rows.none": (0, 8),
    "model.rows.empty": (4, 0),
    "model.rows.one_column": (33, 1),
    "model.rows.cube": (3, 5, 7),
    "model.rows.wide": (2, BLOCK_ELEMENTS + 77),
    "model.rows.tall": (23_000, 3),
    "model.rows.long": (2 * BLOCK_ELEMENTS + 5,),
    **{f"model.layers.{layer}.mlp.up_proj.weight": (24, 20) for layer in range(6)},
    **{f"model.layers.{layer}.input_layernorm.weight": (24,) for layer in range(6)},
}
"""Every form that a tensor can have: no elements, one, rows wider than a block, more than a block and no multiple."""

NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def numbers(shape: tuple[int, ...], seed: int, scale: float = 0.05) -> NDArray[np.float32]:
    """Normal numbers that all four types hold exactly: 6 bits of mantissa, nothing below 2^-12 but zeros of both signs."""
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(math.prod(shape)) * scale
    mantissa, exponent = np.frexp(drawn)
    coarse = np.ldexp(np.round(mantissa * 64) / 64, exponent)
    return np.where(np.abs(coarse) < 2.0**-12, np.copysign(0.0, drawn), coarse).astype(np.float32).reshape(shape)


def tensors(seed: int, shapes: Mapping[str, tuple[int, ...]] = ODD_SHAPES) -> dict[str, NDArray[np.float32]]:
    """One model."""
    return {name: numbers(shape, 1000 * seed + place) for place, (name, shape) in enumerate(shapes.items())}


def write_folder(
    folder: Path,
    model: Mapping[str, Floats],
    dtype: str = "F32",
    *,
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint without a tokenizer: weights in any type, config.json, and an index where there are shards."""
    folder.mkdir(parents=True)
    settings = {"architectures": ["PicoForCausalLM"], "model_type": "pico", "torch_dtype": NAMES[dtype]}
    (folder / "config.json").write_text(json.dumps({**settings, **(config or {})}))
    stored = {
        name: to_bfloat16(tensor.astype(np.float32)) if dtype == "BF16" else np.asarray(tensor, NUMPY[dtype])
        for name, tensor in model.items()
    }
    entries = {
        name: TensorSpec(dtype=NAMES[dtype], shape=model[name].shape, data_ptr=t.ctypes.data, data_len=t.nbytes)
        for name, t in stored.items()
    }
    if shards == 1:
        serialize_file(entries, folder / "model.safetensors", {"format": "pt"})
        return folder
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: entries[name] for name in list(entries)[number::shards]}
        serialize_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def model_count(spec: MethodSpec) -> int:
    """How many models a test merges beside base and instruct model: two where the method takes them."""
    return max(spec.fewest, min(2, spec.most if spec.most is not None else 2))


def plain(parameter: Parameter) -> Any:
    """The default, or something ordinary where a recipe must state it."""
    return 0.6 if parameter.default is REQUIRED else parameter.default


def unusual(parameter: Parameter) -> Any:
    """Something else than the default."""
    if parameter.kind is bool:
        return not parameter.default
    if parameter.kind is str:
        return next(word for word in parameter.choices if word != parameter.default)
    if parameter.kind is int:
        return 2
    if math.isinf(parameter.high):
        return 0.375 if math.isfinite(parameter.low) else 0.75
    return parameter.low + 0.6 * (parameter.high - parameter.low)


def stated(spec: MethodSpec, *, busy: bool) -> dict[str, Any]:
    """Every parameter that a recipe may state for all models: at its default, or (busy) at another value."""
    return {name: (unusual if busy else plain)(parameter) for name, parameter in spec.parameters.items()}


def recipe_for(
    spec: MethodSpec, base: Path, instruct: Path, models: list[Path], parameters: Mapping[str, Any], **more: Any
) -> MergeConfig:
    """A merge by any method of the table.

    Args:
        spec: The method.
        base: Left out where the method takes none.
        instruct: In its own role where the method has one; else the first of the models.
        models: As many as the method takes.
        parameters: For all models and the merge; ``weights``, a list, is shared out to the models.
        more: Further keys of the recipe.
    """
    values = dict(parameters)
    weights = values.pop("weights", [None] * len(models))
    mapping: dict[str, Any] = {
        "merge_method": spec.name,
        "models": [
            {"model": str(model), "parameters": {} if weight is None else {"weight": weight}}
            for model, weight in zip(models, weights, strict=True)
        ],
        "parameters": values,
        "instruct": str(instruct if spec.instruct_apart else models[0]),
        "special_rows": "merge",
        "allow_foreign_parent": True,
        **more,
    }
    if spec.base != "unused":
        mapping["base_model"] = str(base)
    return parse_config(mapping, "recipe")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of merges wait for a disk 20 ms at each of their fsyncs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None, prefix="engine-") as folder:
        yield Path(folder)


def operate(
    operation: Operation, x: NDArray[np.float32], width: int, block: int, *, backwards: bool = False
) -> NDArray[np.float32]:
    """Feed one operation as the runner does, in blocks of so many elements, or of whole rows where it wants them.

    Args:
        operation: New.
        x: [sources, n], every source of the merge.
        width: Elements of a row.
        block: Elements.
        backwards: Measure and apply the last block first; results are handed back in order all the same.
    """
    size = max(1, block // width) * width if operation.by_row and width else block
    everything = [(start, min(start + size, x.shape[1])) for start in range(0, x.shape[1], size)]
    step = -1 if backwards else 1

    def of(start: int, stop: int) -> Block:
        return Block(np.ascontiguousarray(x[list(operation.sources), start:stop]), start)

    while everything and (stage := operation.stage()) is not None:
        wanted = list(everything if stage.ranges is None else stage.ranges)[::step]
        operation.settle(stage, [operation.measure(stage, of(*one)) for one in wanted][::step])
    out = np.full(x.shape[1], np.nan, np.float32)
    for start, stop in everything[::step]:
        operation.apply(of(start, stop), out[start:stop])
    return out


def in_child(work: Callable[[], object]) -> int:
    """Begin this in a copy of the process, which starts at once since everything is loaded; returns its number.

    It ends with exit code 0, or 1 and a traceback on stderr, and never returns into the tests.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def end_of(child: int) -> int:
    """Wait for a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
