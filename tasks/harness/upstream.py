"""Benchmarks of others: what their YAML says of the data set, and from its rows to our items.

``metadata.source`` of a YAML in ``suites/upstream/`` names the data set and says, as Jinja, what a row becomes:

    repo, config or configs, split, shots_split, revision, licence    where the rows come from
    where      expression: rows for which it is false are left out
    id         expression; without it, the row's number, which the pinned revision fixes
    cluster    expression: the passage or exam that the row shares with others
    prompt     template: what is asked, in words of ours
    choices    expression: a list of texts     answer   expression: the place of the right one
    answers    expression: texts that are right, for benchmarks that are answered in words

Expressions see the row's fields, ``letters(n)`` and ``lettered(texts)``; they run in a sandbox. No row is ever skipped
for being odd: a field that is missing, an answer that is no place, an empty choice are refused, with the row.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tasks.domain.errors import InputError

LETTERS = "ABCDEFGH"
_SHOWN = 10
"""Problems that are listed of a data set; a wrong field is wrong in every row."""


def letters(count: int) -> list[str]:
    """The first ``count`` capitals."""
    return list(LETTERS[:count])


def lettered(texts: Sequence[str]) -> str:
    """One line for each text, each after its capital and a colon."""
    return "\n".join(f"{letter}: {text}" for letter, text in zip(LETTERS, texts, strict=False))


def _refuse_empty(value: Any) -> Any:
    """What a template puts into a prompt; a field without a value would read "None" there."""
    if value is None:
        raise ValueError("a field of the prompt is empty")
    return value


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, finalize=_refuse_empty
    )
    environment.globals.update(letters=letters, lettered=lettered)
    return environment


@cache
def _expression(text: str) -> Any:
    return _environment().compile_expression(text, undefined_to_none=False)


@cache
def _template(text: str) -> Any:
    return _environment().from_string(text)


def value_of(expression: str, row: Mapping[str, Any]) -> Any:
    """``expression`` over the fields of ``row``.

    Raises:
        UndefinedError: if it names a field that the row has not.
    """
    found = _expression(expression)(**row)
    if isinstance(found, StrictUndefined):
        str(found)  # raises, and names the field
    return found


def item_of(source: Mapping[str, Any], item_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Our item for one row.

    Raises:
        InputError: naming the item, what is wrong with it, and the fields that there are.
    """
    try:
        item = {"id": item_id, "prompt": _template(source["prompt"]).render(**row), "cluster": ""}
        if "cluster" in source:
            item["cluster"] = _short(str(value_of(source["cluster"], row)))
        if "choices" in source:
            item["choices"] = [str(choice) for choice in value_of(source["choices"], row)]
            item["answer"] = int(value_of(source["answer"], row))
        else:
            item["answers"] = [str(answer) for answer in value_of(source["answers"], row)]
    except (UndefinedError, SecurityError, TemplateError, TypeError, ValueError) as error:
        raise InputError(f"{item_id}: {error}; fields: {', '.join(sorted(row))}") from error
    wrong = _wrong(item)
    if wrong:
        raise InputError(f"{item_id}: {wrong}")
    return item


def _short(cluster: str) -> str:
    """``cluster``, or a digest of it where it is a whole passage: it is stored with each item's outcome."""
    return cluster if len(cluster) <= 40 else hashlib.sha256(cluster.encode()).hexdigest()[:16]


def _wrong(item: Mapping[str, Any]) -> str:
    if "answers" in item:
        return "" if any(answer.strip() for answer in item["answers"]) else "no answer that is right"
    choices, answer = item["choices"], item["answer"]
    if len(choices) < 2 or not all(choice.strip() for choice in choices) or len(set(choices)) < len(choices):
        return f"choices {choices}: expected two or more, none empty, none twice"
    return "" if 0 <= answer < len(choices) else f"answer {answer} of {len(choices)} choices, counted from 0"


def items_of(benchmark: str, source: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Our items for stored rows (``{"id", "row"}``); InputError with the first ten problems if some cannot be read."""
    items, problems = [], []
    for stored in rows:
        try:
            items.append(item_of(source, stored["id"], stored["row"]))
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(
            f"{benchmark}: {len(problems)} of {len(problems) + len(items)} rows of {source['repo']} do not have the"
            " expected shape",
            problems=problems[:_SHOWN],
        )
    return items
