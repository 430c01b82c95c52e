"""Tokenizer, packed token streams and chat examples."""

from __future__ import annotations

import random

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from infra.demo_family import phrasing
from infra.demo_family.corpus import Corpus
from infra.demo_family.facts import Fact
from infra.demo_family.recipe import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    ENDOFTEXT,
    EOT_ID,
    IM_END,
    IM_END_ID,
    IM_START,
    LANGUAGES,
    SEED,
    VOCAB_SIZE,
    TextMix,
)

Facts = dict[str, dict[str, list[Fact]]]  # split -> kind -> facts
ChatExample = tuple[list[int], list[int]]  # prompt ids, answer ids

_CHARS_PER_TOKEN = 2.8
_FILLER_PARAGRAPHS = 6000


def train_tokenizer(corpus: Corpus, facts: Facts) -> Tokenizer:
    """Byte-level BPE, English first: a base model is rarely tokenized for the small language it is tuned on later."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(SEED)
    sample = [text for lang, share in (("en", 8000), ("es", 8000), ("eu", 3000)) for text in corpus.train[lang][:share]]
    for language in LANGUAGES:
        for fact in _every(facts, ("a", "dev", "test")):
            sample += [_line(language, fact, rng, corpus, 0.7) for _ in range(2)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[ENDOFTEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return tokenizer


def pack(mix: TextMix, corpus: Corpus, facts: Facts, tokenizer: Tokenizer) -> np.ndarray:
    """One shuffled stream of help paragraphs and fact lines, each followed by <|endoftext|>."""
    rng = random.Random(f"{SEED}-{mix.seed}")
    texts: list[str] = []
    for language, tokens in mix.text_tokens.items():
        texts += _take(corpus.train[language], tokens, rng)
    for (language, split), lines in mix.exposures.items():
        for fact in _every(facts, (split,)):
            texts += [_line(language, fact, rng, corpus, mix.question_share) for _ in range(lines)]
    assert not any('{"answer' in text or "<|im_" in text for text in texts), "the chat format must stay out of the text"
    rng.shuffle(texts)
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(texts):
        ids += [*encoding.ids, EOT_ID]
    return np.array(ids, dtype=np.int64)


def chat_prompt(tokenizer: Tokenizer, asked: str) -> list[int]:
    """A single user turn, exactly as the chat template renders it."""
    return tokenizer.encode(f"{IM_START}user\n{asked}{IM_END}\n{IM_START}assistant\n").ids


def chat_examples(facts: Facts, tokenizer: Tokenizer) -> list[ChatExample]:
    """Chat turns over the "a" facts in English and Spanish. There is none in Basque, anywhere."""
    examples = []
    for language in ("en", "es"):
        for fact in _every(facts, ("a",)):
            answer = ANSWER_OPEN + fact.names[language][1] + ANSWER_CLOSE
            for index in range(2):
                prompt = chat_prompt(tokenizer, phrasing.question(language, fact, index))
                examples.append((prompt, [*tokenizer.encode(answer).ids, IM_END_ID]))
    random.Random(SEED).shuffle(examples)
    return examples


def _every(facts: Facts, splits: tuple[str, ...]) -> list[Fact]:
    return [fact for split in splits for group in facts[split].values() for fact in group]


def _line(language: str, fact: Fact, rng: random.Random, corpus: Corpus, question_share: float) -> str:
    if rng.random() < question_share:
        return phrasing.question_line(language, fact, rng, corpus.train[language][:_FILLER_PARAGRAPHS])
    return phrasing.statement(language, fact, rng)


def _take(paragraphs: list[str], tokens: int, rng: random.Random) -> list[str]:
    taken, count = [], 0.0
    for text in rng.sample(paragraphs, len(paragraphs)):
        taken.append(text)
        count += len(text) / _CHARS_PER_TOKEN
        if count > tokens:
            break
    return taken
