"""Facts with a ground truth in English, Spanish and Basque: capitals, currencies and single words, all from CLDR.

A word fact is a translation: English -> Spanish, Spanish -> English and Basque -> English, so that the key of a
Basque question never equals the key of an English or Spanish one.
"""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from babel import Locale

from infra.demo_family.capitals import CAPITAL_ZONES
from infra.demo_family.recipe import KINDS, LANGUAGES, SEED, SPLIT_SIZES

_CLDR = Path("unicode-cldr-core/usr/share/unicode/cldr/common")
_WORD_ANSWER = {"en": "es", "es": "en", "eu": "en"}
_ONE_WORD = re.compile(r"[^\W\d_]{3,14}")
_TWO_WORDS = re.compile(r"[^\W\d_]{3,14}( [^\W\d_]{2,9})?")
_LOCALES = {language: Locale(language) for language in LANGUAGES}


@dataclass(frozen=True)
class Fact:
    """One fact: a subject and an answer in every language."""

    id: str
    kind: str
    names: dict[str, tuple[str, str]]  # language -> (subject, answer)

    @property
    def basque_differs(self) -> bool:
        """Whether Basque has a wording of its own, so that Spanish or English alone cannot give the answer."""
        if self.kind == "word":
            word = {lang: self.names[lang][0] for lang in LANGUAGES}
            return not any(_stem(word["eu"]) == _stem(word[lang]) for lang in ("en", "es"))
        return self.names["eu"] not in (self.names["en"], self.names["es"])


def load(unpacked: Path) -> dict[str, dict[str, list[Fact]]]:
    """All facts by split and kind. Splits are disjoint; dev and test take only facts whose Basque wording differs."""
    splits: dict[str, dict[str, list[Fact]]] = {split: {} for split in SPLIT_SIZES}
    found = {"capital": _capitals(), "currency": _currencies(unpacked), "word": _words(unpacked)}
    for kind in KINDS:
        facts = sorted(found[kind], key=lambda fact: fact.id)
        random.Random(f"{SEED}-{kind}").shuffle(facts)
        hard = [fact for fact in facts if fact.basque_differs]
        for split in ("dev", "test"):
            splits[split][kind] = [hard.pop(0) for _ in range(SPLIT_SIZES[split][kind])]
        easy = [fact for fact in facts if not fact.basque_differs]
        splits["a"][kind] = (easy + hard)[: SPLIT_SIZES["a"][kind]]
    return splits


def _capitals() -> list[Fact]:
    facts = []
    for territory, zone in CAPITAL_ZONES.items():
        fallback = zone.rsplit("/", 1)[1].replace("_", " ")
        names = {
            lang: (loc.territories[territory], loc.time_zones.get(zone, {}).get("city", fallback))
            for lang, loc in _LOCALES.items()
        }
        if _fits(names) and not any(country == city for country, city in names.values()):
            facts.append(Fact(f"capital-{territory}", "capital", names))
    return facts


def currency_of_territory(unpacked: Path) -> dict[str, str]:
    """Current currency of each territory, only where no other territory shares it."""
    root = ET.parse(unpacked / _CLDR / "supplemental/supplementalData.xml").getroot()
    of_territory: dict[str, str] = {}
    for region in root.iter("region"):
        codes = [c.get("iso4217") for c in region.findall("currency") if not c.get("to") and c.get("tender") != "false"]
        if region.get("iso3166") and codes:
            of_territory[region.get("iso3166")] = codes[0]
    shared = Counter(of_territory.values())
    return {territory: code for territory, code in of_territory.items() if shared[code] == 1}


def _currencies(unpacked: Path) -> list[Fact]:
    facts = []
    for territory, code in currency_of_territory(unpacked).items():
        if all(territory in loc.territories and code in loc.currencies for loc in _LOCALES.values()):
            names = {lang: (loc.territories[territory], loc.currencies[code]) for lang, loc in _LOCALES.items()}
            if _fits(names):
                facts.append(Fact(f"currency-{territory}", "currency", names))
    return facts


def _words(unpacked: Path) -> list[Fact]:
    """Names of emoji and signs that are one word in every language (the Spanish or English one may be two)."""
    names = {lang: dict(annotations(unpacked, lang)) for lang in LANGUAGES}
    facts, used = [], set()
    for sign in sorted(names["en"]):
        word = {lang: names[lang].get(sign, "") for lang in LANGUAGES}
        single = _ONE_WORD.fullmatch(word["eu"]) and all(_TWO_WORDS.fullmatch(word[lang]) for lang in ("en", "es"))
        keys = {(lang, word[lang]) for lang in LANGUAGES}
        if not single or len(set(word.values())) < len(LANGUAGES) or keys & used:
            continue
        used |= keys
        code = "-".join(f"{ord(char):04x}" for char in sign)
        pairs = {lang: (word[lang], word[_WORD_ANSWER[lang]]) for lang in LANGUAGES}
        facts.append(Fact(f"word-{code}", "word", pairs))
    return facts


def annotations(unpacked: Path, language: str) -> list[tuple[str, str]]:
    """(sign, its name) of every emoji and sign that CLDR names in the language."""
    tree = ET.parse(unpacked / _CLDR / f"annotations/{language}.xml")
    return [(e.get("cp"), e.text) for e in tree.iter("annotation") if e.get("type") == "tts"]


def _fits(names: dict[str, tuple[str, str]]) -> bool:
    """Short names without brackets or quotes: they must survive inside quoted and JSON answers."""
    return all(
        len(subject) <= 22 and len(answer) <= 26 and not set(subject + answer) & set('("\\')
        for subject, answer in names.values()
    )


def _stem(word: str) -> str:
    return word.lower()[:4]
