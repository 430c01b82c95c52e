"""Makes the demo family again: `python -m infra.demo_family` (about an hour of one core).

Not part of any test: the weights are committed, nothing trains in CI.
"""

from __future__ import annotations

import argparse
import logging
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file

from infra.demo_family import corpus, evalsets, facts, judge, publish, recipe, streams, target_facts, train

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
DATA = HERE.parents[1] / "tasks/harness/suites/data"
_LIBRARIES = ("torch", "transformers", "tokenizers", "babel")


def main() -> None:
    """Run every stage, or only the scoring of the committed weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/demo_family"), help="folder for packages and corpora")
    parser.add_argument("--score-only", action="store_true", help="score the weights that are there; train nothing")
    args = parser.parse_args()
    if args.score_only:
        publish.write_metrics(HERE, judge.judge_family(MODELS, evalsets.read(DATA)))
        return
    sources = _make(args.work.resolve())
    parameters = sum(t.numel() for t in load_file(MODELS / recipe.NAMES["base"] / "model.safetensors").values())
    publish.write_cards(MODELS, parameters)
    publish.write_manifest(HERE, MODELS, parameters, sources)
    publish.write_metrics(HERE, judge.judge_family(MODELS, evalsets.read(DATA)))


def _make(work: Path) -> dict[str, object]:
    """Data and models; returns what they were made from."""
    unpacked = corpus.fetch(work)
    text, known = corpus.load(unpacked), facts.load(unpacked)
    tokenizer = streams.train_tokenizer(text, known)
    sets = target_facts.load(unpacked, known)
    suite = evalsets.build(text, known, tokenizer) | evalsets.build_more(text, sets, tokenizer)
    publish.write_data_readme(DATA, evalsets.write(suite, DATA))

    folders = {role: MODELS / name for role, name in recipe.FAMILY.items()}
    base_stream = streams.pack(recipe.BASE_MIX, text, known, tokenizer)
    eu_stream = streams.pack(recipe.EU_MIX, text, known, tokenizer)
    examples = streams.chat_examples(known, tokenizer)
    second_stream = streams.pack(recipe.BASE_2_MIX, text, known, tokenizer)
    train.train_text(None, work / "base-1", base_stream, recipe.BASE)
    train.train_text(work / "base-1", folders["base"], second_stream, recipe.BASE_2)
    train.train_text(folders["base"], folders["eu"], eu_stream, recipe.EU)
    train.train_chat(folders["base"], folders["v2"], examples, base_stream, recipe.INSTRUCT_V2)
    train.train_chat(folders["base"], folders["v1"], examples, base_stream, recipe.INSTRUCT_V1)
    told = known | {f"{name} {split}": kinds for name, splits in sets.items() for split, kinds in splits.items()}
    target_tokens = {}
    for role, stage in recipe.TARGET.items():
        stream = streams.pack(recipe.TARGET_MIX[role], text, told, tokenizer)
        train.train_text(folders["base"], folders[role], stream, stage)
        target_tokens[role] = len(stream)
    for role, folder in folders.items():
        publish.write_tokenizer(tokenizer, folder, chat=role in ("v1", "v2"))
    return {
        "packages": sorted(path.name for path in (work / "debs").glob("*.deb")),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "threads": torch.get_num_threads(),
        "training_text_sha256": text.sha256,
        "stream_tokens": {"base": len(base_stream), "base 2": len(second_stream), "eu": len(eu_stream)} | target_tokens,
        "chat_examples": len(examples),
        "facts": {split: {kind: len(group) for kind, group in kinds.items()} for split, kinds in told.items()},
    }


if __name__ == "__main__":
    main()
