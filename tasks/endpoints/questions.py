"""Asks a served model plain questions, and keeps what it said and why it ended. A few at a time."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from tasks.domain.errors import EndpointUnavailable
from tasks.endpoints.outputs import PATHS, ask_model

AT_ONCE = 8


class Said(NamedTuple):
    """One answer."""

    text: str
    finish_reason: str
    """``stop`` or ``length``."""


def ask_questions(
    where: str,
    model: str,
    prompts: Sequence[str],
    *,
    kind: Literal["text", "chat"],
    tokens: int,
    key: str = "",
) -> tuple[Said, ...]:
    """Greedy answers, in the order of the prompts: a text is continued by exactly ``tokens``, a chat ends by itself.

    Special tokens are asked for: a server leaves them out of its answers, where nobody would see them leak.

    Raises:
        InputError: the server refused a question, such as a chat to a model without a template.
        EndpointUnavailable: it did not answer, broke off, or answered with something else.
    """
    asked: dict[str, Any] = {"model": model, "max_tokens": tokens, "temperature": 0, "seed": 1234}
    asked["skip_special_tokens"] = False
    if kind == "text":
        body = {**asked, "prompt": list(prompts), "min_tokens": tokens}
        return _read(where, model, kind, ask_model(where, PATHS[kind], body, model, key).body, len(prompts))

    def ask(prompt: str) -> Said:
        body = {**asked, "messages": [{"role": "user", "content": prompt}]}
        return _read(where, model, kind, ask_model(where, PATHS[kind], body, model, key).body, 1)[0]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return tuple(pool.map(ask, prompts))


def _read(where: str, model: str, kind: str, body: bytes, expected: int) -> tuple[Said, ...]:
    try:
        choices = sorted(json.loads(body)["choices"], key=lambda choice: int(choice.get("index", 0)))
        texts = [choice["message"]["content"] if kind == "chat" else choice["text"] for choice in choices]
        found = tuple(
            Said(str(text or ""), str(choice["finish_reason"])) for text, choice in zip(texts, choices, strict=True)
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise EndpointUnavailable(
            f"{where} answered a {kind} to {model} with no answer in it: {body[:200]!r}"
        ) from error
    if len(found) != expected or {one.finish_reason for one in found} - {"stop", "length"}:
        raise EndpointUnavailable(
            f"{where} gave {len(found)} answers to {expected} questions to {model}, ended by"
            f" {sorted({one.finish_reason for one in found})}; expected each to end by stop or length"
        )
    return found
