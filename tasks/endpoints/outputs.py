"""Asks a server the fixed prompts, and reads what a model is known by: token ids, log-probabilities, greedy tokens.

One request for each prompt, always in the same form: what shares a batch moves log-probabilities in their last digits.
"""

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.domain.errors import EndpointUnavailable, InputError, LogprobsMissing
from tasks.domain.outputs import GREEDY_TOKENS, Answer, Prompt, Step, problems_of
from tasks.endpoints.probe import Reply, ask_http

ATTEMPTS = 3
"""Only where nothing was answered: refused connections, 429, 503."""
TIMEOUT_SECONDS = 120.0
"""The first chat of an instance waited 44 s where seven other programs had the two cores; later ones took 0.2 s."""
PATHS = {"text": "/v1/completions", "chat": "/v1/chat/completions"}
MISSING = "expected prompt_token_ids, prompt_logprobs, token_ids and logprobs, as vLLM gives them when asked"


class Heard(NamedTuple):
    """What a server said, and who it said that it is."""

    answers: tuple[Answer, ...]
    served_by: tuple[tuple[str, str], ...]
    """Artifact and generation by the gateway's headers, each pair once; empty strings where there were none."""


def ask_outputs(where: str, model: str, prompts: Sequence[Prompt | Answer], *, key: str = "") -> Heard:
    """Ask every prompt. Of an ``Answer`` on record a text is asked again as the token ids that it had then.

    Args:
        where: ``http://host:port``, or the path of a Unix socket.
        model: the name to ask for.
        prompts: what is asked.
        key: API key; "" where none is asked for.

    Raises:
        LogprobsMissing: naming every prompt that was answered without log-probabilities, or with broken ones.
        InputError: the server refused what was asked.
        EndpointUnavailable: it did not answer, or broke off.
    """
    answers, problems = [], []
    served_by: dict[tuple[str, str], None] = {}
    for one in prompts:
        prompt, tokens = (one.prompt, one.tokens) if isinstance(one, Answer) else (one, None)
        reply = ask_model(where, PATHS[prompt.kind], _body(model, prompt, tokens), model, key)
        served_by[reply.headers.get("x-empelt-artifact", ""), reply.headers.get("x-empelt-generation", "")] = None
        try:
            answer = _read(prompt, json.loads(reply.body))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{prompt.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        if tokens is not None and prompt.kind == "text" and answer.tokens != tokens:
            problems.append(f"{prompt.name}: {len(tokens)} token ids were sent, and {len(answer.tokens)} came back")
        problems += problems_of(answer)
        answers.append(answer)
    if problems:
        raise LogprobsMissing(
            f"{where} answered for {model} without the log-probabilities that tell which model answers; {MISSING}",
            problems=problems,
        )
    return Heard(tuple(answers), tuple(served_by))


def _body(model: str, prompt: Prompt, tokens: Sequence[int] | None) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "model": model,
        "max_tokens": GREEDY_TOKENS,
        "temperature": 0,
        "seed": 1234,
        "prompt_logprobs": 0,  # of the prompt's own tokens, and no others
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,  # two tokens may be the same text
    }
    if prompt.kind == "text":
        return {**asked, "prompt": prompt.text if tokens is None else list(tokens), "logprobs": 2}
    messages = [{"role": "user", "content": prompt.text}]
    return {**asked, "messages": messages, "logprobs": True, "top_logprobs": 2}


def ask_model(where: str, path: str, body: dict[str, Any], model: str, key: str) -> Reply:
    """One question, asked again where nothing was answered.

    Raises:
        InputError: the server refused it.
        EndpointUnavailable: it did not answer, or broke off.
    """
    failure = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(0.5 * attempt)
        try:
            reply = ask_http(where, "POST", path, body=body, key=key, timeout_seconds=TIMEOUT_SECONDS)
        except (OSError, http.client.HTTPException) as error:
            failure = f"{type(error).__name__}: {error}"
            continue
        if reply.status == 200 and not _is_broken_off(reply.body):
            return reply
        failure = f"HTTP {reply.status}: {reply.body[:300].decode(errors='replace')}"
        if reply.status in (400, 401, 403, 404, 413, 422):
            raise InputError(f"{where}{path} refused a question to {model} with {failure}")
    raise EndpointUnavailable(f"{where}{path} did not answer for {model}: {failure}")


def _is_broken_off(body: bytes) -> bool:
    """A draining vLLM answers 200 with ``finish_reason: "abort"`` (vllm#57082)."""
    if b'"abort"' not in body:
        return False
    try:
        return any(choice.get("finish_reason") == "abort" for choice in json.loads(body)["choices"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _read(prompt: Prompt, told: Mapping[str, Any]) -> Answer:
    """One answer; LookupError, TypeError or ValueError where something is missing in it."""
    choice = told["choices"][0]
    of_prompt = choice if prompt.kind == "text" else told
    tokens = [int(token) for token in of_prompt["prompt_token_ids"]]
    given = of_prompt["prompt_logprobs"]
    if len(given) != len(tokens):
        raise ValueError(f"{len(given)} prompt_logprobs for {len(tokens)} prompt_token_ids")
    values = [float(entry[str(token)]["logprob"]) for token, entry in zip(tokens[1:], given[1:], strict=True)]
    chosen = [int(token) for token in choice["token_ids"]]
    if prompt.kind == "text":
        own = [float(value) for value in choice["logprobs"]["token_logprobs"]]
        tops = [sorted(map(float, one.values()), reverse=True) for one in choice["logprobs"]["top_logprobs"]]
        text = choice["text"]
    else:
        content = choice["logprobs"]["content"]
        own = [float(entry["logprob"]) for entry in content]
        tops = [sorted((float(top["logprob"]) for top in entry["top_logprobs"]), reverse=True) for entry in content]
        text = choice["message"]["content"]
    if not len(own) == len(tops) == len(chosen):
        raise ValueError(f"{len(own)} log-probabilities for {len(chosen)} generated token_ids")
    steps = [
        Step(token=token, logprob=value, runner_up=top[1]) for token, value, top in zip(chosen, own, tops, strict=True)
    ]
    return Answer(prompt=prompt, tokens=tokens, logprobs=values, steps=steps, text=text or "")
