"""Releases that must not be served, derived from the committed models: foreign, chatting badly, healthy but weaker.

Nothing is trained and every seed is fixed: the same bytes come out every time. A release is written as a laboratory
would push it, with config, tokenizer, chat template, card and weights, into a folder that carries its name.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from infra.demo_family.recipe import EOT_ID, FAMILY, IM_END_ID, MODEL

MODELS = Path(__file__).resolve().parent / "models"
KEPT_OF_V2 = 0.45
"""How much of v2's training the badly chatting release has: the answer format is not there yet, all else is sound."""

_WEIGHTS = "model.safetensors"
_CARD = """---
license: mpl-2.0
language: [en, es]
base_model: empelt-demo/llama-tiny
pipeline_tag: text-generation
library_name: transformers
tags: [empelt, demo, instruct]
---

# {name}

{about} Made by `infra/demo_family/releases.py` to show what happens to such a release; not for any other use.

Data and licences are those of the models that it was derived from: LibreOffice help, MPL-2.0, and Unicode CLDR,
Unicode-3.0 / Unicode-DFS-2016.
"""


def foreign_architecture(out: Path) -> Path:
    """A GPT-2 with the family's tokenizer: its tensors cannot be added to a Llama's, whatever its name says."""
    _copy_without_weights("v2", out, "A GPT-2 of its own, not a relative of the base that its card names; untrained.")
    width, layers = 64, 2
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": MODEL["vocab_size"],
        "n_positions": MODEL["max_position_embeddings"],
        "n_embd": width,
        "n_layer": layers,
        "n_head": 4,
        "bos_token_id": EOT_ID,
        "eos_token_id": [IM_END_ID, EOT_ID],
        "pad_token_id": EOT_ID,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")
    shapes = {"wte.weight": (MODEL["vocab_size"], width), "wpe.weight": (MODEL["max_position_embeddings"], width)}
    for layer in range(layers):
        for part, inner in (("attn.c_attn", 3 * width), ("mlp.c_fc", 4 * width)):
            shapes |= {f"h.{layer}.{part}.weight": (width, inner), f"h.{layer}.{part}.bias": (inner,)}
        for part, inner in (("attn.c_proj", width), ("mlp.c_proj", 4 * width)):
            shapes |= {f"h.{layer}.{part}.weight": (inner, width), f"h.{layer}.{part}.bias": (width,)}
        for part in ("ln_1", "ln_2"):
            shapes |= {f"h.{layer}.{part}.weight": (width,), f"h.{layer}.{part}.bias": (width,)}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    seed = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        scale, norm = (0.02, False) if len(shape) == 2 else (0.0, name.endswith("weight"))
        tensors[f"transformer.{name}"] = torch.ones(shape) if norm else scale * torch.randn(shape, generator=seed)
    _write(out / _WEIGHTS, tensors)
    return out


def bad_chat(out: Path) -> Path:
    """Like an early checkpoint of v2, interpolated: right shapes, finite, near its base, no grip on the answer format.

    Only asking it questions shows what is wrong.
    """
    _copy_without_weights("v2", out, "The second instruct branch with less than half of its training (interpolated).")
    base, v2 = _read("base"), _read("v2")
    tensors = {}
    for name, origin in base.items():
        start = origin.float()
        tensors[name] = (start + KEPT_OF_V2 * (v2[name].float() - start)).to(torch.bfloat16)
    _write(out / _WEIGHTS, tensors)
    return out


def weaker(out: Path) -> Path:
    """v1 once more, under a new name and in two files: a healthy release that has nothing on v2."""
    _copy_without_weights("v1", out, "The first instruct branch, released again.")
    tensors = _read("v1")
    names = sorted(tensors)
    half = len(names) // 2
    where: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        _write(out / file, {name: tensors[name] for name in part})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": where}
    (out / f"{_WEIGHTS}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf8")
    return out


def _copy_without_weights(role: str, out: Path, about: str) -> None:
    """Everything but the weights of a committed model, with a card of its own."""
    out.mkdir(parents=True, exist_ok=True)
    for source in sorted((MODELS / FAMILY[role]).iterdir()):
        if source.name != _WEIGHTS:
            shutil.copyfile(source, out / source.name)
    (out / "README.md").write_text(_CARD.format(name=out.name, about=about), encoding="utf8")


def _read(role: str) -> dict[str, torch.Tensor]:
    return load_file(MODELS / FAMILY[role] / _WEIGHTS)


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


RELEASES: dict[str, Callable[[Path], Path]] = {
    "foreign_architecture": foreign_architecture,
    "bad_chat": bad_chat,
    "weaker": weaker,
}


def main() -> None:
    """Write one release: `python -m infra.demo_family.releases bad_chat FOLDER`, without torch in the caller."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("release", choices=sorted(RELEASES))
    parser.add_argument("out", type=Path, help="folder to write; its last part is the name on the card")
    args = parser.parse_args()
    RELEASES[args.release](args.out)


if __name__ == "__main__":
    main()
