"""Three bf16 models of Llama-3.2-1B's shape for benches: a base and two children of it, sharded, with made-up weights."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tasks.engine.kernels.widths import narrow_bf16

HIDDEN, INNER, KEYS, LAYERS, VOCAB = 2048, 8192, 512, 16, 128_256
SHARDS = 3
_TILE = 1 << 22
"""Elements of random numbers that are repeated: drawing 1.2 G of them would take longer than the bench."""


def shapes(part: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes at 1 / part of the layers and of the vocabulary."""
    found = {"model.embed_tokens.weight": (VOCAB // part, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS // part):
        prefix = f"model.layers.{layer}."
        found |= {
            prefix + "input_layernorm.weight": (HIDDEN,),
            prefix + "post_attention_layernorm.weight": (HIDDEN,),
            prefix + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            prefix + "self_attn.k_proj.weight": (KEYS, HIDDEN),
            prefix + "self_attn.v_proj.weight": (KEYS, HIDDEN),
            prefix + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            prefix + "mlp.gate_proj.weight": (INNER, HIDDEN),
            prefix + "mlp.up_proj.weight": (INNER, HIDDEN),
            prefix + "mlp.down_proj.weight": (HIDDEN, INNER),
        }
    return found


def write_model(folder: Path, child: int, part: int) -> Path:
    """Child 0 is the base; the others are the base plus a delta of 5 % of its length."""
    random = np.random.default_rng(0)
    base, delta = random.standard_normal(_TILE, np.float32) * 0.02, np.zeros(_TILE, np.float32)
    if child:
        delta = np.random.default_rng(child).standard_normal(_TILE, np.float32) * 0.001
    stored = np.empty(_TILE, np.uint16)
    narrow_bf16(base + delta, stored)
    folder.mkdir(parents=True)
    _write_beside(folder, child, part)
    names = list(shapes(part))
    weight_map = {}
    for number in range(SHARDS):
        file, own = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors", names[number::SHARDS]
        _save({name: _tensor(stored, shapes(part)[name], names.index(name)) for name in own}, folder / file)
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _tensor(stored: NDArray[np.uint16], shape: tuple[int, ...], number: int) -> NDArray[np.uint16]:
    size = int(np.prod(shape))
    shifted = np.roll(stored, 7919 * number)
    return np.tile(shifted, size // _TILE + 1)[:size].reshape(shape)


def _save(tensors: dict[str, NDArray[np.uint16]], path: Path) -> None:
    """The library knows no bfloat16 of numpy: written as uint16, and renamed in the header, which keeps its length."""
    save_file(tensors, path, metadata={"format": "pt"})
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length).replace(b'"U16"', b'"BF16"').rstrip()
        grown = header.ljust(length)
        if len(grown) != length:  # the padding was too short for the longer name
            data = file.read()
            padded = header + b" " * (-len(header) % 8)
            file.seek(0)
            file.write(len(padded).to_bytes(8, "little") + padded + data)
            return
        file.seek(8)
        file.write(grown)


def _write_beside(folder: Path, child: int, part: int) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS // part, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "vocab_size": VOCAB // part, "rope_theta": 500000.0,
        "max_position_embeddings": 131072, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 0,
        "eos_token_id": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {f"t{number}": number for number in range(VOCAB // part)}
    added = [{"id": 0, "content": "t0", "special": True}]
    tokenizer = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if child == 1:
        (folder / "chat_template.jinja").write_text("t0{{ messages }}")
