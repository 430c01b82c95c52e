"""The model behind an OpenAI-compatible server, as lm-eval sees it.

lm-eval's own ``local-completions`` builds the payloads and reads the log-likelihoods; the way over the network is ours,
for what a gate cannot have: three silent retries of everything, texts scored one request at a time, prompts cut on the
left with a log line, ``finish_reason: "abort"`` (HTTP 200 while vLLM shuts down) taken as an empty and so wrong answer.
"""

import asyncio
import json
import math
from collections import Counter
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
from tasks.harness.marks import CUT

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
        """Nothing is sent yet; ``on_done(benchmark, prompts)`` is called as answers come in."""
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
        self.prompts: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        """HTTP requests by benchmark, those that had to be sent again included."""

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
        """Greedy answers: one by one where the context is a chat, else as continuations of many texts at once."""
        chats = bool(requests) and isinstance(requests[0].args[0], JsonChatStr)
        batches = _batches([r.task_name or "" for r in requests], 1 if chats else self._prompts_per_request)

        def job(batch: list[int]) -> Callable[[aiohttp.ClientSession], Awaitable[list[str]]]:
            async def run(session: aiohttp.ClientSession) -> list[str]:
                asked = [requests[i] for i in batch]
                ask = self._chat if chats else self._continuations
                texts = await ask(session, [r.args[0] for r in asked], dict(asked[0].args[1]), asked[0].task_name or "")
                self._done(asked[0].task_name or "", len(asked))
                return texts

            return run

        at_once = self._concurrency if chats else self._batches_at_once
        answers = asyncio.run(self._all([job(b) for b in batches], at_once))
        return _in_place(batches, answers)

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
        by_place = _batches([work[i].benchmark for i in order], self._prompts_per_request)
        batches = [[order[place] for place in batch] for batch in by_place]

        def job(batch: list[int]) -> Callable[[aiohttp.ClientSession], Awaitable[list[tuple[float, bool]]]]:
            async def run(session: aiohttp.ClientSession) -> list[tuple[float, bool]]:
                values = await self._likelihoods(session, [work[i] for i in batch])
                self._done(work[batch[0]].benchmark, len(batch))
                return values

            return run

        answers = asyncio.run(self._all([job(b) for b in batches], self._batches_at_once))
        if len(self._seen) == 1 and self._scored_tokens >= _ENOUGH_TO_SUSPECT:
            raise ModelRefused(
                f"{self.model}: each of {self._scored_tokens} tokens got the same log-likelihood {self._seen.pop():g}:"
                " its weights are broken, or the server does not score prompts"
            )
        return _in_place(batches, answers)

    @property
    def _batches_at_once(self) -> int:
        # Two: while the answers of one are read, the server has the next.
        return max(2, self._concurrency // self._prompts_per_request)

    def _done(self, benchmark: str, prompts: int) -> None:
        if benchmark:  # the probe is for none
            self.prompts[benchmark] += prompts
            self._on_done(benchmark, prompts)

    async def _likelihoods(self, session: aiohttp.ClientSession, work: Sequence[_Scored]) -> list[tuple[float, bool]]:
        payload = self._create_payload([w.tokens for w in work], seed=self._seed)
        reply = await self._post(session, "completions", payload, work[0].benchmark)
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

    async def _chat(
        self, session: aiohttp.ClientSession, contexts: Sequence[Any], options: dict[str, Any], benchmark: str
    ) -> list[str]:
        payload = {**self._generation(options), "messages": json.loads(contexts[0].prompt)}
        choice = _choices(await self._post(session, "chat/completions", payload, benchmark), 1)[0]
        return [_finished((choice.get("message") or {}).get("content"), choice)]

    async def _continuations(
        self, session: aiohttp.ClientSession, contexts: Sequence[Any], options: dict[str, Any], benchmark: str
    ) -> list[str]:
        payload = {**self._generation(options), "prompt": list(contexts)}
        choices = _choices(await self._post(session, "completions", payload, benchmark), len(contexts))
        return [_finished(c.get("text"), c) for c in sorted(choices, key=lambda c: int(c["index"]))]

    def _generation(self, options: Mapping[str, Any]) -> dict[str, Any]:
        more = {"stop": options["until"]} if options.get("until") else {}
        if "min_gen_toks" in options:  # vLLM's own: no end before so many tokens
            more["min_tokens"] = options["min_gen_toks"]
        known = {"model": self.model, "temperature": 0, "seed": self._seed}
        # A server refuses a prompt whose answer could pass its context; the demo's models have 512 tokens in all.
        return {**known, "max_tokens": min(options["max_gen_toks"], self._window // 2), **more}

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

    async def _post(
        self, session: aiohttp.ClientSession, path: str, payload: Mapping[str, Any], benchmark: str
    ) -> Mapping[str, Any]:
        url = f"{self._url}/{path}"
        failure = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(0.5 * attempt)
            self.requests[benchmark] += 1
            try:
                async with session.post(url, json=payload) as reply:
                    body = await reply.read()
            # A reply that breaks off is a connection lost a moment later, and asked again like one.
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
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


def _batches(benchmarks: Sequence[str], size: int) -> list[list[int]]:
    """Places of the prompts that go together, in order: at most ``size``, and of one benchmark, whose cost it is."""
    places: dict[str, list[int]] = {}
    for place, benchmark in enumerate(benchmarks):
        places.setdefault(benchmark, []).append(place)
    return [found[i : i + size] for found in places.values() for i in range(0, len(found), size)]


def _in_place(batches: Sequence[Sequence[int]], answers: Sequence[Sequence[Any]]) -> list[Any]:
    """What was answered batch by batch, in the order in which it was asked."""
    found = {
        i: value for batch, values in zip(batches, answers, strict=True) for i, value in zip(batch, values, strict=True)
    }
    return [found[i] for i in range(len(found))]


def _finished(text: str | None, choice: Mapping[str, Any]) -> str:
    return (text or "") + (CUT if choice["finish_reason"] == "length" else "")


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
