"""How an answer in words is marked: called by lm-eval, by name from the benchmarks' YAML."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from tasks.harness import texts
from tasks.harness.instructions import follows, stated
from tasks.harness.languages import language_of, told

CUT = " [cut: no stop]"
"""Put after an answer that ran into its length limit, so that it can never equal a gold answer by accident."""


def answered(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Strict and lenient marks for one chat answer."""
    said, gold = results[0], str(doc["answer"])
    whole = json.dumps({"answer": gold}, ensure_ascii=False)
    first_line = said.strip().split("\n", 1)[0]
    return {"strict": float(said == whole), "lenient": float(bool(gold) and gold in first_line)}


def in_language(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """1 if the continuation is in the language that the text began in."""
    said = results[0].removesuffix(CUT).strip()
    return {"in_language": float(told(said) == doc["language"])}


def followed(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Marks for an answer to instructions: everything done, how much of it, and in the language asked for.

    ``followed`` is (instructions followed, instructions given). ``in_language`` is NaN where the item asks for
    something too short to tell (``language`` is empty): such an item does not count there. A cut answer never ended,
    and an answer that never ends has followed nothing.
    """
    said, cut = results[0].removesuffix(CUT), results[0].endswith(CUT)
    held = [not cut and follows(said, stated(check)) for check in doc["checks"]]
    asked = str(doc["language"])
    right = not asked or language_of(said) == asked
    return {
        "strict": float(all(held) and right),
        "followed": (sum(held), len(held)),
        "in_language": float(right) if asked else math.nan,
    }


def solved(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Strict: the last number that was said is the right one; lenient: the right one is among those that were said."""
    gold = _number(str(doc["answers"][0]))
    said = [_number(found) for found in re.findall(r"-?\d+(?:[.,]\d+)*", results[0])]
    return {"strict": float(said[-1:] == [gold]), "lenient": float(gold in said)}


def _number(text: str) -> float:
    """Of ``1.234,5``, ``1,234.5`` or ``1234.5``: a mark before exactly three digits parts thousands."""
    plain = re.sub(r"[.,](?=\d{3}(?:\D|$))", "", text).replace(",", ".")
    return float(plain) if plain.count(".") < 2 else math.nan


def named(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Strict: the whole answer is a right one, but for case and marks around it; lenient: it holds a right one."""
    said = f" {' '.join(texts.words(texts.clean(results[0]).casefold()))} "
    golds = [f" {' '.join(texts.words(texts.clean(str(gold)).casefold()))} " for gold in doc["answers"]]
    golds = [gold for gold in golds if gold.strip()]
    return {"strict": float(said in golds), "lenient": float(any(gold in said for gold in golds))}


def share(pairs: Sequence[tuple[int, int]]) -> float:
    """lm-eval's aggregate of ``followed``: instructions followed, of all that were given."""
    return sum(done for done, _ in pairs) / sum(of for _, of in pairs)
