"""The model behind an OpenAI-compatible server, as lm-eval sees it.

lm-eval's own ``local-completions`` builds the payloads and reads the log-likelihoods; the way over the network is ours,
for what a gate cannot have: three silent retries of everything, texts scored one request at a time, prompts cut on the
left with a log line, ``finish_reason: "abort"`` (HTTP 200 while vLLM shuts down) taken as an empty and so wrong answer.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from lm_eval.api.instance import Instance
from lm_eval.models.api_models import JsonChatStr
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer

from tasks.domain.errors import EndpointUnavailable, InputError, ModelRefused

CUT = " [cut: no stop]"
"""Put after an answer that ran into its length limit, so that it can never equal a gold answer by accident."""
_ASKED_WRONGLY = frozenset({400, 401, 403, 413, 422})
_ENOUGH_TO_SUSPECT = 50
"""Tokens from which on one and the same log-likelihood for each is no accident."""
_ATTEMPTS = 3
"""Only for what fails before an answer began: refused connections, 429, 503."""


class _Scored(NamedTuple):
    benchmark: str
    tokens: list[int]
    context: int
    """How many of ``tokens`` are given; the log-likelihood is that of the rest."""


class ServedModel(LocalCompletionsAPI):  # type: ignore[misc]  # lm-eval ships no types
    """lm-eval's view of one served model: completions for log-likelihoods, chat (or completions) for answers."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        folder: Path,
        prefix_token_id: int,
        max_length: int,
        batch_size: int,
        concurrency: int,
        timeout_seconds: float,
        api_key: str | None,
        on_done: Callable[[str, int], None],
    ) -> None:
        """Nothing is sent yet; ``on_done(benchmark, requests)`` is called as answers come in."""
        super().__init__(model=model, base_url=base_url, tokenizer_backend=None, max_length=max_length, seed=1234)
        self._url = base_url.rstrip("/")
        self._tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokens.no_truncation()
        self._tokens.no_padding()
        self._prefix = prefix_token_id
        self._window = max_length - 1  # the server adds one generated token
        self._prompts_per_request = batch_size
        self._concurrency = concurrency
        self._timeout_seconds = timeout_seconds
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._on_done = on_done
        self._seen: set[float] = set()
        self._scored_tokens = 0

    @property
    def prefix_token_id(self) -> int:
        """The one token that every scored sequence starts with, the same for all models of a family.

        lm-eval would take the tokenizer's eos, which differs between base and instruct: 6 % in bits per byte.
        """
        return self._prefix

    @property
    def tokenizer_name(self) -> str:
        """Only names lm-eval's request cache, which is never used."""
        return self.model  # type: ignore[no-any-return]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> JsonChatStr:
        """Messages as they are: the server applies its own template, the one that users get."""
        return JsonChatStr(json.dumps(chat_history, ensure_ascii=False))

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        """Token ids without special tokens."""
        return self._tokens.encode(string, add_special_tokens=False).ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after prefix token and context."""
        work = []
        for request in requests:
            context, continuation = request.args
            given, rest = self._encode_pair(context, continuation) if context else ([], self.tok_encode(continuation))
            work.append(_Scored(request.task_name or "", [self._prefix, *given, *rest], 1 + len(given)))
        return self._score(work)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, all windows of all texts in one go."""
        work, owner = [], []
        for index, request in enumerate(requests):
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]),
                prefix_token=self._prefix,
                max_seq_len=self._window - 1,
                context_len=1,
            )
            for given, rest in map(make_disjoint_window, windows):
                work.append(_Scored(request.task_name or "", [*given, *rest], len(given)))
                owner.append(index)
        totals = [0.0] * len(requests)
        for index, (value, _) in zip(owner, self._score(work), strict=True):
            totals[index] += value
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers: chat where the context is a chat, else plain completion."""

        def job(request: Instance) -> Callable[[aiohttp.ClientSession], Awaitable[str]]:
            async def run(session: aiohttp.ClientSession) -> str:
                text = await self._answer(session, request.args[0], dict(request.args[1]))
                self._on_done(request.task_name or "", 1)
                return text

            return run

        return asyncio.run(self._all([job(r) for r in requests], self._concurrency))

    def probe(self) -> None:
        """Ask for one log-likelihood: the model is there, and the server gives log-likelihoods of prompts."""
        self._score([_Scored("", [self._prefix, self._prefix], 1)])

    def _score(self, work: Sequence[_Scored]) -> list[tuple[float, bool]]:
        longest = max(work, key=lambda w: len(w.tokens))
        if len(longest.tokens) > self._window:
            raise InputError(
                f"{longest.benchmark}: an item has {len(longest.tokens)} tokens, {self.model} takes {self._window};"
                " cutting it would change the question. Shorten the item or leave the benchmark out"
            )
        # Longest first: batches of like length, and what would not fit fails at once.
        order = sorted(range(len(work)), key=lambda i: -len(work[i].tokens))
        size = self._prompts_per_request
        batches = [order[i : i + size] for i in range(0, len(order), size)]

        def job(batch: list[int]) -> Callable[[aiohttp.ClientSession], Awaitable[list[tuple[float, bool]]]]:
            async def run(session: aiohttp.ClientSession) -> list[tuple[float, bool]]:
                values = await self._likelihoods(session, [work[i] for i in batch])
                for benchmark in {work[i].benchmark for i in batch} - {""}:
                    self._on_done(benchmark, sum(1 for i in batch if work[i].benchmark == benchmark))
                return values

            return run

        answers = asyncio.run(self._all([job(b) for b in batches], max(2, self._concurrency // size)))
        if len(self._seen) == 1 and self._scored_tokens >= _ENOUGH_TO_SUSPECT:
            raise ModelRefused(
                f"{self.model}: each of {self._scored_tokens} tokens got the same log-likelihood {self._seen.pop():g}:"
                " its weights are broken, or the server does not score prompts"
            )
        by_index = dict(zip(order, (value for values in answers for value in values), strict=True))
        return [by_index[i] for i in range(len(work))]

    async def _likelihoods(self, session: aiohttp.ClientSession, work: Sequence[_Scored]) -> list[tuple[float, bool]]:
        reply = await self._post(
            session, "completions", self._create_payload([w.tokens for w in work], seed=self._seed)
        )
        choices = sorted(_choices(reply, len(work)), key=lambda c: int(c["index"]))
        for asked, choice in zip(work, choices, strict=True):
            given = ((choice.get("logprobs") or {}).get("token_logprobs")) or []
            if len(given) != len(asked.tokens) + 1:
                raise InputError(
                    f"{self._url} gave {len(given)} log-likelihoods for a prompt of {len(asked.tokens)} tokens and one"
                    " more: it does not echo prompts with logprobs, or reads tokens otherwise. Use vLLM's completions"
                )
            # json reads NaN as a number, and argmax takes it for the greatest: asked for by name.
            values = given[asked.context : -1]
            if not all(isinstance(v, float | int) and math.isfinite(v) for v in values):
                raise ModelRefused(
                    f"{self.model} gives log-likelihoods that are not finite numbers: its weights are broken"
                )
            self._scored_tokens += len(values)
            self._seen.update(values if len(self._seen) < 2 else ())
        found: list[tuple[float, bool]] = self.parse_logprobs({"choices": choices}, ctxlens=[w.context for w in work])
        return found

    async def _answer(self, session: aiohttp.ClientSession, context: Any, options: dict[str, Any]) -> str:
        payload: dict[str, Any] = {
            "model": self.model,
            "max_tokens": options["max_gen_toks"],
            "temperature": 0,
            "seed": self._seed,
            **({"stop": options["until"]} if options.get("until") else {}),
        }
        if isinstance(context, JsonChatStr):
            payload["messages"] = json.loads(context.prompt)
            choice = _choices(await self._post(session, "chat/completions", payload), 1)[0]
            text = (choice.get("message") or {}).get("content") or ""
        else:
            payload["prompt"] = context
            choice = _choices(await self._post(session, "completions", payload), 1)[0]
            text = choice.get("text") or ""
        return text + CUT if choice["finish_reason"] == "length" else str(text)

    async def _all(self, jobs: Sequence[Callable[[aiohttp.ClientSession], Awaitable[Any]]], at_once: int) -> list[Any]:
        """Run all jobs, ``at_once`` at a time; the first failure ends the rest."""
        gate = asyncio.Semaphore(at_once)
        limits = aiohttp.ClientTimeout(total=self._timeout_seconds)
        connector = aiohttp.TCPConnector(limit=at_once)
        async with aiohttp.ClientSession(connector=connector, timeout=limits, headers=self._headers) as session:

            async def one(job: Callable[[aiohttp.ClientSession], Awaitable[Any]]) -> Any:
                async with gate:
                    return await job(session)

            try:
                async with asyncio.TaskGroup() as group:
                    running = [group.create_task(one(job)) for job in jobs]
            except* (InputError, EndpointUnavailable) as several:
                raise several.exceptions[0] from None
        return [task.result() for task in running]

    async def _post(self, session: aiohttp.ClientSession, path: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        url = f"{self._url}/{path}"
        failure = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(0.5 * attempt)
            try:
                async with session.post(url, json=payload) as reply:
                    body = await reply.read()
            except aiohttp.ClientConnectionError as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            except (aiohttp.ClientError, TimeoutError) as error:
                raise EndpointUnavailable(f"{url} for {self.model}: {type(error).__name__}: {error}") from error
            if reply.status == 200:
                return _json(url, body)
            failure = f"HTTP {reply.status}: {body[:300].decode(errors='replace')}"
            if reply.status in _ASKED_WRONGLY:
                raise InputError(f"{url} refused a request for {self.model} with {failure}")
            if reply.status not in (429, 503):
                break
        raise EndpointUnavailable(f"{url} did not answer for {self.model}: {failure}")


def _json(url: str, body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise EndpointUnavailable(f"{url} answered 200 with something that is not JSON: {body[:100]!r}") from error
    if not isinstance(found, dict):
        raise EndpointUnavailable(f"{url} answered 200 with {type(found).__name__} and not an object")
    return found


def _choices(reply: Mapping[str, Any], expected: int) -> list[dict[str, Any]]:
    """The choices of a reply; an aborted, partial or missing one is no answer at all, and never a wrong one."""
    choices = reply.get("choices") or []
    reasons = [c.get("finish_reason") for c in choices]
    if len(choices) != expected or not all(reason in ("stop", "length") for reason in reasons):
        raise EndpointUnavailable(
            f"expected {expected} finished choices, got {len(choices)} with finish reasons"
            f" {sorted(map(str, set(reasons)))}: the instance is going away or broke off"
        )
    return list(choices)
