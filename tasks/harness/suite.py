"""The benchmarks that there are: lm-eval YAML files and local data, found by this module's own path.

A benchmark is one YAML in ``suites/`` and its items in ``suites/data/<data>.<split>.jsonl``; what benchmarks of one
kind have in common stands in a ``.template`` that they include. Nothing here imports lm-eval, so that a catalog is
checked in milliseconds; lm-eval calls ``load`` and the functions of ``tasks.harness.marks`` by name from the YAML.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tasks.domain.errors import InputError, UnknownBenchmark
from tasks.domain.lineage import fingerprint
from tasks.domain.looks import items_at
from tasks.domain.models import Digest
from tasks.harness.instructions import refuse_impossible

SUITES = Path(__file__).parent / "suites"
SEED = 20261123
"""Of the permutation of items. Part of the digest: another seed asks other items of a shortened benchmark."""


PROMPTS_PER_REQUEST = 64
"""Prompts in one request to the completions endpoint; the chat endpoint takes one conversation at a time."""


class Cost(NamedTuple):
    """What a benchmark asks of a server."""

    prompts: int
    """lm-eval's requests: one for each choice, text or question."""
    requests: int
    """HTTP requests that they are sent in."""


class _Loader(yaml.SafeLoader):
    """Reads a benchmark's YAML as data: the functions that it names stay text."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def known_benchmarks(folder: Path = SUITES) -> tuple[str, ...]:
    """Every benchmark that is defined, sorted; those of others can be measured once their data have been prepared."""
    return tuple(sorted({*(path.stem for path in folder.glob("*.yaml")), *upstream_benchmarks(folder)}))


def upstream_benchmarks(folder: Path = SUITES) -> tuple[str, ...]:
    """The benchmarks of others: their YAML is here, their data are brought by ``tasks.harness.prepare``."""
    return tuple(sorted(path.stem for path in (folder / "upstream").glob("*.yaml")))


def _home(benchmark: str, folder: Path) -> Path:
    """Where the benchmark's YAML is; its data are in ``data/`` beside it."""
    upstream = folder / "upstream"
    return upstream if (upstream / f"{benchmark}.yaml").is_file() else folder


def refuse_unknown(benchmarks: Sequence[str], folder: Path = SUITES) -> None:
    """UnknownBenchmark, listing the known ones, if some are not; InputError if there are none or one comes twice."""
    known = known_benchmarks(folder)
    unknown = [name for name in dict.fromkeys(benchmarks) if name not in known]
    if unknown:
        raise UnknownBenchmark(f"no suite defines {', '.join(unknown)}. Known: {', '.join(known)}", problems=unknown)
    if not benchmarks or len(set(benchmarks)) < len(benchmarks):
        raise InputError(f"expected each benchmark once, and at least one; got {list(benchmarks)}")


@cache
def definition(benchmark: str, folder: Path = SUITES) -> dict[str, Any]:
    """The benchmark's YAML as a mapping."""
    loaded = _read_yaml(_home(benchmark, folder) / f"{benchmark}.yaml")
    if loaded.get("task") != benchmark or loaded["dataset_kwargs"].get("benchmark") != benchmark:
        raise InputError(f"{folder / benchmark}.yaml: task and dataset_kwargs.benchmark must both be {benchmark!r}")
    return loaded


def _read_yaml(path: Path) -> dict[str, Any]:
    """The file over what it includes, as lm-eval merges them: by whole keys of the top level."""
    own: dict[str, Any] = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    included = own.pop("include", None)
    return {**(_read_yaml(path.parent / included) if included else {}), **own}


def permuted(ids: Iterable[str]) -> list[str]:
    """``ids`` in an order that is fixed, looks random, and does not move when an item is added.

    lm-eval's ``limit`` takes the first rows of a file, which is often sorted; this is what "120 items" means here.
    """
    return sorted(ids, key=lambda item_id: hashlib.sha256(f"{SEED}:{item_id}".encode()).digest())


def read_items(
    benchmark: str, *, split: str = "test", limit: int | str = "all", folder: Path = SUITES
) -> list[dict[str, Any]]:
    """The items to ask, in the order of the permutation.

    Raises:
        InputError: if the data is absent, empty or shorter than ``limit``, or an id is missing or comes twice.
    """
    path = _home(benchmark, folder) / "data" / f"{benchmark}.{split}.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        if _home(benchmark, folder) != folder:
            raise InputError(
                f"{path}: the data of {benchmark} are not here. Run `python -m tasks.harness.prepare {benchmark}`"
            ) from error
        there = sorted(p.name for p in path.parent.glob("*.jsonl"))
        raise InputError(f"{path}: benchmark {benchmark} has no data for split {split!r}. There is: {there}") from error
    by_id = {str(row.get("id", "")): row for row in rows}
    if not rows or "" in by_id or len(by_id) < len(rows):
        raise InputError(
            f"{path}: {len(rows)} rows with {len(by_id)} different ids; expected some, each with its own id"
        )
    # Dev is the smaller split, and asked whole where a shortened benchmark asks more than it has.
    if split == "test" and limit != "all" and int(limit) > len(rows):
        raise InputError(f"{path}: {len(rows)} rows, and the benchmark asks {limit} items; lower items in its YAML")
    return [by_id[key] for key in permuted(by_id)][: None if limit == "all" else int(limit)]


def chosen(benchmark: str, *, split: str = "test", folder: Path = SUITES) -> list[dict[str, Any]]:
    """The items of ``benchmark`` as its YAML asks for them."""
    return _asked(**definition(benchmark, folder)["dataset_kwargs"], split=split, folder=folder)


