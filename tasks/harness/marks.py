"""How an answer in words is marked: called by lm-eval, by name from the benchmarks' YAML."""

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

CUT = " [cut: no stop]"
"""Put after an answer that ran into its length limit, so that it can never equal a gold answer by accident."""
LANGUAGES = ("en", "es", "eu", "ca", "gl", "pt")
"""What the identifier chooses from: of all its languages it would call short Galician anything Romance."""
ENOUGH_LETTERS = 20
"""With fewer, a continuation is in no language: an empty answer must not count as fluent."""


def answered(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Strict and lenient marks for one chat answer."""
    said, gold = results[0], str(doc["answer"])
    whole = json.dumps({"answer": gold}, ensure_ascii=False)
    first_line = said.strip().split("\n", 1)[0]
    return {"strict": float(said == whole), "lenient": float(bool(gold) and gold in first_line)}


def in_language(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 if the continuation is in the language that the text began in."""
    said = results[0].removesuffix(CUT).strip()
    if sum(character.isalpha() for character in said) < ENOUGH_LETTERS:
        return {"in_language": 0.0}
    return {"in_language": float(_identifier().classify(said)[0] == doc["language"])}


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
