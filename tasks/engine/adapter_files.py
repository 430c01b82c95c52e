"""An adapter on disk: PEFT's format for LoRA, as vLLM and peft read it.

``adapter_config.json`` says rank and modules, ``adapter_model.safetensors`` has two factors for each module. A
module's weight is changed by ``lora_B @ lora_A * lora_alpha / r``; here alpha is r, so by the product itself. For
embeddings PEFT turns both factors round: ``(lora_embedding_B @ lora_embedding_A).T``.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint
from .header import ITEM_BYTES
from .layout import Placed, ShardLayout, natural_order, shard_layout
from .low_rank import Factors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 takes as ``--max-lora-rank``. An adapter of another rank is served under the next larger one."""

_LINEAR = re.compile(r"\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.weight$")
"""The projections of a dense decoder layer, by the names of Llama, Qwen, Mistral, Gemma and their like."""
_EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_WITH_EMBEDDINGS = frozenset({"LlamaForCausalLM", "Qwen3ForCausalLM"})
"""Architectures to which vLLM 0.32 can add an adapter of embeddings and head (`embedding_modules` of its classes, read
there; run with Llama). It refuses to load one for others."""


class Module(NamedTuple):
    """A module of the model that one tensor's change goes to."""

    name: str
    """``model.layers.0.self_attn.q_proj``."""
    embedding: bool = False

    @property
    def keys(self) -> tuple[str, str]:
        """Names of the tensor that goes in and of the one that comes out of the narrow middle."""
        ends = ("lora_embedding_A", "lora_embedding_B") if self.embedding else ("lora_A.weight", "lora_B.weight")
        return f"base_model.model.{self.name}.{ends[0]}", f"base_model.model.{self.name}.{ends[1]}"

    def matrices(self, factors: Factors) -> dict[str, NDArray[np.float64]]:
        """The two tensors by name."""
        first, second = self.keys
        if self.embedding:
            return {first: np.ascontiguousarray(factors.up.T), second: np.ascontiguousarray(factors.down.T)}
        return {first: factors.down, second: factors.up}

    def shapes(self, shape: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the two tensors for a weight of this shape."""
        first, second = self.keys
        rows, columns = shape
        if self.embedding:
            return {first: (rank, rows), second: (columns, rank)}
        return {first: (rank, columns), second: (rows, rank)}


Carried = Literal["layers", "input", "all"]
"""``layers``: the projections. ``input``: and the embeddings of what goes in. ``all``: and the output layer, which is
not served: two requests for log-probabilities of their prompts in one batch end vLLM's engine (0.32, on a CPU)."""


def modules_of(name: str, instruct: Checkpoint, *, carried: Carried) -> tuple[tuple[Module, ...], str]:
    """Where a tensor's change goes in an adapter, or no module and the reason.

    Tied embeddings go to two modules: vLLM adds one to what goes in and one to what comes out apart from each other.

    Args:
        name: Of the tensor.
        instruct: The model that the adapter is for.
        carried: What is wanted beside the projections.
    """
    shape = instruct.tensors[name].shape
    if len(shape) != 2:
        return (), "no matrix"
    module = name.removesuffix(".weight")
    if _LINEAR.search(name):
        return (Module(module),), ""
    if name not in (_EMBEDDINGS, HEAD):
        return (), "no module that an adapter is served for"
    if carried == "layers" or (name == HEAD and carried != "all"):
        return (), "left out as asked"
    architecture = ", ".join(map(str, instruct.config.get("architectures") or ["unknown"]))
    if architecture not in _WITH_EMBEDDINGS:
        return (), f"vLLM serves no adapter of it for {architecture}"
    if name == HEAD:
        return (Module(module),), ""
    head = carried == "all" and is_tied(name, instruct)
    return (Module(module, embedding=True), *([Module("lm_head")] if head else [])), ""


def is_tied(name: str, instruct: Checkpoint) -> bool:
    """Whether a tensor is the embeddings of a model whose output layer they are too."""
    return name == _EMBEDDINGS and bool(instruct.config.get("tie_word_embeddings")) and HEAD not in instruct.tensors


def weights_layout(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> ShardLayout:
    """Header and order of the weight file; one file, whatever its size, since PEFT and vLLM look for this one."""
    placed = []
    for name in sorted(shapes, key=lambda name: (natural_order(name), name)):
        elements = int(np.prod(shapes[name], dtype=np.int64))
        placed.append(Placed(name, shapes[name], dtype, elements * ITEM_BYTES[dtype]))
    return shard_layout(WEIGHTS, placed)


def config_json(modules: list[Module], rank: int, base_name: str = "") -> bytes:
    """``adapter_config.json``. Without a name for its base: what an adapter belongs to is for its lineage to say."""
    content: dict[str, Any] = {
        "base_model_name_or_path": base_name or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({module.name.rsplit(".", 1)[-1] for module in modules}),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def served_rank(rank: int) -> int | None:
    """The ``--max-lora-rank`` under which an adapter of this rank is served; None where there is none so large."""
    return next((served for served in RANKS if served >= rank), None)
