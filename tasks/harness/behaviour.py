"""How a served model behaves, before anything is asked of what it knows: from greedy answers to plain prompts.

Pure: an answer in, marks out. ``tasks.domain.examination`` compares them with the instruct parent's.
"""

import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from tasks.domain.errors import InputError
from tasks.harness import texts
from tasks.harness.languages import language_of

ENOUGH_WORDS = 20
"""With fewer, four words in a row that come again are no loop: "bai, bai, bai" is an answer."""
REPEATED = 0.3
"""Share of runs of four words that came before. The most of 1,080 paragraphs of software help is .23."""
DENSITY = 0.25
"""Compressed by raw size of an answer of 400 bytes or more; the least of those paragraphs that are as long is .53."""
_ENOUGH_BYTES = 400
_AT_THE_END = re.compile(r"(.{1,80}?)\1{7,}$", re.DOTALL)
_MARKS = re.compile(r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?s>")
_ROLE = re.compile(r"\A\s*(?:assistant|user|system)\s*(?:\n|\Z)")


class Answer(NamedTuple):
    """One greedy answer."""

    language: str
    """That was asked for."""
    text: str
    finish_reason: str
    """``stop`` if the model ended by itself, ``length`` if it was cut."""


class Marks(NamedTuple):
    """What is wrong with one answer; all are False for a model that behaves, ``thinks`` aside."""

    empty: bool
    endless: bool
    loops: bool
    leaks: bool
    thinks: bool
    """With ``</think>``."""
    language: str
    """Of what was said after thinking; "" for too few letters to tell."""


def loops(text: str) -> bool:
    """Whether ``text`` says the same again and again: four words in a row, its ending, or as a whole."""
    plain = texts.clean(text)
    said = [word.casefold() for word in texts.words(plain)]
    runs = list(zip(said, said[1:], said[2:], said[3:], strict=False))
    if len(said) >= ENOUGH_WORDS and 1 - len(set(runs)) / len(runs) >= REPEATED:
        return True
    raw = plain.encode()
    if len(raw) >= _ENOUGH_BYTES and len(zlib.compress(raw, 9)) / len(raw) < DENSITY:
        return True
    return any(character.isalnum() for character in _ending(plain))


def _ending(text: str) -> str:
    """What stands at the end of ``text`` eight times or more in a row; rules of a table and the like are not words."""
    found = _AT_THE_END.search(text[-2000:])
    return found.group(1) if found else ""


def leaks(text: str, special: Iterable[str] = ()) -> bool:
    """Whether ``text`` shows what belongs to the template: its marks, the tokenizer's special tokens, a role's name.

    Args:
        text: an answer.
        special: texts of the tokenizer's special tokens; ``<think>`` and ``</think>`` are no leak.
    """
    thinking = ("<think>", "</think>")
    if any(token and token not in thinking and token in text for token in special):
        return True
    return _MARKS.search(text) is not None or _ROLE.search(text) is not None


def marks_of(answer: Answer, special: Iterable[str] = ()) -> Marks:
    """What is wrong with one answer.

    Raises:
        InputError: if it ended for a reason that is neither ``stop`` nor ``length``.
    """
    if answer.finish_reason not in ("stop", "length"):
        raise InputError(f"an answer with finish reason {answer.finish_reason!r}; expected stop or length")
    return Marks(
        empty=not answer.text.strip(),
        endless=answer.finish_reason == "length",
        loops=loops(answer.text),
        leaks=leaks(answer.text, special),
        thinks="</think>" in answer.text,
        language=language_of(answer.text.rsplit("</think>", 1)[-1]),
    )
