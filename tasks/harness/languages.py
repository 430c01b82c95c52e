"""Which language a text is in: py3langid among the languages here, and how far that can be believed.

What it finds on text that is in the language for certain, its ceiling: 180 held-out paragraphs of software help in each
language (``*_bpb``, dev and test), in per cent (2026-11-23). ``-`` is too few letters.

    whole, 166 characters on average      first half, 83 characters           first 40 characters
    en  en 100                            en  en 98.9  - 1.1                  en  en 98.3  - 1.7
    es  es 100                            es  es 100                          es  es 96.1  ca 1.1  gl 1.1  - 1.7
    eu  eu 100                            eu  eu 100                          eu  eu 98.3  - 1.7
    ca  ca 100                            ca  ca 99.4  es 0.6                 ca  ca 96.7  es 2.8  - 0.6
    gl  gl 99.4  pt 0.6                   gl  gl 98.3  pt 1.7                 gl  gl 92.8  pt 3.9  es 1.7  ca 0.6  - 1.1
    pt  pt 99.4  gl 0.6                   pt  pt 95.6  gl 3.3  - 1.1          pt  pt 88.9  gl 8.9  es 1.1  - 1.1

And on the prompts of ``eu_instructions`` and ``gl_instructions``, another domain: 120 of 120 in each. So answers of a
sentence or two can be told, Galician from Portuguese least well; a floor must leave room below these figures.
"""

from tasks.domain.language import ENOUGH_LETTERS, LANGUAGES
from tasks.domain.language import language_of as language_as_it_is
from tasks.harness import texts

__all__ = ["ENOUGH_LETTERS", "LANGUAGES", "language_of", "told"]


def told(text: str) -> str:
    """The language of ``text`` as it is, among ``LANGUAGES``; empty if it has too few letters to tell."""
    return language_as_it_is(text) or ""


def language_of(answer: str) -> str:
    """The language of an answer's prose: code, links, marks and digits left out, capitals made small."""
    return told(texts.prose(texts.clean(answer)))
