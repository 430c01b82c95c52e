"""Tiny checkpoints of Llama's form, deterministic without a random generator, and the merge that the engine must equal.

They are written with the safetensors library and not with our writer: the two check each other.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tasks.engine import schedule
from tasks.engine.merge import TunedPaths
from tasks.engine.recipe import Recipe
from tests.engine.folders import BLOCK_ELEMENTS, scratch
from tests.engine.refusals import Place

VOCAB, HIDDEN, INNER, LAYERS = 40, 16, 24, 2
TEMPLATE = "{{ bos_token }}<|turn|>{{ messages }}<|end|>"
SPECIAL = {"<|begin|>": 36, "<|turn|>": 37, "<|end|>": 38, "<|spare|>": 39}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "BLOCK_ELEMENTS", BLOCK_ELEMENTS)
        yield


def wave(shape: tuple[int, ...], seed: int, scale: float = 0.02) -> Tensor:
    """Uniform numbers by SplitMix64 of (seed, place): the same on every machine and version, unrelated across seeds."""
    mixed = np.arange(math.prod(shape), dtype=np.uint64) + (np.uint64(seed) << np.uint64(32))
    for multiplier, shift in ((0x9E3779B97F4A7C15, 30), (0xBF58476D1CE4E5B9, 27), (0x94D049BB133111EB, 31)):
        mixed = mixed * np.uint64(multiplier)
        mixed ^= mixed >> np.uint64(shift)
    uniform = (mixed >> np.uint64(11)).astype(np.float64) / 2**53
    return torch.from_numpy(scale * (uniform - 0.5)).reshape(shape).float()


def shapes(*, tied: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama with grouped heads."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        found |= {
            prefix + "input_layernorm.weight": (HIDDEN,),
            prefix + "post_attention_layernorm.weight": (HIDDEN,),
            prefix + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            prefix + "self_attn.k_proj.weight": (HIDDEN // 2, HIDDEN),
            prefix + "self_attn.v_proj.weight": (HIDDEN // 2, HIDDEN),
            prefix + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            prefix + "mlp.gate_proj.weight": (INNER, HIDDEN),
            prefix + "mlp.up_proj.weight": (INNER, HIDDEN),
            prefix + "mlp.down_proj.weight": (HIDDEN, INNER),
        }
    return found if tied else found | {"lm_head.weight": (VOCAB, HIDDEN)}


def model(seed: int, *, tied: bool = True, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Weights of one model: those of seed 0 plus a delta of 5 %."""
    return {
        name: (wave(shape, number) + (wave(shape, 1000 * seed + number, 0.001) if seed else 0)).to(dtype)
        for number, (name, shape) in enumerate(shapes(tied=tied).items())
    }


def vocabulary() -> dict[str, int]:
    return {f"w{number}": number for number in range(VOCAB - len(SPECIAL))}


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
    vocab: Mapping[str, int] | None = None,
    template: str | None = None,
) -> Path:
    """Write a checkpoint folder as a lab would."""
    folder.mkdir(parents=True)
    settings = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "vocab_size": VOCAB, "rope_theta": 10000.0, "max_position_embeddings": 64,
        "tie_word_embeddings": "lm_head.weight" not in tensors, "torch_dtype": "bfloat16", "bos_token_id": 36,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**settings, **(config or {})}))
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "model": {"type": "BPE", "vocab": dict(vocab or vocabulary()), "merges": []},
                "added_tokens": [{"id": i, "content": token, "special": True} for token, i in SPECIAL.items()],
            }
        )
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin|>", "eos_token": "<|end|>"}))
    (folder / "README.md").write_text("a card that must not be copied")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
        (folder / "generation_config.json").write_text('{"eos_token_id": [38]}')
    names = sorted(tensors)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number::shards]
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


class Family:
    """A base, an instruct model and tuned bases in folders, and the arguments of a merge of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.base = root / "base"
        self.instruct = root / "instruct"
        self.tuned: dict[str, TunedPaths] = {}
        self.out = root / "out"

    @property
    def inputs(self) -> dict[str, Any]:
        return {"base": self.base, "instruct": self.instruct, "tuned": self.tuned}

    def config(self, recipe: Mapping[str, Any], **more: Any) -> Path:
        """The same as a file for ``python -m tasks.engine``."""
        path = self.root / "merge.json"
        tuned = {
            language: {"path": str(paths.path), "parent": None if paths.parent is None else str(paths.parent)}
            for language, paths in self.tuned.items()
        }
        content = {"recipe": recipe, "base": str(self.base), "instruct": str(self.instruct), "tuned": tuned, **more}
        path.write_text(json.dumps(content))
        return path

    def leftovers(self) -> list[str]:
        """Whatever a refused merge should not have left."""
        return sorted(path.name for path in self.root.iterdir() if path.name.startswith((".out", "out")))


@pytest.fixture
def make_family(tmp_path: Path) -> Callable[..., Family]:
    def make(
        *, tied: bool = True, shards: int = 1, languages: tuple[str, ...] = ("eu",), dtype: torch.dtype = torch.bfloat16
    ) -> Family:
        family = Family(tmp_path)
        write_checkpoint(family.base, model(0, tied=tied, dtype=dtype), shards=shards)
        write_checkpoint(family.instruct, model(1, tied=tied, dtype=dtype), shards=shards, template=TEMPLATE)
        for number, language in enumerate(languages, start=2):
            folder = write_checkpoint(tmp_path / language, model(number, tied=tied, dtype=dtype), shards=shards)
            family.tuned[language] = TunedPaths(folder)
        return family

    return make


@pytest.fixture
def family(make_family: Callable[..., Family]) -> Family:
    return make_family()


@pytest.fixture
def checkpoint_writer() -> Callable[..., Path]:
    return write_checkpoint


@pytest.fixture
def make_model() -> Callable[..., dict[str, Tensor]]:
    return model


@pytest.fixture
def oracle() -> Callable[..., dict[str, Tensor]]:
    """The formula, in memory, in float64, written as the design does."""

    def merged(recipe: Recipe, base: Any, instruct: Any, tuned: dict[str, tuple[Any, Any]]) -> dict[str, Tensor]:
        a, b = recipe.coefficients(list(tuned))
        found = {}
        for name, theta in base.items():
            total = theta.double() + a * (instruct[name].double() - theta.double())
            for language, (own, parent) in tuned.items():
                total += b[language] * (own[name].double() - parent[name].double())
            found[name] = total
        return found

    return merged


@pytest.fixture
def load() -> Callable[[Path], dict[str, Tensor]]:
    """All tensors of a folder, through the safetensors library."""
    from safetensors.torch import load_file

    def loaded(folder: Path) -> dict[str, Tensor]:
        return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}

    return loaded


@pytest.fixture
def root():
    """A folder in memory, gone afterwards."""
    with scratch() as folder:
        yield folder


@pytest.fixture
def place(root):
    """Three models there, a merge of them, and what it may not leave behind."""
    return Place(root)
