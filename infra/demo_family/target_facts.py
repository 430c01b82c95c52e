"""Facts of the further sets: Catalan, Galician and Portuguese, and Spanish facts beyond those that the base was told.

All from CLDR. A fact is kept only where its wording differs enough from English and Spanish that a model which knows
those two cannot answer by likeness: the answer of a capital or currency is another word; a word to translate is less
than 85 % alike. Words that the base knows in English and Spanish come first: they are what a tuned base adds. A fact is
in the same split in every language; dev facts of the base's own set stay dev, test facts stay test.
"""

from __future__ import annotations

import difflib
import hashlib
import random
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from babel import Locale
from babel.core import get_global

from infra.demo_family.capitals import CAPITAL_ZONES
from infra.demo_family.facts import Fact, annotations, currency_of_territory
from infra.demo_family.recipe import MORE_LANGUAGES, SEED, TARGET_KIND_LIMIT, TARGET_SIZE

Facts = dict[str, dict[str, list[Fact]]]  # split -> kind -> facts

SETS = (*MORE_LANGUAGES, "es_more")
_LOCALES = {
    **{language: Locale(language) for language in ("en", "es", "ca", "gl")},
    "pt": Locale("pt", "PT"),
}
_ANNOTATIONS = {"pt": ("pt", "pt_PT")}  # the European names overlay the common ones
_TERM = re.compile(r"[^\W\d_]{2,14}( [^\W\d_]{2,12}){0,2}")
_FIRST_EMOJI = 0x2600  # below are letters, mathematical signs and punctuation marks
_CONTINENTS = ("Africa/", "America/", "Asia/", "Australia/", "Europe/")
_MOST_ALIKE = 0.85
_LEAST_OF_A_KIND = 8  # three wrong choices need other facts of the kind


def load(unpacked: Path, known: Facts) -> dict[str, Facts]:
    """{set: facts by split and kind}; `known` are the facts of the base and the instruct branches."""
    splits = {fact.id: split for split, kinds in known.items() for group in kinds.values() for fact in group}
    currencies = currency_of_territory(unpacked)
    found = {
        language: {
            "capital": list(_capitals(language)),
            "currency": list(_currencies(language, currencies)),
            "word": list(_words(unpacked, language, ("en", "es"))),
        }
        for language in MORE_LANGUAGES
    }
    found["es_more"] = _unknown_spanish(unpacked, known, splits)
    return {name: _split(kinds, splits) for name, kinds in found.items()}


def _unknown_spanish(unpacked: Path, known: Facts, splits: dict[str, str]) -> dict[str, list[Fact]]:
    """Spanish facts that no text of the base or of an instruct branch holds in any language."""
    facts = [fact for kinds in known.values() for group in kinds.values() for fact in group]
    told = {_plain(name) for fact in facts for lang in ("en", "es") for name in fact.names[lang]}
    words = [
        fact
        for fact in _words(unpacked, "es", ("en",))
        if fact.id not in splits and not told & {_plain(name) for name in fact.names["es"]}
    ]
    return {"city": list(_cities(told)), "language": list(_languages(told)), "word": words}


def _split(kinds: dict[str, list[Fact]], splits: dict[str, str]) -> Facts:
    """Small kinds up to their limit, then words up to the size of the set."""
    chosen: Facts = {}
    for split, size in TARGET_SIZE.items():
        chosen[split] = {}
        for kind in sorted(kinds, key=lambda k: (k == "word", k)):
            pool = sorted((f for f in kinds[kind] if _split_of(f.id, splits) == split), key=lambda fact: fact.id)
            random.Random(f"{SEED}-{kind}-{split}").shuffle(pool)
            pool.sort(key=lambda fact: _rank(fact, splits))
            left = size - sum(map(len, chosen[split].values()))
            pool = pool[: left if kind == "word" else TARGET_KIND_LIMIT[split]]
            if len(pool) >= _LEAST_OF_A_KIND:
                chosen[split][kind] = pool
    return chosen


def _rank(fact: Fact, splits: dict[str, str]) -> tuple[bool, bool, bool, int]:
    """What is taken first: facts that the base knows, not from a chat turn, no variants of one sign, short names."""
    words = sum(len(name.split()) for pair in fact.names.values() for name in pair) if fact.kind == "word" else 0
    return fact.id not in splits, splits.get(fact.id) == "a", "-200d-" in fact.id, words


