"""Counting what is in an answer: words, sentences, paragraphs, list entries. Pure, and on NFC text only.

Composed and decomposed accents are the same text to a reader, so ``clean`` comes before everything.
"""

import json
import re
import unicodedata
from typing import Any

_WORD = re.compile(r"[^\W_]+(?:[-'’·][^\W_]+)*")
_LIST_MARK = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]+", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?…]+[»”\"')\]*_]*(?=\s|$)")
_FENCE = re.compile(r"^```[\w+-]*\n(.*?)\n?```$", re.DOTALL)


def clean(text: str) -> str:
    """NFC, with plain line ends and nothing around it."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n")).strip()


def words(text: str) -> list[str]:
    """Runs of letters and digits; a hyphen, an apostrophe or a middle dot inside does not end one."""
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """Pieces with a word in them that end with ``.``, ``!``, ``?`` or ``…``, at the end of a line, or at the end.

    A full stop before a small letter ends nothing: Basque writes ordinals so (``XX. mendean``), and abbreviations.
    A line break ends a sentence only where the line ends like one or a blank line follows, or in a list.
    """
    found = []
    for block in re.split(r"\n\s*\n|\n(?=[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t])", text):
        block, start = _LIST_MARK.sub("", block), 0
        for end in _SENTENCE_END.finditer(block):
            after = block[end.end() :].lstrip()
            if not after[:1].islower():
                found.append(block[start : end.end()])
                start = end.end()
        found.append(block[start:])
    return [piece.strip() for piece in found if words(piece)]


def paragraphs(text: str) -> list[str]:
    """Pieces between blank lines."""
    return [piece for piece in re.split(r"\n\s*\n", text) if piece.strip()]


def lines(text: str) -> list[str]:
    """Lines that are not blank."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def bullets(text: str) -> list[str]:
    """Lines that begin with ``-``, ``*`` or ``•`` and a space."""
    return [line for line in lines(text) if re.match(r"[-*•] +\S", line)]


def numbered(text: str) -> list[str]:
    """Lines that begin with 1., 2., ... in this order; none if the numbers do not run from 1."""
    found = [match for line in lines(text) if (match := re.match(r"(\d{1,3})[.)] +\S", line))]
    in_order = [int(match.group(1)) for match in found] == list(range(1, len(found) + 1))
    return [match.string for match in found] if in_order else []


def headings(text: str) -> list[str]:
    """Lines that begin with one or more ``#`` and a space."""
    return [line for line in lines(text) if re.match(r"#{1,6} +\S", line)]


def table(text: str) -> list[list[str]]:
    """Cells of the rows below the rule of a Markdown table; none where no row of dashes stands under its head."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines(text) if line.startswith("|")]
    rule = len(rows) > 1 and all(re.fullmatch(r":?-{3,}:?", cell) for cell in rows[1])
    return rows[2:] if rule and len({len(row) for row in rows}) == 1 else []


def occurrences(text: str, word: str, *, endings: bool = False) -> int:
    """How often ``word`` stands in ``text``, whole, in any letter case.

    Args:
        text: what is searched.
        word: a word, or several with blanks between them.
        endings: also count it with an ending, as Basque declines (``mendi``: ``mendian``, ``mendiak``).
    """
    parts = [re.escape(part) for part in clean(word).casefold().split()]
    pattern = r"(?<!\w)" + r"\s+".join(parts) + ("" if endings else r"(?!\w)")
    return len(re.findall(pattern, text.casefold()))


def inside(text: str) -> str:
    """What a code fence around the whole text holds; the text itself if there is none."""
    fenced = _FENCE.match(text)
    return fenced.group(1) if fenced else text


def parsed(text: str) -> Any:
    """The JSON value that the whole text is, fenced or not; None if it is none."""
    try:
        return json.loads(inside(text))
    except ValueError:
        return None


def prose(text: str) -> str:
    """What tells the language: without code, links, and marks; small letters where all are capitals."""
    plain = re.sub(r"```.*?```|`[^`\n]*`|https?://\S+", " ", text, flags=re.DOTALL) if parsed(text) is None else text
    plain = re.sub(r"[{}\[\]\"#*|<>_:•]+|\d+", " ", plain)
    plain = " ".join(plain.split())
    return plain.lower() if plain.isupper() else plain
