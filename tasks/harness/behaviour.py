"""How a served model behaves, before anything is asked of what it knows: from greedy answers to plain prompts.

Pure: answers in, shares and reasons out. Each share is compared with the instruct parent's own on the same prompts,
since parents differ in how they talk; but for the language, which the parent may not speak: that is held to what the
identifier can tell (``tasks.harness.languages``).
"""

import re
import zlib
from collections.abc import Iterable, Sequence
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


class Behaviour(NamedTuple):
    """Shares of answers, 0 to 1; all of them are 0 for a model that behaves, ``thinks`` aside."""

    n: int
    empty: float
    endless: float
    loops: float
    leaks: float
    wrong_language: float
    """Of the answers with enough letters to tell; empty ones count in ``empty``."""
    thinks: float
    """With ``</think>``."""


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


def behaviour_of(answers: Sequence[Answer], special: Iterable[str] = ()) -> Behaviour:
    """The shares over ``answers``.

    Raises:
        InputError: if there are none, or one ended for a reason that is neither ``stop`` nor ``length``.
    """
    strange = sorted({one.finish_reason for one in answers} - {"stop", "length"})
    if not answers or strange:
        raise InputError(
            f"{len(answers)} answers with finish reasons {strange}; expected some, ended by stop or length"
        )
    tokens, n = tuple(special), len(answers)
    spoken = [one for one in answers if one.text.strip()]
    told = [(one.language, found) for one in spoken if (found := language_of(_after_thinking(one.text)))]
    return Behaviour(
        n=n,
        empty=1 - len(spoken) / n,
        endless=sum(one.finish_reason == "length" for one in answers) / n,
        loops=sum(loops(one.text) for one in spoken) / n,
        leaks=sum(leaks(one.text, tokens) for one in spoken) / n,
        wrong_language=sum(asked != found for asked, found in told) / len(told) if told else 0.0,
        thinks=sum("</think>" in one.text for one in spoken) / n,
    )


def _after_thinking(text: str) -> str:
    return text.rsplit("</think>", 1)[-1]


ALLOWED = Behaviour(n=0, empty=0.0, endless=0.05, loops=0.05, leaks=0.0, wrong_language=0.05, thinks=0.1)
"""How much larger a candidate's share may be than its instruct parent's. Never an empty answer more, never a leak."""


def misbehaves(candidate: Behaviour, parent: Behaviour, *, ceiling: float = 1.0) -> list[str]:
    """Why ``candidate`` is not to be judged further; nothing if it behaves as its instruct parent does.

    Args:
        candidate: of the merge.
        parent: of its instruct parent, on the same prompts.
        ceiling: share of real text of such a length that the identifier puts in the language.

    Raises:
        InputError: if the two answered different numbers of prompts.
    """
    if candidate.n != parent.n:
        raise InputError(f"the candidate answered {candidate.n} prompts and its parent {parent.n}: not the same ones")
    found = []
    for what in ("empty", "endless", "loops", "leaks"):
        ours, theirs, more = (getattr(one, what) for one in (candidate, parent, ALLOWED))
        if ours > theirs + more:
            found.append(
                f"{what}: {ours:.2f} of {candidate.n} answers, its parent {theirs:.2f}; {more:.2f} more allowed"
            )
    most = 1 - ceiling + ALLOWED.wrong_language
    if candidate.wrong_language > most:
        found.append(f"wrong_language: {candidate.wrong_language:.2f} of the answers; at most {most:.2f}")
    if abs(candidate.thinks - parent.thinks) > ALLOWED.thinks:
        found.append(
            f"thinks: </think> in {candidate.thinks:.2f} of the answers, in {parent.thinks:.2f} of its parent's"
        )
    return found
