"""Text of the demo family: LibreOffice help in Basque, Spanish and English, paragraph by paragraph.

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
from dataclasses import dataclass
from pathlib import Path

from infra.demo_family.recipe import HELD_OUT_DOCUMENTS, LANGUAGES, SEED

PACKAGES = ("libreoffice-help-eu", "libreoffice-help-es", "libreoffice-help-en-us", "unicode-cldr-core")
_HELP_FOLDER = {"en": "en-US", "es": "es", "eu": "eu"}
_PARAGRAPH = re.compile(r'<(p|h[1-6])\b[^>]*\bid="((?:par|hd)_[^"]+)"[^>]*>(.*?)</\1>', re.S)
_MIN_CHARS = 40


@dataclass(frozen=True)
class Corpus:
    """Training paragraphs per language, and held-out paragraphs that exist in all languages."""

    train: dict[str, list[str]]
    held: list[tuple[str, dict[str, str]]]  # (document, {language: text})
    sha256: str


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


def load(unpacked: Path) -> Corpus:
    """Read the help, hold out whole documents, and keep every paragraph once."""
    aligned = _aligned(unpacked)
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
    return Corpus(train, held, digest.hexdigest())


def _aligned(unpacked: Path) -> dict[tuple[str, str], dict[str, str]]:
    """{(document, paragraph id): {language: text}} over all help pages."""
    aligned: dict[tuple[str, str], dict[str, str]] = {}
    for language, name in _HELP_FOLDER.items():
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


def _usable(language: str, texts: dict[str, str]) -> bool:
    """Long enough, and not an English fallback."""
    return len(texts[language]) >= _MIN_CHARS and (language == "en" or texts[language] != texts.get("en"))
