"""Instructions that a program can check, one line each in two tables, and the refusal of sets that nobody can follow.

An item of such a benchmark is ``{"id", "prompt", "language", "checks": [{"kind": ..., ...}]}``; ``language`` is the one
that the answer has to be in, empty where it is too short or not prose. Counts take ``at_least``, ``at_most`` or
``exactly``. Checks read NFC text (``texts.clean``), and letter case matters only where the instruction is about it.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tasks.domain.errors import InputError
from tasks.harness import texts
from tasks.harness.languages import LANGUAGES, language_of

Check = Mapping[str, Any]
BOUNDS = ("at_least", "at_most", "exactly")


class Counted(NamedTuple):
    """A kind of instruction that bounds a number."""

    number: Callable[[str, Check], int]
    needs: tuple[str, ...] = ()


class Held(NamedTuple):
    """A kind of instruction that holds or does not."""

    holds: Callable[[str, Check], bool]
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()


COUNTED: Mapping[str, Counted] = {
    "words": Counted(lambda text, check: len(texts.words(text))),
    "sentences": Counted(lambda text, check: len(texts.sentences(text))),
    "paragraphs": Counted(lambda text, check: len(texts.paragraphs(text))),
    "lines": Counted(lambda text, check: len(texts.lines(text))),
    "bullets": Counted(lambda text, check: len(texts.bullets(text))),
    "numbered": Counted(lambda text, check: len(texts.numbered(text))),
    "headings": Counted(lambda text, check: len(texts.headings(text))),
    "table_rows": Counted(lambda text, check: len(texts.table(text))),
    "bold": Counted(lambda text, check: len(re.findall(r"\*\*[^*\n]+\*\*", text))),
    "placeholders": Counted(lambda text, check: len(re.findall(r"\[[^\[\]\n]+\]", text))),
    "questions": Counted(lambda text, check: text.count("?")),
    "numbers": Counted(lambda text, check: len(re.findall(r"\d+(?:[.,]\d+)*", text))),
    "parts": Counted(lambda text, check: sum(bool(p.strip()) for p in text.split(check["separator"])), ("separator",)),
    "occurs": Counted(
        lambda text, check: texts.occurrences(text, check["word"], endings=bool(check.get("endings"))), ("word",)
    ),
    "json_list": Counted(lambda text, check: len(found) if isinstance(found := texts.parsed(text), list) else -1),
}
"""What is counted; ``json_list`` is -1, below every bound, where the answer is no JSON list."""


def _each_occurs(text: str, check: Check) -> bool:
    return all(texts.occurrences(text, word, endings=bool(check.get("endings"))) for word in check["words"])


def _none_occurs(text: str, check: Check) -> bool:
    return not any(texts.occurrences(text, word, endings=bool(check.get("endings"))) for word in check["words"])


def _json(text: str, check: Check) -> bool:
    found = texts.parsed(text)
    return (
        isinstance(found, dict)
        and set(found) == {texts.clean(key) for key in check["keys"]}
        and all(value not in ("", None, [], {}) for value in found.values())
    )


def _letters(text: str, check: Check) -> bool:
    return text.isupper() if check["case"] == "upper" else text.islower()


def _postscript(text: str, check: Check) -> bool:
    last = texts.paragraphs(text)[-1:] or [""]
    line = texts.lines(last[0])[-1:] or [""]
    return line[0].startswith(check["marker"]) and len(texts.words(line[0].removeprefix(check["marker"]))) > 0


def _acrostic(text: str, check: Check) -> bool:
    first = "".join(line.lstrip("*_ ")[:1] for line in texts.lines(text))
    return first.casefold() == texts.clean(check["word"]).casefold()


def _code(text: str, check: Check) -> bool:
    return re.search(rf"^```{re.escape(check['code'])}\n.+?^```", text, re.DOTALL | re.MULTILINE) is not None


HELD: Mapping[str, Held] = {
    "contains": Held(_each_occurs, ("words",), ("endings",)),
    "excludes": Held(_none_occurs, ("words",), ("endings",)),
    "json": Held(_json, ("keys",)),
    "starts_with": Held(lambda text, check: text.startswith(texts.clean(check["phrase"])), ("phrase",)),
    "ends_with": Held(lambda text, check: text.endswith(texts.clean(check["phrase"])), ("phrase",)),
    "letters": Held(_letters, ("case",)),
    "postscript": Held(_postscript, ("marker",)),
    "title": Held(lambda text, check: re.match(r"<<[^<>\n]+>>\s*(\n|$)", text) is not None),
    "quoted": Held(lambda text, check: len(text) > 2 and text[0] + text[-1] in ('""', "«»", "“”")),
    "no_commas": Held(lambda text, check: "," not in text),
    "no_digits": Held(lambda text, check: not any(character.isdigit() for character in text)),
    "no_exclamations": Held(lambda text, check: not set("!¡") & set(text)),
    "one_of": Held(lambda text, check: text in map(texts.clean, check["options"]), ("options",)),
    "acrostic": Held(_acrostic, ("word",)),
    "code": Held(_code, ("code",)),
    "language": Held(lambda text, check: language_of(text) == check["language"], ("language",)),
}
"""What holds or does not. Every kind here and above has a line in ``tests/harness/test_instructions.py``."""

WHOLE = frozenset({"json", "json_list", "one_of"})
"""Kinds that say what the whole answer is: no list, title or sentence can be asked for beside them."""
_LAYOUT = frozenset(COUNTED) - {"words", "occurs", "numbers"} | {"title", "quoted", "acrostic", "postscript", "code"}


def follows(answer: str, check: Check) -> bool:
    """Whether ``answer`` does what ``check`` asks; an empty answer does nothing that was asked."""
    text, kind = texts.clean(answer), str(check["kind"])
    if not text:
        return False
    if kind in HELD:
        return HELD[kind].holds(text, check)
    low, high = _bounds(check)
    return low <= COUNTED[kind].number(text, check) <= high


def _bounds(check: Check) -> tuple[float, float]:
    if check.get("exactly") is not None:
        return check["exactly"], check["exactly"]
    low, high = check.get("at_least"), check.get("at_most")
    return 0 if low is None else low, math.inf if high is None else high


def stated(check: Check) -> dict[str, Any]:
    """``check`` without the empty fields that a table of many kinds gives it."""
    return {key: value for key, value in check.items() if value is not None}


def refuse_impossible(benchmark: str, items: Iterable[Mapping[str, Any]]) -> None:
    """Raises InputError, listing every problem: unknown kinds, wrong parameters, checks that exclude each other."""
    problems = []
    for item in items:
        checks = [stated(check) for check in item["checks"]]
        wrong = [problem for check in checks for problem in _misshapen(check)]
        if not checks:
            wrong = ["no check: every answer would do"]
        asked = [check.get("language", item["language"]) for check in checks if check.get("kind") == "language"]
        if item["language"] not in ("", *LANGUAGES) or any(language != item["language"] for language in asked):
            wrong.append(f"language {item['language']!r}, and the checks ask {asked}; known: {', '.join(LANGUAGES)}")
        problems += [f"{item['id']}: {problem}" for problem in wrong or contradictions(checks)]
    if problems:
        raise InputError(
            f"{benchmark}: {len(problems)} items or checks that no answer can be judged by", problems=problems
        )


def _misshapen(check: Check) -> list[str]:
    kind, given = str(check.get("kind")), set(check) - {"kind"}
    if kind in COUNTED:
        needs, may = set(COUNTED[kind].needs), {*BOUNDS, *(("endings",) if kind == "occurs" else ())}
        if not given & set(BOUNDS) or ("exactly" in given and given & {"at_least", "at_most"}):
            return [f"{kind}: give at_least, at_most or both; or exactly alone"]
    elif kind in HELD:
        needs, may = set(HELD[kind].needs), set(HELD[kind].may)
    else:
        return [f"unknown kind {kind!r}; known: {', '.join(sorted({*COUNTED, *HELD}))}"]
    missing, unknown = sorted(needs - given), sorted(given - needs - may)
    return [f"{kind}: {what} {', '.join(names)}" for what, names in (("lacks", missing), ("unknown", unknown)) if names]


def contradictions(checks: Sequence[Check]) -> list[str]:
    """What in ``checks`` cannot be had together, in words; found by the kinds, not by search."""
    kinds = [str(check["kind"]) for check in checks]
    found = [f"{kind} twice" for kind in sorted(set(kinds)) if kinds.count(kind) > 1 and kind != "occurs"]
    by_kind = dict(zip(kinds, checks, strict=True))
    for check in checks:
        low, high = _bounds(check)
        if check["kind"] in COUNTED and (low > high or (high == 0 and check["kind"] != "occurs")):
            found.append(f"{check['kind']}: between {low:g} and {high:g}")
    for whole in WHOLE & by_kind.keys():
        found += [f"{whole} and {other}" for other in sorted((_LAYOUT | WHOLE) - {whole}) if other in by_kind]
    asked = [word.casefold() for word in by_kind.get("contains", {}).get("words", ())]
    asked += [c["word"].casefold() for c in checks if c["kind"] == "occurs" and _bounds(c)[0] > 0]
    phrases = [by_kind[kind]["phrase"] for kind in ("starts_with", "ends_with") if kind in by_kind]
    for banned in by_kind.get("excludes", {}).get("words", ()):
        if any(texts.occurrences(text, banned) for text in [*(p.casefold() for p in phrases), *asked]):
            found.append(f"{banned!r} is asked for and excluded")
    phrases += asked
    if "no_commas" in by_kind and (any("," in p for p in phrases) or len(by_kind.get("json", {}).get("keys", ())) > 1):
        found.append("no_commas and something that needs one")
    if "no_digits" in by_kind and (
        {"numbered", "numbers"} & by_kind.keys() or any(re.search(r"\d", p) for p in phrases)
    ):
        found.append("no_digits and something that needs one")
    case = by_kind.get("letters", {}).get("case")
    exact = [by_kind[kind][key] for kind, key in _EXACT if kind in by_kind]
    exact += by_kind.get("json", {}).get("keys", [])
    if case and any(text != (text.upper() if case == "upper" else text.lower()) for text in exact):
        found.append(f"letters: {case}, and a phrase in others")
    return found + _too_short(by_kind)


_EXACT = (("starts_with", "phrase"), ("ends_with", "phrase"), ("postscript", "marker"))


def _too_short(by_kind: Mapping[str, Check]) -> list[str]:
    """More sentences, paragraphs, list entries or asked words than the words allowed."""
    most = _bounds(by_kind["words"])[1] if "words" in by_kind else math.inf
    pieces = ("sentences", "paragraphs", "lines", "bullets", "numbered", "headings", "parts")
    needed = {kind: _bounds(by_kind[kind])[0] for kind in pieces if kind in by_kind}
    needed["contains"] = len(by_kind.get("contains", {}).get("words", ()))
    return [f"at most {most:g} words, and {least:g} {kind}" for kind, least in needed.items() if least > most]
