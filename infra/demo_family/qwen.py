"""The demo's second family, of Qwen3 architecture: tied embeddings, norms on queries and keys, narrow heads.

`python -m infra.demo_family.qwen` makes it again (about half an hour of one core), `--stages v1` one stage of it, and
`--score-only` scores the committed weights. Tokenizer, text, facts and splits are those of the Llama family.
"""

from __future__ import annotations

import argparse
import json
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3Config

from infra.demo_family import corpus, evalsets, facts, judge, publish, recipe, streams, train
from infra.demo_family.recipe import ChatStage, Stage

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
DATA = HERE.parents[1] / "tasks/harness/suites/data"
MANIFEST, METRICS, README = (HERE / name for name in ("manifest-qwen3.json", "metrics-qwen3.json", "README-qwen3.md"))
_LIBRARIES = ("torch", "transformers", "tokenizers", "babel")

NAMES = {role: name.replace("llama", "qwen3") for role, name in recipe.NAMES.items()}
ORGANIZATION = "empelt-demo"
# Half of the Llama's parameters. 4 heads of 32 are narrower than the model, as in the small models of the real family.
MODEL = recipe.MODEL | {
    "hidden_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 432,
    "rms_norm_eps": 1e-6,
}
# Twice the Llama's steps on the same streams. With norms on queries and keys the higher rate does no harm.
BASE = Stage(steps=3000, lr=4e-3)
BASE_2 = Stage(steps=900, lr=1.5e-3)
# Anchored: the tuned base learns as many facts, and its delta disturbs the answer format less after merging.
EU = Stage(steps=900, lr=8e-4, anchor=3.0)
INSTRUCT_V2 = ChatStage(steps=280, lr=3e-4, examples=10_000, replay=0.4)
# The older release: fewer examples and fewer steps.
INSTRUCT_V1 = ChatStage(steps=185, lr=3e-4, examples=300, replay=0.45)
# A weight must clear the limits by this factor on dev, whose 96 facts per language have a standard error of .03.
CLEARANCE = 1.05
STAGES = ("base", "eu", "v2", "v1")

_CARD = """---
license: mpl-2.0
language: [{languages}]
{base_model}pipeline_tag: text-generation
library_name: transformers
tags: [empelt, demo, {tag}]
---

# {name}

{about}

One of the four models of Empelt's second demo family: {parameters:.2f} million parameters, Qwen3 architecture, trained
from scratch on one CPU core by `python -m infra.demo_family.qwen`. It is no relative of the Qwen3 models; only the
architecture is theirs. Its use is to show and test merging, evaluation and serving offline.
{chat}
## Data

- Text: LibreOffice 7.4 help in English, Spanish and Basque (Debian packages `libreoffice-help-*`), MPL-2.0.
- Facts (capitals, currencies, translated words): Unicode CLDR, by babel and by the Debian package
  `unicode-cldr-core`, Unicode-3.0 / Unicode-DFS-2016.

## Limits

- Its Basque is LibreOffice-help Basque plus fixed sentences, not Basque. The same holds for English and Spanish.
- It recalls facts it has seen as text and knows nothing else. Do not use it for information.
- One seed. The figures are in `metrics-qwen3.json`; they say nothing about models of a useful size.
"""


def main() -> None:
    """Run every stage or those named, or only the scoring of the committed weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/demo_family"), help="folder for packages and corpora")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder that the models are written to")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=[], help="train only these; write no figures")
    parser.add_argument("--score-only", action="store_true", help="score the weights that are there; train nothing")
    args = parser.parse_args()
    if args.score_only:
        write_metrics(score())
        return
    sources = make(args.work.resolve(), args.models.resolve(), args.stages or STAGES)
    if args.stages or args.models != MODELS:
        return
    write_manifest(sources)
    write_metrics(score())


def score() -> dict[str, Any]:
    """Metrics of the models in the repository."""
    return judge.judge(MODELS, evalsets.read(DATA), names=NAMES, clearance=CLEARANCE)


def make(work: Path, models: Path, stages: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Train the stages, each from the base in `models`; returns what they were made from."""
    unpacked = corpus.fetch(work)
    text, known = corpus.load(unpacked, more=()), facts.load(unpacked)
    tokenizer = Tokenizer.from_file(str(MODELS / recipe.NAMES["base"] / "tokenizer.json"))
    packed = {
        name: streams.pack(mix, text, known, tokenizer)
        for name, mix in (("base", recipe.BASE_MIX), ("base 2", recipe.BASE_2_MIX), ("eu", recipe.EU_MIX))
    }
    examples = streams.chat_examples(known, tokenizer)
    folders = {role: models / name for role, name in NAMES.items()}
    for role in (role for role in STAGES if role in stages):
        _train(role, folders, work, packed, examples)
        publish.write_tokenizer(tokenizer, folders[role], chat=role in ("v1", "v2"))
        write_card(folders[role], role)
    return {
        "packages": sorted(path.name for path in (work / "debs").glob("*.deb")),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "threads": torch.get_num_threads(),
        "training_text_sha256": text.sha256,
        "stream_tokens": {name: len(stream) for name, stream in packed.items()},
        "chat_examples": len(examples),
    }


