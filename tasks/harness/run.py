"""Measuring one served model: lm-eval as a library, over HTTP, each item's outcome kept.

Imports lm-eval (seconds); flows start it as a child process instead (``tasks.harness.child``). Several calls on one
model object: log-likelihoods and continuations without a chat template, answers with one, since lm-eval takes the
template per call.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval.evaluator import evaluate as lm_evaluate
from lm_eval.tasks import TaskManager

from tasks.domain.errors import EndpointUnavailable, InputError
from tasks.domain.models import Score
from tasks.harness.client import ServedModel
from tasks.harness.facts import describe
from tasks.harness.results import scores_of
from tasks.harness.suite import PROMPTS_PER_REQUEST, SUITES, Cost, plain, refuse_unknown

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


class Progress(NamedTuple):
    """How far a measurement is, in prompts."""

    benchmark: str
    done: int
    total: int


def evaluate(
    *,
    base_url: str,
    model: str,
    folder: Path,
    benchmarks: Sequence[str],
    batch_size: int = PROMPTS_PER_REQUEST,
    concurrency: int = 64,
    api_key: str | None = None,
    chat_template: bool | None = None,
    prefix_token_id: int | None = None,
    split: str = "test",
    span: str = "0:1",
    timeout_seconds: float = 120.0,
    wait_seconds: float = 0.0,
    suites: Path = SUITES,
    on_progress: Callable[[Progress], None] | None = None,
    on_sent: Callable[[Mapping[str, Cost]], None] | None = None,
) -> tuple[Score, ...]:
    """Score ``model`` on ``benchmarks``.

    Args:
        base_url: of an OpenAI-compatible server, ``http://127.0.0.1:8700/v1``.
        model: its name there, ``eu@abcdef123456``.
        folder: the model's files; tokenizer and longest context are read from here.
        benchmarks: names in ``suites/``.
        batch_size: prompts per request to the completions endpoint; does not change results.
        concurrency: sequences in flight; does not change results.
        api_key: sent as a bearer token.
        chat_template: ask chat benchmarks through the chat endpoint (True), or as plain text (False), as is right for
            a base model without a template, where vLLM refuses chats. None: by whether the folder has a template.
        prefix_token_id: what every scored sequence starts with; give the base's for all models of a family. None: the
            folder's ``bos_token_id``.
        split: of the data.
        span: which of a benchmark's items, as shares of them in their order: ``0.1:0.35``.
        timeout_seconds: for one request.
        wait_seconds: how long to wait for the server to know the model, once all else is ready.
        suites: where the benchmarks are.
        on_progress: called as answers come in.
        on_sent: called once at the end, with what each benchmark cost.

    Returns:
        Scores in the order of ``benchmarks``; strict and then lenient for a chat benchmark.

    Raises:
        UnknownBenchmark: listing the known ones.
        InputError: if the folder or a request does not fit: no tokenizer, no prefix token, an item that is too long.
        ModelRefused: if scores cannot be what they seem: broken weights, one choice for everything.
        EndpointUnavailable: on any HTTP failure, timeout or broken-off answer; nothing is counted as wrong instead.
    """
    refuse_unknown(benchmarks, suites)
    if batch_size < 1 or concurrency < 1:
        raise InputError(f"batch_size {batch_size} and concurrency {concurrency} must both be at least 1")
    facts = describe(folder, prefix_token_id=prefix_token_id, chat_template=chat_template)
    started = time.monotonic()
    tasks = _load(benchmarks, suites, split, span)
    loaded = time.monotonic()
    count = _Counter({name: _requests(task) for name, task in tasks.items()}, on_progress)
    served = ServedModel(
        base_url=base_url,
        model=model,
        folder=folder,
        prefix_token_id=facts.prefix_token_id,
        max_length=facts.max_length,
        batch_size=batch_size,
        concurrency=concurrency,
        timeout_seconds=timeout_seconds,
        api_key=api_key,
        on_done=count,
    )
    _await(served, wait_seconds)
    ready = time.monotonic()
    answers = {name: t for name, t in tasks.items() if t.OUTPUT_TYPE == "generate_until"}
    scored = {name: t for name, t in tasks.items() if name not in answers}
    chats = {name: t for name, t in answers.items() if facts.chat_template and not plain(name, suites)}
    texts = {name: t for name, t in answers.items() if name not in chats}
    samples: dict[str, list[dict[str, Any]]] = {}
    took = []
    for some, chat in ((scored, False), (texts, False), (chats, True)):
        began = time.monotonic()
        samples.update(_run(served, some, chat=chat))
        took.append(time.monotonic() - began)
    sent = {name: Cost(served.prompts[name], served.requests[name]) for name in tasks}
    log.info(
        "%s: %d benchmarks, %d prompts in %d requests; seconds to load %.1f, wait %.1f,"
        " score %.1f, continue texts %.1f, chat %.1f",
        *(model, len(tasks), *map(sum, zip(*sent.values(), strict=True)), loaded - started, ready - loaded, *took),
    )
    if on_sent is not None:
        on_sent(sent)
    return tuple(score for name in benchmarks for score in scores_of(name, samples[name]))


class _Counter:
    def __init__(self, expected: dict[str, int], on_progress: Callable[[Progress], None] | None) -> None:
        self.total = sum(expected.values())
        self._done = 0
        self._on_progress = on_progress

    def __call__(self, benchmark: str, requests: int) -> None:
        self._done = min(self.total, self._done + requests)
        if self._on_progress is not None:
            self._on_progress(Progress(benchmark, self._done, self.total))


def _load(benchmarks: Sequence[str], suites: Path, split: str, span: str) -> dict[str, Any]:
    # include_defaults=False: the 14,000 built-in YAML files are not indexed, and no name of ours can mean one of them.
    manager = TaskManager(
        include_path=str(suites), include_defaults=False, metadata={"split": split, "folder": str(suites), "span": span}
    )
    tasks: dict[str, Any] = manager.load(list(benchmarks))["tasks"]
    for task in tasks.values():
        task.set_fewshot_seed(seed=1234)
    return tasks


def _requests(task: Any) -> int:
    docs = task.eval_docs
    return sum(len(doc["choices"]) for doc in docs) if task.OUTPUT_TYPE == "multiple_choice" else len(docs)


def _run(served: ServedModel, tasks: dict[str, Any], *, chat: bool) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples by benchmark. No cache of any kind: lm-eval's keys leave out the model (#2715) and the YAML."""
    if not tasks:
        return {}
    found = lm_evaluate(
        lm=served,
        task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
        limit=None,
        cache_requests=False,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    if found is None:
        raise InputError("lm-eval gave no result, as it does when LOCAL_RANK is set; unset it")
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    return samples


def _await(served: ServedModel, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return served.probe()
        except EndpointUnavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_SECONDS)
