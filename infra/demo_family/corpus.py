"""Text of the demo family: LibreOffice help, paragraph by paragraph.

The help is a real translation and its paragraph ids are equal in every language, so the same paragraphs can be held
out in all of them. Untranslated paragraphs fall back to English in the packages; they are dropped, or "Basque"
perplexity would partly measure English.
"""

from __future__ import annotations

import hashlib
import html
import random
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from infra.demo_family.recipe import HELD_OUT_DOCUMENTS, LANGUAGES, MORE_LANGUAGES, SEED

_HELP_FOLDER = {"en": "en-US", "es": "es", "eu": "eu", "ca": "ca", "gl": "gl", "pt": "pt"}  # pt: European Portuguese
PACKAGES = (*(f"libreoffice-help-{name.lower()}" for name in _HELP_FOLDER.values()), "unicode-cldr-core")
_PARAGRAPH = re.compile(r'<(p|h[1-6])\b[^>]*\bid="((?:par|hd)_[^"]+)"[^>]*>(.*?)</\1>', re.S)
_MIN_CHARS = 40
_ENGLISH = frozenset({"the", "of", "to", "and", "is", "are", "with", "for", "that", "this", "you"})
_LEFTOVER = re.compile(r"\$ ?\[|%PRODUCT|\u200b")  # variables that a translation broke


@dataclass(frozen=True)
class Corpus:
    """Training paragraphs per language, and held-out paragraphs that exist in en, es and eu alike."""

    train: dict[str, list[str]]
    held: list[tuple[str, dict[str, str]]]  # (document, {language: text})
    sha256: str
    held_more: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    """Of each further language: (document, English text, text), from the same held-out documents."""


def fetch(folder: Path) -> Path:
    """Download and unpack the Debian packages; nothing is installed. Returns the folder of unpacked packages."""
    debs, unpacked = folder / "debs", folder / "unpacked"
    debs.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(debs.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", *missing], cwd=debs, check=True)
    for name in PACKAGES:
        if not (unpacked / name).is_dir():
            (unpacked / name).mkdir(parents=True)
            subprocess.run(["dpkg", "-x", str(next(debs.glob(f"{name}_*.deb"))), str(unpacked / name)], check=True)
    return unpacked


def load(unpacked: Path, more: Iterable[str] = MORE_LANGUAGES) -> Corpus:
    """Read the help, hold out whole documents, and keep every paragraph once.

    The languages of `more` are added beside: what is held out, and the text of en, es and eu, do not depend on them.
    """
    aligned = _aligned(unpacked, LANGUAGES)
    documents = sorted({document for document, _ in aligned})
    random.Random(SEED).shuffle(documents)
    held_documents = set(documents[: int(len(documents) * HELD_OUT_DOCUMENTS)])
    seen: dict[str, set[str]] = {language: set() for language in LANGUAGES}
    train: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    held: list[tuple[str, dict[str, str]]] = []
    # Held-out documents first: a paragraph that also occurs in a training document is then dropped from training.
    for key in sorted(aligned, key=lambda k: (k[0] not in held_documents, k)):
        texts = {lang: t for lang, t in aligned[key].items() if _usable(lang, aligned[key]) and t not in seen[lang]}
        for language, text in texts.items():
            seen[language].add(text)
            if key[0] not in held_documents:
                train[language].append(text)
        if key[0] in held_documents and len(texts) == len(LANGUAGES):
            held.append((key[0], texts))
    digest = hashlib.sha256()
    for language in LANGUAGES:
        digest.update("\n".join(train[language]).encode())
    held_more = {}
    for language in more:
        train[language], held_more[language] = _further(_aligned(unpacked, ("en", language)), language, held_documents)
    return Corpus(train, held, digest.hexdigest(), held_more)


def _further(
    aligned: dict[tuple[str, str], dict[str, str]], language: str, held_documents: set[str]
) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Training paragraphs of one further language, and its held-out ones beside the English."""
    seen = {texts["en"] for texts in aligned.values() if "en" in texts}
    train, held = [], []
    for key in sorted(aligned, key=lambda k: (k[0] not in held_documents, k)):
        texts = aligned[key]
        if language not in texts or texts[language] in seen or not _usable(language, texts):
            continue
        if _LEFTOVER.search(texts[language]) or mostly_english(texts[language]):
            continue
        seen.add(texts[language])
        if key[0] in held_documents:
            held.append((key[0], texts.get("en", ""), texts[language]))
        else:
            train.append(texts[language])
    return train, held


def _aligned(unpacked: Path, languages: Iterable[str]) -> dict[tuple[str, str], dict[str, str]]:
    """{(document, paragraph id): {language: text}} over all help pages."""
    aligned: dict[tuple[str, str], dict[str, str]] = {}
    for language in languages:
        name = _HELP_FOLDER[language]
        root = unpacked / f"libreoffice-help-{name.lower()}" / "usr/share/libreoffice/help" / name / "text"
        for page in sorted(root.rglob("*.html")):
            source = page.read_text(encoding="utf8")
            source = source[max(0, source.find('id="DisplayArea"')) :]
            for match in _PARAGRAPH.finditer(source):
                text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", match[3]))).strip()
                if text:
                    key = (str(page.relative_to(root)), match[2])
                    aligned.setdefault(key, {}).setdefault(language, text)
    return aligned


def mostly_english(text: str) -> bool:
    """Whether one word in eight is among the commonest English ones: an English fallback under another wording."""
    words = text.lower().split()
    return 8 * sum(word in _ENGLISH for word in words) >= len(words)


def _usable(language: str, texts: dict[str, str]) -> bool:
    """Long enough, and not an English fallback."""
    return len(texts[language]) >= _MIN_CHARS and (language == "en" or texts[language] != texts.get("en"))
