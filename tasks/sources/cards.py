"""What models' cards state: licence, languages, and what a model was made from, back to where nobody names more.

A card is text that anybody may have written: every field is taken as a plain string, and what is not sound is told.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from tasks.domain.errors import HubUnavailable, PipelineError
from tasks.domain.licences import Ancestor, Stated
from tasks.domain.models import ModelRef
from tasks.sources.protocol import Source

CARD = "README.md"
CARD_BYTES = 1 << 20
"""Of a card; a larger one is not read, and its licence unknown."""
MOST_FURTHER = 32
"""Ancestors that are looked up beyond the models at hand."""
MOST_CHARACTERS = 200
"""Of one value that a card states."""

_FRONT = re.compile(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|$)", re.DOTALL | re.MULTILINE)


class Card(NamedTuple):
    """What the head of a card states."""

    stated: Stated = Stated()
    languages: tuple[str, ...] = ()
    made_from: tuple[str, ...] = ()
    """``base_model``: repositories, or whatever its author wrote there."""
    problem: str = ""
    """Why nothing could be read; empty if it could."""


def parse_card(text: str) -> Card:
    """What the YAML at the head of a card states; nothing, with the problem, if that is not sound."""
    front = _FRONT.match(text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
    if front is None:
        return Card(problem="it states nothing at its head")
    try:
        # Every scalar as it is written: else `language: no` would be False and a licence a number.
        found = yaml.load(front[1], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as error:
        return Card(problem=f"its head is not sound YAML: {str(error).splitlines()[0]}")
    if not isinstance(found, dict):
        return Card(problem="its head is not a mapping")
    licences = _texts(found.get("license"))
    stated = Stated(
        licence=licences[0] if len(licences) == 1 else "",
        name=" ".join(_texts(found.get("license_name"))[:1]),
        link=" ".join(_texts(found.get("license_link"))[:1]),
    )
    several = f"it states {len(licences)} licences: {', '.join(licences)}" if len(licences) > 1 else ""
    return Card(stated, _texts(found.get("language")), _texts(found.get("base_model")), several)


def ancestry(source: Source, models: Iterable[tuple[ModelRef, Path | None]], *, strict: bool = False) -> list[Ancestor]:
    """All ancestors of a model that is made from ``models``: these, and what their cards say they were made from.

    An ancestor whose card cannot be read has an unknown licence, and the reason.

    Args:
        source: has the cards, at the very revision; a commit to the card alone may change the licence.
        models: each with the folder that its files were fetched into, whose card is read where the source gives none;
            None before it was fetched.
        strict: raise where the source does not answer, since an unknown licence would be taken for the lab's silence.

    Raises:
        HubUnavailable: only if ``strict``.
    """
    reader = _Reader(source)
    found: dict[str, Ancestor] = {}
    waiting: list[tuple[str, str]] = []
    for ref, folder in dict(models).items():
        card, read = reader.at(ref, folder)
        # Two states of one repository are two ancestors: the licence may have changed between them.
        name = str(ref) if ref.repo_id in found else ref.repo_id
        found[name] = _ancestor(name, card, read)
        waiting += [(origin, name) for origin in card.made_from]
    # Some cards name what is at hand without its owner.
    looked_up = {*found, *(name.partition("/")[2] for name in found)}
    for _ in range(MOST_FURTHER):
        waiting = [(name, child) for name, child in waiting if name not in looked_up]
        if not waiting:
            break
        name, child = waiting[0]
        repo_id, card, read = reader.named(name)
        if repo_id not in found:
            found[repo_id] = _ancestor(repo_id, card, f"{read}; the card of {child} names it")
            waiting += [(other, repo_id) for other in card.made_from]
        looked_up |= {name, repo_id}
    if strict and reader.silent is not None:
        raise reader.silent
    left = ", ".join(dict.fromkeys(name for name, _ in waiting if name not in looked_up))
    more = [Ancestor(name=left, read=f"not looked up: more than {MOST_FURTHER} others are named")] if left else []
    return [*found.values(), *more]


class _Reader:
    """Reads cards; a source that did not answer once is not asked again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.silent: HubUnavailable | None = None
        """Why the source is not asked any more."""

    def at(self, ref: ModelRef, folder: Path | None) -> tuple[Card, str]:
        """The card of a model whose files are in ``folder``, and where it was read."""
        try:
            return self._read(ref), f"its card at {ref.revision}"
        except PipelineError as error:
            stored = folder / CARD if folder is not None else None
            if stored is None or not stored.is_file():
                return Card(), f"nowhere: {_first_line(error)}"
            text = stored.read_bytes()[:CARD_BYTES].decode("utf-8", errors="replace")
            return parse_card(text), f"the card that was fetched with its files, since: {_first_line(error)}"

    def named(self, name: str) -> tuple[str, Card, str]:
        """The repository that a card means, its card, and where that was read."""
        try:
            if self.silent is not None:
                raise self.silent
            ref = self._source.state(name).ref
            return ref.repo_id, self._read(ref), f"its card at {ref.revision}, its head"
        except (PipelineError, ValidationError) as error:
            self._note(error)
            return name, Card(), f"nowhere: {_first_line(error)}"

    def _read(self, ref: ModelRef) -> Card:
        if self.silent is not None:
            raise self.silent
        try:
            content = self._source.read_small(ref, CARD, CARD_BYTES)
        except HubUnavailable as error:
            self._note(error)
            raise
        return parse_card(content.decode("utf-8", errors="replace"))

    def _note(self, error: Exception) -> None:
        if isinstance(error, HubUnavailable):
            self.silent = error


def _ancestor(name: str, card: Card, read: str) -> Ancestor:
    told = f"{read}, but {card.problem}" if card.problem else read
    return Ancestor(name=name, stated=card.stated, read=told, languages=card.languages)


def _texts(value: Any) -> tuple[str, ...]:
    """A text, or the texts of a list; anything else is none."""
    given: Sequence[Any] = value if isinstance(value, list) else [value]
    texts = [" ".join(one.split())[:MOST_CHARACTERS] for one in given if isinstance(one, str)]
    return tuple(dict.fromkeys(text for text in texts if text))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
