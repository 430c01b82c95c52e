"""Evaluation data: statement completion, strict chat answers, held-out help text and its beginnings, as JSON lines."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from infra.demo_family import phrasing
from infra.demo_family.corpus import Corpus, mostly_english
from infra.demo_family.facts import Fact
from infra.demo_family.recipe import (
    BPB_MAX_TOKENS,
    BPB_MIN_CHARS,
    BPB_PARAGRAPHS,
    LANGUAGES,
    PROMPT_MAX_CHARS,
    PROMPT_MIN_CHARS,
    SEED,
    TEXT_PROMPTS,
)
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


def build_more(corpus: Corpus, sets: dict[str, Facts], tokenizer: Tokenizer) -> Suite:
    """Facts of the further sets ("es_more_mc.test"), help text of the further languages, beginnings of text in all."""
    suite: Suite = {}
    dev_documents = _dev_documents(_short_enough(corpus, tokenizer))
    paragraphs = _held_out(corpus, tokenizer)
    for split in SPLITS:
        for name, facts in sets.items():
            language, rng = name.split("_")[0], random.Random(f"{SEED}-{split}-{name}")
            every = [fact for group in facts[split].values() for fact in group]
            suite[f"{name}_mc.{split}"] = [_choice_item(language, f, facts[split][f.kind], rng) for f in every]
            suite[f"{name}_chat.{split}"] = [_chat_item(language, fact, rng) for fact in every]
        for language, held in corpus.held_more.items():
            ids = {texts["en"]: f"help-{split}-{i:03d}" for i, texts in enumerate(paragraphs[split])}
            pool = [(en, text) for document, en, text in held if (document in dev_documents) == (split == "dev")]
            suite[f"{language}_bpb.{split}"] = _further_paragraphs(pool, ids, split, tokenizer)
        for language, held_texts in _held_texts(corpus).items():
            texts = [text for document, text in held_texts if (document in dev_documents) == (split == "dev")]
            suite[f"{language}_text.{split}"] = _beginnings(language, texts, split)
    return suite


def _further_paragraphs(
    pool: list[tuple[str, str]], ids: dict[str, str], split: str, tokenizer: Tokenizer
) -> list[Item]:
    """Translations of the paragraphs that the other languages have, under the same id, then others up to the number."""
    fits = [
        (english, text)
        for english, text in pool
        if len(text) >= BPB_MIN_CHARS and len(tokenizer.encode(text).ids) <= BPB_MAX_TOKENS
    ]
    items = {ids[english]: text for english, text in fits if english in ids}
    others = [text for english, text in fits if english not in ids]
    missing = BPB_PARAGRAPHS[split] - len(items)
    extra = random.Random(f"{SEED}-{split}").sample(others, missing)
    same = [{"id": identity, "text": items[identity]} for identity in sorted(items)]
    return same + [{"id": f"help-{split}-{len(ids) + i:03d}", "text": text} for i, text in enumerate(extra)]


def _held_texts(corpus: Corpus) -> dict[str, list[tuple[str, str]]]:
    """{language: (document, held-out paragraph)}, those of the further languages as well."""
    texts = {lang: [(document, texts[lang]) for document, texts in corpus.held] for lang in LANGUAGES}
    return texts | {lang: [(document, text) for document, _, text in held] for lang, held in corpus.held_more.items()}


def _beginnings(language: str, texts: list[str], split: str) -> list[Item]:
    """The first half of running text, cut after a word: what a model goes on from."""
    prompts: dict[str, None] = {}
    for text in texts:
        half = text[: max(len(text) // 2, PROMPT_MIN_CHARS)]
        cut = text[: len(half) + len(text[len(half) :].split(" ")[0])]
        if PROMPT_MIN_CHARS <= len(cut) <= PROMPT_MAX_CHARS and len(text) > len(cut) + 20 and _is_prose(text, language):
            prompts[cut] = None
    chosen = random.Random(f"{SEED}-{split}").sample(list(prompts), TEXT_PROMPTS[split])
    return [{"id": f"text-{split}-{i:03d}", "prompt": prompt, "language": language} for i, prompt in enumerate(chosen)]


def _is_prose(text: str, language: str) -> bool:
    """In the language, and not a formula, a table of codes or a list of commands: nearly all letters and spaces."""
    letters = sum(char.isalpha() or char.isspace() for char in text) / len(text)
    return letters >= 0.93 and not set(text) & set("{}=<>$;_") and mostly_english(text) == (language == "en")


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
    short = _short_enough(corpus, tokenizer)
    dev_documents = _dev_documents(short)
    chosen = {}
    for split in SPLITS:
        pool = [texts for document, texts in short if (document in dev_documents) == (split == "dev")]
        chosen[split] = random.Random(f"{SEED}-{split}").sample(pool, BPB_PARAGRAPHS[split])
    return chosen


def _short_enough(corpus: Corpus, tokenizer: Tokenizer) -> list[tuple[str, dict[str, str]]]:
    return [
        (document, texts)
        for document, texts in corpus.held
        if max(len(tokenizer.encode(text).ids) for text in texts.values()) <= BPB_MAX_TOKENS
        and min(map(len, texts.values())) >= BPB_MIN_CHARS
    ]


def _dev_documents(short: list[tuple[str, dict[str, str]]]) -> set[str]:
    documents = sorted({document for document, _ in short})
    random.Random(SEED).shuffle(documents)
    return set(documents[: len(documents) // 3])