def shots_of(benchmark: str, folder: Path = SUITES) -> list[dict[str, Any]]:
    """The answered items that stand before each question, in their order; the same for every item and model."""
    asked = {**definition(benchmark, folder)["dataset_kwargs"]}
    if not asked.get("shots"):
        return []
    return _asked(benchmark=benchmark, items=asked["shots"], split="shots", folder=folder)


def _asked(
    *,
    benchmark: str,
    data: str = "",
    items: int | str = "all",
    choices: int = 0,
    shots: int = 0,
    split: str,
    folder: Path,
) -> list[dict[str, Any]]:
    rows = read_items(data or benchmark, split=split, limit=items, folder=folder)
    if "row" in rows[0]:
        from tasks.harness.upstream import items_of  # Jinja: flows import this module and need none

        rows = items_of(benchmark, definition(benchmark, folder)["metadata"]["source"], rows)
    if "checks" in rows[0]:
        refuse_impossible(benchmark, rows)
    return [fewer_choices(row, choices) for row in rows] if choices else rows


def fewer_choices(item: dict[str, Any], choices: int) -> dict[str, Any]:
    """``item`` with its right choice and ``choices - 1`` wrong ones, in their order: a shorter question to ask.

    Which wrong ones depends on the item's id alone, so every model is asked the same.
    """
    right = item["choices"][item["answer"]]
    wrong = [choice for place, choice in enumerate(item["choices"]) if place != item["answer"]]
    by_key = {f"{item['id']}:{choice}": choice for choice in wrong}
    kept = {by_key[key] for key in permuted(by_key)[: choices - 1]} | {right}
    left = [choice for choice in item["choices"] if choice in kept]
    return {**item, "choices": left, "answer": left.index(right)}


def spanned(span: str, n: int) -> tuple[int, int]:
    """Places of the items that ``0.1:0.35`` means among ``n``: those after the first look, up to the second.

    Raises:
        InputError: if it names no two rising shares.
    """
    try:
        after, until = (float(share) for share in span.split(":"))
    except ValueError as error:
        raise InputError(f"span {span!r}: expected two shares, as in 0.1:0.35") from error
    if not 0 <= after < until <= 1:
        raise InputError(f"span {span!r}: expected two rising shares between 0 and 1")
    return (items_at(after, n) if after > 0 else 0), items_at(until, n)


def cost_of(benchmark: str, *, split: str = "test", folder: Path = SUITES) -> Cost:
    """What one measurement of ``benchmark`` sends, if nothing has to be sent twice."""
    items, known = chosen(benchmark, split=split, folder=folder), definition(benchmark, folder)
    prompts = sum(len(item.get("choices", "1")) for item in items)
    one_by_one = known["output_type"] == "generate_until" and not plain(benchmark, folder)
    return Cost(prompts, prompts if one_by_one else -(-prompts // PROMPTS_PER_REQUEST))


@cache
def requests_of(benchmark: str) -> int:
    """HTTP requests of ``cost_of``: what a gate's budget counts."""
    return cost_of(benchmark).requests


def plain(benchmark: str, folder: Path = SUITES) -> bool:
    """Whether answers are asked for as the continuation of a text, whatever template the model has."""
    return bool(definition(benchmark, folder)["metadata"].get("endpoint") == "completions")


def benchmark_digest(benchmark: str, *, split: str = "test", folder: Path = SUITES, share: float = 1.0) -> Digest:
    """sha256 over YAML (shots included), the items asked, and their order; ``share`` of them, the first."""
    asked = chosen(benchmark, split=split, folder=folder)
    asked = asked[: items_at(share, len(asked))]
    shots = {"shots": given} if (given := shots_of(benchmark, folder)) else {}
    return fingerprint(
        kind="benchmark", yaml=definition(benchmark, folder), split=split, items=asked, seed=SEED, **shots
    )


def suite_digest(
    benchmarks: Sequence[str], *, split: str = "test", folder: Path = SUITES, share: float = 1.0
) -> Digest:
    """Digest over a set of benchmarks, in any order: the ``suite`` part of an eval_key; of the first ``share`` of each.

    Raises:
        UnknownBenchmark: listing the known ones.
    """
    refuse_unknown(benchmarks, folder)
    digests = {name: benchmark_digest(name, split=split, folder=folder, share=share) for name in benchmarks}
    return fingerprint(kind="suite", benchmarks=digests)


def lm_eval_version() -> str:
    """Of the installed lm-eval, without importing it. Part of an eval_key: scores moved between its patch releases."""
    return version("lm-eval")


def load(
    benchmark: str,
    data: str = "",
    items: int | str = "all",
    choices: int = 0,
    shots: int = 0,
    split: str = "test",
    folder: str = "",
    span: str = "0:1",
    **_: Any,
) -> dict[str, Any]:
    """What lm-eval calls to get the data (``custom_dataset``): no network, no cache, whatever the working directory.

    lm-eval hands over the YAML's ``metadata`` as keyword arguments too, hence ``**_``.
    """
    from datasets import Dataset

    place = Path(folder) if folder else SUITES
    rows = _asked(benchmark=benchmark, data=data, items=items, choices=choices, split=split, folder=place)
    first, last = spanned(span, len(rows))
    rows = rows[first:last]
    given = shots_of(benchmark, place) if shots else []
    return {"test": Dataset.from_list(rows), **({"shots": Dataset.from_list(given)} if given else {})}