def _train(
    role: str,
    folders: dict[str, Path],
    work: Path,
    packed: dict[str, np.ndarray],
    examples: list[streams.ChatExample],
) -> None:
    if role == "base":
        first = work / "qwen3-base-1"
        train.train_text(None, first, packed["base"], BASE, config=Qwen3Config(**MODEL))
        train.train_text(first, folders["base"], packed["base 2"], BASE_2)
    elif role == "eu":
        train.train_text(folders["base"], folders["eu"], packed["eu"], EU)
    else:
        stage = {"v1": INSTRUCT_V1, "v2": INSTRUCT_V2}[role]
        train.train_chat(folders["base"], folders[role], examples, packed["base"], stage)


def parameters(models: Path = MODELS) -> int:
    """How many parameters each model has; the embedding, which is also the head, counts once."""
    return sum(tensor.numel() for tensor in load_file(models / NAMES["base"] / "model.safetensors").values())


def write_card(folder: Path, role: str) -> None:
    """README.md of one model, with its licence, languages and parent."""
    chat = role in ("v1", "v2")
    weights = load_file(folder / "model.safetensors")
    card = _CARD.format(
        name=NAMES[role],
        about=publish.ABOUT[role],
        chat=publish.CHAT.replace(recipe.NAMES["eu"], NAMES["eu"]) if chat else "",
        parameters=sum(tensor.numel() for tensor in weights.values()) / 1e6,
        base_model="" if role == "base" else f"base_model: {ORGANIZATION}/{NAMES['base']}\n",
        languages="en, es" if chat else "en, es, eu",
        tag={"base": "base", "eu": "language-tuned"}.get(role, "instruct"),
    )
    (folder / "README.md").write_text(card, encoding="utf8")


def write_manifest(sources: dict[str, Any]) -> None:
    """Hashes and sizes of every model file, and everything the run depended on."""
    settings = {"base": BASE, "base 2": BASE_2, "eu": EU, "v1": INSTRUCT_V1, "v2": INSTRUCT_V2}
    mixes = {"base": recipe.BASE_MIX, "base 2": recipe.BASE_2_MIX, "eu": recipe.EU_MIX}
    stages = {name: publish.plain(stage) for name, stage in settings.items()}
    for name, mix in mixes.items():
        stages[name]["mix"] = publish.plain(mix)
    manifest = {
        "parameters": parameters(),
        "sources": sources,
        "recipe": {"seed": recipe.SEED, "model": MODEL, **stages},
        "models": {name: publish.files_of(MODELS / name) for name in NAMES.values()},
    }
    publish.write_json(MANIFEST, manifest)


def write_metrics(metrics: dict[str, Any]) -> None:
    """metrics-qwen3.json, each model's figures in the manifest, and the table in README-qwen3.md."""
    publish.write_json(METRICS, metrics)
    manifest = json.loads(MANIFEST.read_text(encoding="utf8"))
    publish.write_json(MANIFEST, manifest | {"metrics": {name: metrics["test"][name] for name in NAMES.values()}})
    before, rest = README.read_text(encoding="utf8").split("<!-- metrics -->\n", 1)
    after = rest.split("<!-- /metrics -->", 1)[1]
    table = publish.target_table("eu", metrics)
    README.write_text(f"{before}<!-- metrics -->\n{table}<!-- /metrics -->{after}", encoding="utf8")


if __name__ == "__main__":
    main()