def _split_of(identity: str, splits: dict[str, str]) -> str:
    if splits.get(identity) in TARGET_SIZE:
        return splits[identity]
    return "dev" if hashlib.sha256(identity.encode()).digest()[0] < 60 else "test"


def _capitals(language: str) -> Iterator[Fact]:
    for territory, zone in CAPITAL_ZONES.items():
        names = {lang: (_LOCALES[lang].territories[territory], _city(lang, zone)) for lang in ("en", "es", language)}
        country, city = names[language]
        if country != city and _short(*names[language]) and _own_answer(names, language):
            yield Fact(f"capital-{territory}", "capital", names)


def _currencies(language: str, of_territory: dict[str, str]) -> Iterator[Fact]:
    locales = {lang: _LOCALES[lang] for lang in ("en", "es", language)}
    for territory, code in of_territory.items():
        if all(territory in loc.territories and code in loc.currencies for loc in locales.values()):
            names = {lang: (loc.territories[territory], loc.currencies[code]) for lang, loc in locales.items()}
            if _short(*names[language]) and _own_answer(names, language):
                yield Fact(f"currency-{territory}", "currency", names)


def _words(unpacked: Path, language: str, others: tuple[str, ...]) -> Iterator[Fact]:
    """Names of emoji, to be translated into English. Every name is used once."""
    names = {}
    for lang in {language, *others}:
        names[lang] = {
            sign: name for part in _ANNOTATIONS.get(lang, (lang,)) for sign, name in annotations(unpacked, part)
        }
    used: set[str] = set()
    for sign in sorted(names["en"]):
        word, english = names[language].get(sign, ""), names["en"][sign]
        if ord(sign[0]) < _FIRST_EMOJI or not _TERM.fullmatch(word) or not _TERM.fullmatch(english):
            continue
        foreign = [names[lang].get(sign, "") for lang in others]
        if not _short(word, english) or any(_alike(word, name) for name in foreign) or used & {word, english}:
            continue
        used |= {word, english}
        code = "-".join(f"{ord(char):04x}" for char in sign)
        yield Fact(f"word-{code}", "word", {language: (word, english)})


def _languages(told: set[str]) -> Iterator[Fact]:
    spanish, english = _LOCALES["es"].languages, _LOCALES["en"].languages
    for code in sorted(spanish):
        names = (spanish[code], english.get(code, ""))
        if all(_TERM.fullmatch(name) for name in names) and _short(*names) and not _alike(*names):
            if not told & {_plain(name) for name in names}:
                yield Fact(f"language-{code}", "language", {"es": names})


def _cities(told: set[str]) -> Iterator[Fact]:
    """Exemplar city of a time zone and its country; capitals of the base's facts are left out."""
    territories, used = _LOCALES["es"].territories, set()
    for zone, territory in sorted(get_global("zone_territories").items()):
        if not zone.startswith(_CONTINENTS) or territory not in territories or zone in CAPITAL_ZONES.values():
            continue
        city, country = _city("es", zone), territories[territory]
        if _plain(city) in told | used or not _TERM.fullmatch(city) or _alike(city, country):
            continue
        if _short(city, country):
            used.add(_plain(city))
            yield Fact(f"city-{zone.split('/', 1)[1].replace('/', '-')}", "city", {"es": (city, country)})


def _city(language: str, zone: str) -> str:
    name: str = _LOCALES[language].time_zones.get(zone, {}).get("city", zone.rsplit("/", 1)[1].replace("_", " "))
    return name


def _own_answer(names: dict[str, tuple[str, str]], language: str) -> bool:
    return _plain(names[language][1]) not in {_plain(names[lang][1]) for lang in ("en", "es")}


def _alike(word: str, other: str) -> bool:
    """Mostly the same letters in the same order; accents and case do not count."""
    return difflib.SequenceMatcher(None, _plain(word), _plain(other)).ratio() >= _MOST_ALIKE


def _plain(name: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", name.lower()) if unicodedata.category(char) != "Mn")


def _short(subject: str, answer: str) -> bool:
    """Short, and free of brackets and quotes: a name must survive inside quoted and JSON answers."""
    return len(subject) <= 22 and len(answer) <= 26 and not set(subject + answer) & set('("\\,')
