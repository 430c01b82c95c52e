"""Hears a model out for a search: its own greedy answers to questions, and how many bits it needs for given texts.

Texts and answers go many in a request, as lm-eval's do; a question goes alone, since the chat endpoint takes one.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from tasks.domain.errors import LogprobsMissing
from tasks.domain.search import PER_REQUEST, Asked
from tasks.endpoints.outputs import MISSING, PATHS, ask_model

ANSWER_TOKENS = 64
"""Of an answer, at most: what is said first is what a merge may keep or lose."""


def ask_answers(where: str, model: str, questions: Sequence[str], *, key: str = "") -> tuple[Asked, ...]:
    """The model's own greedy answers, as what another model is heard on. An empty answer is left out.

    Raises:
        LogprobsMissing: the server does not tell the token ids.
        InputError: it refused a question.
        EndpointUnavailable: it did not answer.
    """
    found = []
    for question in questions:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "max_tokens": ANSWER_TOKENS}
        # prompt_logprobs are not needed: where they are not told, a search ends here and not at its first candidate.
        body |= {"model": model, "temperature": 0, "seed": 1234, "prompt_logprobs": 0, "return_token_ids": True}
        told = json.loads(ask_model(where, PATHS["chat"], body, model, key).body)
        try:
            choice = told["choices"][0]
            prompt, said = told["prompt_token_ids"], choice["token_ids"]
            text = choice["message"]["content"] or ""
            one = Asked(text=text, tokens=(*map(int, prompt), *map(int, said)), start=len(prompt))
        except (LookupError, TypeError, ValueError) as error:
            raise LogprobsMissing(f"{where} answered {question!r} without token ids for {model}; {MISSING}") from error
        if text and said:
            found.append(one)
    return tuple(found)


def ask_bits(where: str, model: str, items: Sequence[Asked], *, key: str = "") -> tuple[float, ...]:
    """Bits that the model needs for each item.

    Raises:
        LogprobsMissing: the server gives no log-probabilities, or one that is no finite number.
        InputError: it refused what was asked.
        EndpointUnavailable: it did not answer.
    """
    found: list[float] = []
    for first in range(0, len(items), PER_REQUEST):
        some = items[first : first + PER_REQUEST]
        body = {
            "model": model,
            "prompt": [list(one.tokens) for one in some] if some[0].tokens else [one.text for one in some],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
            "return_token_ids": True,
        }
        told = json.loads(ask_model(where, PATHS["text"], body, model, key).body)
        try:
            choices = sorted(told["choices"], key=lambda choice: int(choice["index"]))
            values = [_bits(choice, one.start) for choice, one in zip(choices, some, strict=True)]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise LogprobsMissing(
                f"{where} answered for {model} without log-probabilities ({said}); {MISSING}"
            ) from error
        found += values
    return tuple(found)


def _bits(choice: dict[str, Any], start: int) -> float:
    tokens, given = choice["prompt_token_ids"], choice["prompt_logprobs"]
    told = zip(tokens[start:], given[start:], strict=True)
    bits = -sum(float(entry[str(token)]["logprob"]) for token, entry in told) / math.log(2)
    if not math.isfinite(bits):
        raise ValueError(f"{bits} bits")
    return bits
