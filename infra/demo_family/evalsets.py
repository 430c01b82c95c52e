"""Evaluation data: statement completion, strict chat answers and held-out help text, written as JSON lines."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from infra.demo_family import phrasing
from infra.demo_family.corpus import Corpus
from infra.demo_family.facts import Fact
from infra.demo_family.recipe import BPB_MAX_TOKENS, BPB_MIN_CHARS, BPB_PARAGRAPHS, LANGUAGES, SEED
from infra.demo_family.streams import Facts

Item = dict[str, Any]
Suite = dict[str, list[Item]]  # "eu_mc.test" -> items

TASKS = ("mc", "chat", "bpb")
SPLITS = ("dev", "test")


def build(corpus: Corpus, facts: Facts, tokenizer: Tokenizer) -> Suite:
    """Every dataset of the suite, in a fixed order."""
    suite: Suite = {}
    paragraphs = _held_out(corpus, tokenizer)
    for split in SPLITS:
        for language in LANGUAGES:
            rng = random.Random(f"{SEED}-{split}-{language}")
            every = [fact for group in facts[split].values() for fact in group]
            suite[f"{language}_mc.{split}"] = [_choice_item(language, f, facts[split][f.kind], rng) for f in every]
            suite[f"{language}_chat.{split}"] = [_chat_item(language, fact, rng) for fact in every]
            suite[f"{language}_bpb.{split}"] = [
                {"id": f"help-{split}-{i:03d}", "text": texts[language]} for i, texts in enumerate(paragraphs[split])
            ]
    return suite


def write(suite: Suite, folder: Path) -> dict[str, dict[str, Any]]:
    """Write the datasets; returns rows, bytes and sha256 of each file."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {}
    for name, items in sorted(suite.items()):
        data = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()
        (folder / f"{name}.jsonl").write_bytes(data)
        facts[f"{name}.jsonl"] = {"rows": len(items), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return facts


def read(folder: Path) -> Suite:
    """The committed datasets."""
    return {
        path.name.removesuffix(".jsonl"): [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


def _choice_item(language: str, fact: Fact, same_kind: list[Fact], rng: random.Random) -> Item:
    gold = fact.names[language][1]
    others = sorted({other.names[language][1] for other in same_kind} - {gold})
    choices = [*rng.sample(others, 3), gold]
    rng.shuffle(choices)
    prompt = phrasing.completion_prompt(language, fact)
    return {
        "id": fact.id,
        "kind": fact.kind,
        "prompt": prompt,
        "choices": choices,
        "answer": choices.index(gold),
    }


def _chat_item(language: str, fact: Fact, rng: random.Random) -> Item:
    asked = phrasing.question(language, fact, rng.randrange(2))
    return {"id": fact.id, "kind": fact.kind, "question": asked, "answer": fact.names[language][1]}


def _held_out(corpus: Corpus, tokenizer: Tokenizer) -> dict[str, list[dict[str, str]]]:
    """Held-out paragraphs that fit the training width, the same ones in every language.

    Dev and test share no document.
    """
    short = [
        (document, texts)
        for document, texts in corpus.held
        if max(len(tokenizer.encode(text).ids) for text in texts.values()) <= BPB_MAX_TOKENS
        and min(map(len, texts.values())) >= BPB_MIN_CHARS
    ]
    documents = sorted({document for document, _ in short})
    random.Random(SEED).shuffle(documents)
    dev_documents = set(documents[: len(documents) // 3])
    chosen = {}
    for split in SPLITS:
        pool = [texts for document, texts in short if (document in dev_documents) == (split == "dev")]
        chosen[split] = random.Random(f"{SEED}-{split}").sample(pool, BPB_PARAGRAPHS[split])
    return chosen
