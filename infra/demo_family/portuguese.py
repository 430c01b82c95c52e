"""A fifth tuned base, made on the spot: `make(folder)` trains pt_llama-tiny from committed files in about two minutes.

It needs neither Debian packages nor the weights of another tuned base: the base, and the evaluation data, from which
the facts are read back. So it shows what happens when somebody brings a language that the family does not have. It has
far less text than the committed tuned bases (the dev paragraphs), so its Portuguese is facts and little else.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from tokenizers import Tokenizer

from infra.demo_family import evalsets, phrasing, publish, recipe, streams, train
from infra.demo_family.corpus import Corpus
from infra.demo_family.facts import Fact
from infra.demo_family.streams import Facts

STEPS = 400
_HERE = Path(__file__).resolve().parent
DATA = _HERE.parents[1] / "tasks/harness/suites/data"
_BASE = _HERE / "models" / recipe.NAMES["base"]
_MIX = recipe.TextMix(
    text_tokens={"pt": 30_000, "en": 5_000, "es": 5_000},
    exposures={
        (language, f"{language} {split}"): lines
        for language, lines in (("pt", 26), ("en", 6), ("es", 6))
        for split in evalsets.SPLITS
    },
    question_share=0.85,
    seed=7,
)
_STAGE = recipe.Stage(steps=STEPS, lr=1e-3, rows=5, anchor=4.0, embeddings=0.2)


def make(out: Path, steps: int = STEPS) -> Path:
    """Train the tuned base into `out`, with tokenizer and card, ready to be pushed. One thread, fixed seed."""
    suite = evalsets.read(DATA)
    tokenizer = Tokenizer.from_file(str(_BASE / "tokenizer.json"))
    languages = ("pt", "en", "es")
    text = {language: [item["text"] for item in suite[f"{language}_bpb.dev"]] for language in languages}
    stream = streams.pack(_MIX, Corpus(text, [], ""), facts_of(suite, languages), tokenizer)
    train.train_text(_BASE, out, stream, replace(_STAGE, steps=steps))
    publish.write_tokenizer(tokenizer, out, chat=False)
    parameters = sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values())
    publish.write_card(out, "pt", out.name, parameters)
    return out


def facts_of(suite: evalsets.Suite, languages: tuple[str, ...]) -> Facts:
    """The facts of the multiple-choice items, by "language split" and kind."""
    facts: Facts = {f"{language} {split}": {} for language in languages for split in evalsets.SPLITS}
    for name, kinds in facts.items():
        language, split = name.split()
        for item in suite[f"{language}_mc.{split}"]:
            subject = phrasing.subject(language, item["kind"], item["prompt"])
            fact = Fact(item["id"], item["kind"], {language: (subject, item["choices"][item["answer"]])})
            kinds.setdefault(fact.kind, []).append(fact)
    return facts


def main() -> None:
    """Make the tuned base from the command line: `python -m infra.demo_family.portuguese FOLDER`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    make(args.out, args.steps)


if __name__ == "__main__":
    main()
