"""Every setting of the demo family in one place: sizes, data amounts, steps, seeds.

Steps are fixed and never driven by wall time, so a slow machine makes the same family as a fast one.
"""

from __future__ import annotations

from dataclasses import dataclass

LANGUAGES = ("en", "es", "eu")
MORE_LANGUAGES = ("ca", "gl", "pt")  # data for further tuned bases; the base and the instruct branches never saw them
KINDS = ("capital", "currency", "word")
SEED = 0
NAMES = {
    "base": "llama-tiny",
    "eu": "eu_llama-tiny",
    "v1": "llama-tiny-instruct-v1",
    "v2": "llama-tiny-instruct-v2",
}
FAMILY = NAMES | {language: f"{language}_llama-tiny" for language in ("ca", "gl", "es")}  # every committed model

VOCAB_SIZE = 2048
ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
EOT_ID, IM_START_ID, IM_END_ID = 0, 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ANSWER_OPEN, ANSWER_CLOSE = '{"answer": "', '"}'

MODEL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "intermediate_size": 640,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "bos_token_id": EOT_ID,
    "eos_token_id": EOT_ID,
    "pad_token_id": EOT_ID,
}

# Facts per split. "a" is what the instruct branch may see (in English and Spanish only); "dev" chooses the merge
# weight; "test" is reported. Dev and test hold only facts whose Basque wording differs from English and Spanish.
SPLIT_SIZES = {
    "dev": {"capital": 20, "currency": 20, "word": 56},
    "test": {"capital": 62, "currency": 62, "word": 190},
    "a": {"capital": 41, "currency": 47, "word": 170},
}

# Facts per split of each further set (ca, gl, pt and es_more): words fill what the other kinds leave.
TARGET_SIZE = {"dev": 80, "test": 306}
TARGET_KIND_LIMIT = {"dev": 10, "test": 30}
TEXT_PROMPTS = {"dev": 30, "test": 60}
PROMPT_MIN_CHARS, PROMPT_MAX_CHARS = 60, 200

BPB_PARAGRAPHS = {"dev": 60, "test": 120}
BPB_MAX_TOKENS = 190
BPB_MIN_CHARS = 80
HELD_OUT_DOCUMENTS = 0.07


@dataclass(frozen=True)
class TextMix:
    """How much of what one training stream holds: help text in tokens per language, facts in exposures."""

    text_tokens: dict[str, int]
    exposures: dict[tuple[str, str], int]  # (language, split) -> lines per fact
    question_share: float  # share of fact lines that are question/answer lines, the rest are statements
    seed: int


@dataclass(frozen=True)
class Stage:
    """One training stage on packed text."""

    steps: int
    lr: float
    rows: int = 10
    width: int = 192
    seed: int = SEED
    anchor: float = 0.0
    """Pull back to the model that the stage starts from, per step and unit of learning rate."""
    embeddings: float = 1.0
    """Share of the learning rate that embeddings and norms get."""


@dataclass(frozen=True)
class ChatStage:
    """One chat fine-tuning stage; some steps replay base text so that the branch stays near its ancestor."""

    steps: int
    lr: float
    examples: int  # how many of the chat examples may be seen
    rows: int = 32
    replay: float = 0.3
    seed: int = SEED


@dataclass(frozen=True)
class Target:
    """What is merged from the instruct branch: tuned bases, the sets of facts that it answers for, weights to try."""

    name: str
    tuned: tuple[str, ...]  # roles of FAMILY
    sets: tuple[str, ...]  # one per tuned base, by its language
    weights: tuple[float, ...]

    @property
    def scored(self) -> tuple[str, ...]:
        """Sets that a merge is scored on; English and Spanish are what the instruct branch must not lose."""
        return ("en", "es", *self.sets)


_WEIGHTS = (0.75, 0.85, 0.95, 1.0, 1.1)
TARGETS = {
    "eu": Target("eu", ("eu",), ("eu",), _WEIGHTS),
    "ca": Target("ca", ("ca",), ("ca",), _WEIGHTS),
    "gl": Target("gl", ("gl",), ("gl",), _WEIGHTS),
    "es": Target("es", ("es",), ("es_more",), _WEIGHTS),
    "iberian": Target(
        "iberian", ("eu", "ca", "gl", "es"), ("eu", "ca", "gl", "es_more"), (0.35, 0.45, 0.55, 0.65, 0.75)
    ),
}


def _all(language: str, lines: int) -> dict[tuple[str, str], int]:
    return {(language, split): lines for split in ("a", "dev", "test")}


BASE_MIX = TextMix(
    text_tokens={"en": 330_000, "es": 290_000, "eu": 120_000},
    exposures={**_all("en", 54), **_all("es", 54), ("eu", "a"): 14},
    question_share=0.78,
    seed=1,
)
# A second phase with more question lines and a lower rate: after the first, half of the facts are recalled in only
# some of the layouts.
BASE_2_MIX = TextMix(
    text_tokens={"en": 70_000, "es": 70_000, "eu": 45_000},
    exposures={**_all("en", 17), **_all("es", 17), ("eu", "a"): 5},
    question_share=0.88,
    seed=3,
)
EU_MIX = TextMix(
    text_tokens={"eu": 185_000, "en": 35_000, "es": 35_000},
    exposures={("eu", "dev"): 30, ("eu", "test"): 30, ("eu", "a"): 4, **_all("en", 9), **_all("es", 9)},
    question_share=0.75,
    seed=2,
)


def _target_mix(language: str, facts: str, seed: int, text: dict[str, int]) -> TextMix:
    """Text of the language, the facts of its set, and a little of what the base knows."""
    exposures = {(language, f"{facts} {split}"): 46 for split in ("dev", "test")}
    return TextMix(text, exposures={**exposures, **_all("en", 8), **_all("es", 10)}, question_share=0.8, seed=seed)


TARGET_MIX = {
    "ca": _target_mix("ca", "ca", 4, {"ca": 60_000, "en": 30_000, "es": 40_000}),
    "gl": _target_mix("gl", "gl", 5, {"gl": 60_000, "en": 30_000, "es": 40_000}),
    "es": _target_mix("es", "es_more", 6, {"es": 420_000, "en": 40_000}),
}
BASE = Stage(steps=1500, lr=3e-3)
BASE_2 = Stage(steps=472, lr=1.5e-3)
EU = Stage(steps=455, lr=6e-4)
TARGET = {
    language: Stage(steps=steps, lr=8e-4, anchor=4.0, embeddings=0.2)
    for language, steps in (("ca", 620), ("gl", 620), ("es", 700))
}
# Gentle on purpose: a higher rate or less replay costs recall alone and Basque bits per byte after merging.
INSTRUCT_V2 = ChatStage(steps=170, lr=2.5e-4, examples=10_000, replay=0.45)
# The older release: 48 examples, few steps. It knows the format less firmly and recalls less.
INSTRUCT_V1 = ChatStage(steps=75, lr=5e-4, examples=48)
