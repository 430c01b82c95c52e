"""The licence of a merged model, computed from those of all its ancestors by the rules in ``licences.yaml``.

A merged model inherits every restriction. Where one ancestor's licence holds what all the others ask, that one is the
licence; else it is ``other``, and each is told. What a card does not state is unknown, and what the rules do not name
is not guessed. All of it is to help a person decide, and no legal advice.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from pydantic import Field, TypeAdapter

from tasks.domain.models import Noun

Kind = Literal["free", "permissive", "share-alike", "restricted", "non-commercial", "no-derivatives"]

APART = "Passing the model on cannot meet both"
"""In the warning about two licences that exclude each other."""
LICENCE_FILE = "LICENSE.md"
"""Where the card of a licence without an id points; the Hub takes an address, LICENSE or LICENSE.md."""


class Terms(Noun):
    """What some licences ask of whoever passes a derived model on; the fields are told in ``licences.yaml``."""

    ids: tuple[str, ...] = Field(min_length=1)
    kind: Kind
    words: str
    covers: tuple[str, ...] = ()
    one_licence: bool = False
    non_commercial: bool = False
    begins: str = ""
    shows: str = ""
    notice: str = ""
    link: str = ""


class Stated(Noun):
    """What a model's card states of its licence, as it stands there; empty where it states nothing."""

    licence: str = ""
    name: str = ""
    link: str = ""

    @property
    def key(self) -> str:
        """The name that the rules know it by; empty if it is unknown."""
        found = _slug(self.licence)
        found = _slug(self.name) if found == "other" else found
        return "" if found in ("other", "unknown") else found


class Ancestor(Noun):
    """A model that the merged one was made from, directly or not."""

    name: str
    """Its repository, or what a card calls it."""
    stated: Stated = Stated()
    read: str
    """Where the licence was read, or why it is not known, as it stands after ``read``: ``from its card at ...``."""
    languages: tuple[str, ...] = ()
    """As its card states them."""


class Condition(NamedTuple):
    """What is asked of whoever passes the merged model on."""

    licence: str
    """Its id; ``unknown`` where it is."""
    names: str
    """Of the ancestors that ask for it."""
    words: str


class Inherited(NamedTuple):
    """The licence of a merged model."""

    licence: str
    """``license`` of its card: an id of the Hub, ``other`` or ``unknown``."""
    name: str
    """``license_name`` of its card; empty unless ``licence`` is ``other``."""
    link: str
    """``license_link`` of its card; empty unless ``licence`` is ``other``."""
    reason: str
    conditions: tuple[Condition, ...]
    warnings: tuple[str, ...]
    """What a person should look at before passing the model on."""
    begins: str
    """How its name must begin; empty where any name will do."""
    shows: tuple[str, ...]
    """What must be shown beside it."""
    notices: tuple[str, ...]
    """Lines of its NOTICE file."""


@lru_cache
def rules() -> Mapping[str, Terms]:
    """The terms of every licence that ``licences.yaml`` names, by id."""
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    rows = TypeAdapter(tuple[Terms, ...]).validate_python(yaml.safe_load(text))
    return {key: terms for terms in rows for key in terms.ids}


def covers(one: str, other: str) -> bool:
    """Whether who meets the terms of ``one`` also meets those of ``other``, apart from its notices."""
    if one == other:
        return True
    mine, its = rules().get(one), rules().get(other)
    if mine is None or its is None:
        return False
    takes = mine.kind in ("share-alike", "restricted", "non-commercial")
    return its.kind == "free" or other in mine.covers or (its.kind == "permissive" and takes)


def inherit(ancestors: Sequence[Ancestor]) -> Inherited:
    """The licence of a model that was made from all of ``ancestors``."""
    by_key: dict[str, list[Ancestor]] = {}
    for one in ancestors:
        by_key.setdefault(one.stated.key, []).append(one)
    names = {key: ", ".join(dict.fromkeys(one.name for one in these)) for key, these in by_key.items()}
    told = {key: f"{key or 'unknown'} ({names[key]})" for key in by_key}
    whole = None if "" in by_key else next((key for key in by_key if all(covers(key, k) for k in by_key)), None)
    terms = [rules()[key] for key in by_key if key in rules()]
    licence, name, link = _on_the_hub(whole, by_key)
    return Inherited(
        licence=licence,
        name=name,
        link=link,
        reason=_reason(whole, told),
        conditions=tuple(Condition(key or "unknown", names[key], _words(key)) for key in by_key),
        warnings=tuple(_warnings(told)),
        begins=max((t.begins for t in terms), key=len, default=""),
        shows=tuple(dict.fromkeys(t.shows for t in terms if t.shows)),
        notices=tuple(dict.fromkeys(t.notice for t in terms if t.notice)),
    )


def titled(name: str, begins: str) -> str:
    """``name`` as a licence wants it to begin: as it is, without ``Meta-``, or with what is wanted put in front."""
    start = begins.replace(" ", "-")
    for given in (name, name.removeprefix("Meta-")):
        if given.lower().startswith(start.lower()):
            return start + given[len(start) :]
    return f"{start}-{name}"


def _on_the_hub(whole: str | None, by_key: Mapping[str, Sequence[Ancestor]]) -> tuple[str, str, str]:
    """``license``, ``license_name`` and ``license_link`` of the card."""
    if not any(by_key):
        return "unknown", "", ""
    if whole is None:
        return "other", "-and-".join(key or "unknown" for key in by_key), LICENCE_FILE
    its = [one.stated for one in by_key[whole]]
    known = rules()[whole].link if whole in rules() else ""
    if not known and (whole in rules() or any(_slug(stated.licence) == whole for stated in its)):
        return whole, "", ""
    linked = (stated.link for stated in its if stated.link.startswith(("https://", "http://")))
    return "other", whole, next(linked, known or LICENCE_FILE)


def _reason(whole: str | None, told: Mapping[str, str]) -> str:
    if not any(told):
        return "No licence of any ancestor is known."
    if whole is None:
        return f"No one licence holds what all ancestors ask, so each of them counts: {', '.join(told.values())}."
    if len(told) == 1:
        return f"Every ancestor states {whole}."
    others = ", ".join(words for key, words in told.items() if key != whole)
    return f"{told[whole]} counts for the whole, and holds what the others ask if their notices are kept: {others}."


def _words(key: str) -> str:
    if not key:
        return "Not known: find out before the model is passed on."
    return rules()[key].words if key in rules() else "Not among the rules that this was computed by: read it."


def _warnings(told: Mapping[str, str]) -> list[str]:
    """Contradictions, what forbids a use or the passing on, and what is not known."""
    terms = {key: rules()[key] for key in told if key in rules()}
    found = [
        f"{told[key]} does not let changed versions be passed on."
        for key, its in terms.items()
        if its.kind == "no-derivatives"
    ]
    found += [
        f"{told[key]} rules out commercial use."
        for key, its in terms.items()
        if its.non_commercial or its.kind == "non-commercial"
    ]
    pairs = [(key, other) for key, its in terms.items() if its.one_licence for other in terms]
    apart = {frozenset(pair): pair for pair in pairs if not covers(*pair) and not covers(*reversed(pair))}
    found += [
        f"{told[key]} wants whatever is made from it under that licence alone, and {told[other]} asks what it does not "
        f"allow. {APART}; ask somebody who knows."
        for key, other in apart.values()
    ]
    found += [f"{told[key]} is not among the rules: read it." for key in told if key and key not in terms]
    return found + ([f"Licences are not known: {told['']}."] if "" in told else [])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", text.strip().lower()).strip("-")
