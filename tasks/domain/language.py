"""In which language a text is, by py3langid, which is loaded when it is asked first (0.3 s)."""

from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LANGUAGES = ("en", "es", "eu", "ca", "gl", "pt")
"""What the identifier chooses from, and what is expected: of all its languages it would call short Galician anything
Romance."""
ENOUGH_LETTERS = 20
"""With fewer, a text is in no language: an empty answer must not count as fluent."""


def language_of(text: str, expected: Collection[str] = ()) -> str | None:
    """Code of the language, one of ``LANGUAGES`` or of ``expected``; None for too few letters to tell."""
    if sum(character.isalpha() for character in text) < ENOUGH_LETTERS:
        return None
    return str(_identifier(frozenset(LANGUAGES) | frozenset(expected)).classify(text)[0])


@cache
def _identifier(languages: frozenset[str]) -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(languages))
    return identifier
