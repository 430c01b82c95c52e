"""Pico models for the parity tests: seven architectures, each a base, an instruct model and two tuned bases.

Made from numbers alone (SplitMix64 of a seed and a place), so that the environment of mergekit and ours write the same
bytes; numpy and safetensors only. Each fine-tune is its base plus a delta of its own size, with a part that all deltas
of an architecture share (cosine of two deltas about 0.09). No two elements of one tensor have deltas of the same
magnitude: top-k methods then have no ties to break.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file

VOCAB, HIDDEN, INNER, HEADS, KEY_HEADS, HEAD_DIM, EXPERTS = 64, 32, 48, 4, 2, 8, 4
SPECIAL = {"<|begin|>": 60, "<|turn|>": 61, "<|end|>": 62, "<|spare|>": 63}
TEMPLATE = "{{ bos_token }}{% for m in messages %}<|turn|>{{ m['content'] }}<|end|>{% endfor %}"
BASE_SCALE = 0.08  # uniform in +-0.04
# Root mean square of the delta in parts of the base's. At 8 % the cosine with the base is 0.997: a real arc for slerp;
# at 3 % it is 0.9996, above slerp's threshold of 0.9995.
DELTAS = {"instruct": 0.08, "eu": 0.05, "ca": 0.03}
SHARDS = {"base": 2, "instruct": 3, "eu": 1, "ca": 2}
ROLES = tuple(SHARDS)
HALF = "_half"  # ends the name of a role that is another one's model in bfloat16
HALF_ROLES = tuple(role + HALF for role in ROLES)
SHARED_PART = 0.3

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Architecture:
    """What the tensors of one pico model are called, and its config.json.

    Attributes:
        number: enters the seeds, so that no two architectures share a weight.
        class_name: of ``architectures`` in config.json.
        layers: number of decoder layers.
        tied: whether lm_head.weight is absent.
        biases: q, k and v projections have biases.
        head_norms: q and k have norms per head.
        experts: experts per layer; 0 for a dense MLP.
        extra: tensors that the class of transformers does not own.
        more: further keys of config.json.
    """

    number: int
    class_name: str
    model_type: str
    layers: int = 2
    tied: bool = False
    biases: bool = False
    head_norms: bool = False
    experts: int = 0
    extra: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES = {
    "llama": Architecture(1, "LlamaForCausalLM", "llama", layers=3),
    "qwen2": Architecture(2, "Qwen2ForCausalLM", "qwen2", biases=True),
    "qwen2_tied": Architecture(3, "Qwen2ForCausalLM", "qwen2", biases=True, tied=True),
    "qwen3": Architecture(4, "Qwen3ForCausalLM", "qwen3", head_norms=True),
    "qwen3_tied": Architecture(5, "Qwen3ForCausalLM", "qwen3", head_norms=True, tied=True),
    "mixtral": Architecture(
        6,
        "MixtralForCausalLM",
        "mixtral",
        experts=EXPERTS,
        more={"num_local_experts": EXPERTS, "num_experts_per_tok": 2},
    ),
    # No table of names has this class; a library that asks transformers for the model_type's names misses the extra one.
    "unknown": Architecture(
        7, "PicoForCausalLM", "llama", extra={"model.mtp.layers.0.eh_proj.weight": (HIDDEN, 2 * HIDDEN)}
    ),
}


def wave(shape: tuple[int, ...], seed: int, scale: float) -> NDArray[np.float64]:
    """Uniform numbers in +-scale/2 by SplitMix64 of (seed, place): the same on every machine and version."""
    mixed = np.arange(math.prod(shape), dtype=np.uint64) + (np.uint64(seed) << np.uint64(32))
    for multiplier, shift in ((0x9E3779B97F4A7C15, 30), (0xBF58476D1CE4E5B9, 27), (0x94D049BB133111EB, 31)):
        mixed = mixed * np.uint64(multiplier)
        mixed ^= mixed >> np.uint64(shift)
    uniform = (mixed >> np.uint64(11)).astype(np.float64) / 2**53
    return scale * (uniform - 0.5).reshape(shape)


def shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors, as in a checkpoint of the Hub."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(architecture.layers):
        prefix = f"model.layers.{layer}."
        rows = {"q_proj": HEADS * HEAD_DIM, "k_proj": KEY_HEADS * HEAD_DIM, "v_proj": KEY_HEADS * HEAD_DIM}
        for name, out in rows.items():
            found[f"{prefix}self_attn.{name}.weight"] = (out, HIDDEN)
            if architecture.biases:
                found[f"{prefix}self_attn.{name}.bias"] = (out,)
        found[prefix + "self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        if architecture.head_norms:
            found |= {f"{prefix}self_attn.{name}_norm.weight": (HEAD_DIM,) for name in "qk"}
        found |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
        if not architecture.experts:
            found |= {f"{prefix}mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
            found[prefix + "mlp.down_proj.weight"] = (HIDDEN, INNER)
            continue
        found[prefix + "block_sparse_moe.gate.weight"] = (architecture.experts, HIDDEN)
        for expert in range(architecture.experts):
            own = f"{prefix}block_sparse_moe.experts.{expert}."
            found |= {own + "w1.weight": (INNER, HIDDEN), own + "w2.weight": (HIDDEN, INNER)}
            found[own + "w3.weight"] = (INNER, HIDDEN)
    found["model.norm.weight"] = (HIDDEN,)
    if not architecture.tied:
        found["lm_head.weight"] = (VOCAB, HIDDEN)
    return found | dict(architecture.extra)


def _tuned(base: NDArray[np.float32], seed: int, shared_seed: int, size: float) -> NDArray[np.float32]:
    """Base + delta with magnitudes that all differ; of several draws the first that has no two alike."""
    shared = wave(base.shape, shared_seed, BASE_SCALE * size)
    for attempt in range(64):
        own = wave(base.shape, seed + 500_000 * attempt, BASE_SCALE * size)
        tuned = (base + SHARED_PART * shared + math.sqrt(1 - SHARED_PART**2) * own).astype(np.float32)
        if np.unique(np.abs(tuned - base)).size == base.size:
            return tuned
    raise RuntimeError(f"64 draws of a delta of shape {base.shape} all had two equal magnitudes")


def weights(architecture: Architecture, role: str) -> Weights:
    """All tensors of one model, float32; those of a half role are the full role's rounded to bfloat16."""
    if role.endswith(HALF):
        full = weights(architecture, role.removesuffix(HALF))
        return {name: from_bfloat16(to_bfloat16(tensor)) for name, tensor in full.items()}
    found = {}
    for place, (name, shape) in enumerate(shapes(architecture).items()):
        seed = architecture.number * 10_000 + place
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        tensor = (centre + wave(shape, seed, BASE_SCALE)).astype(np.float32)
        if role != "base":
            own = list(DELTAS).index(role) + 1
            tensor = _tuned(tensor, seed + own * 1_000, seed + 9_000, DELTAS[role])
        found[name] = tensor
    return found


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves of float32, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Exactly, as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def config(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """A config.json that transformers accepts."""
    return {
        "architectures": [architecture.class_name], "model_type": architecture.model_type, "vocab_size": VOCAB,
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": architecture.layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": HEAD_DIM, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 64, "bos_token_id": 60,
        "eos_token_id": 62, "tie_word_embeddings": architecture.tied, "torch_dtype": dtype, **architecture.more,
    }  # fmt: skip


def write_model(folder: Path, architecture: Architecture, role: str) -> Path:
    """Write one checkpoint folder; the instruct model alone has a chat template and a generation config."""
    folder.mkdir(parents=True)
    half = role.endswith(HALF)
    texts = {
        "config.json": config(architecture, "bfloat16" if half else "float32"),
        "tokenizer.json": {
            "version": "1.0",
            "model": {"type": "BPE", "vocab": {f"w{i}": i for i in range(VOCAB - len(SPECIAL))}, "merges": []},
            "added_tokens": [
                {
                    "id": number, "content": token, "special": True, "normalized": False,
                    "single_word": False, "lstrip": False, "rstrip": False,
                }
                for token, number in SPECIAL.items()
            ],
        },
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>"},
    }  # fmt: skip
    if role.removesuffix(HALF) == "instruct":
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        texts["generation_config.json"] = {"bos_token_id": 60, "eos_token_id": [62], "do_sample": True}
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    _write_tensors(folder, weights(architecture, role), SHARDS[role.removesuffix(HALF)], half=half)
    return folder


def _write_tensors(folder: Path, tensors: Weights, shards: int, *, half: bool) -> None:
    stored = {name: to_bfloat16(tensor) if half else tensor for name, tensor in tensors.items()}
    entries = {
        name: TensorSpec(
            dtype="bfloat16" if half else "float32",
            shape=tensor.shape,
            data_ptr=tensor.ctypes.data,
            data_len=tensor.nbytes,
        )
        for name, tensor in stored.items()
    }
    if shards == 1:
        serialize_file(entries, folder / "model.safetensors", {"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: entries[name] for name in list(entries)[number::shards]}
        serialize_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in stored.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def write_family(root: Path, name: str) -> dict[str, Path]:
    """Write the models of one architecture: float32, and for Llama the same in bfloat16.

    Args:
        root: an existing folder; the models go to ``root/<name>/<role>``.
        name: key of ``ARCHITECTURES``.

    Returns:
        The folder of each role.
    """
    roles = (*ROLES, *HALF_ROLES) if name == "llama" else ROLES
    return {role: write_model(root / name / role, ARCHITECTURES[name], role) for role in roles}
