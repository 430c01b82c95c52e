"""The benchmarks that there are: lm-eval YAML files and local data, found by this module's own path.

A benchmark is one YAML in ``suites/`` and its items in ``suites/data/<benchmark>.<split>.jsonl``. Nothing here imports
lm-eval, so a catalog can be checked in milliseconds; lm-eval calls ``load`` and ``answered`` by name from the YAML.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tasks.domain.errors import InputError, UnknownBenchmark
from tasks.domain.lineage import fingerprint
from tasks.domain.models import Digest

SUITES = Path(__file__).parent / "suites"
SEED = 20261123
"""Of the permutation of items. Part of the digest: another seed asks other items of a shortened benchmark."""


class _Loader(yaml.SafeLoader):
    """Reads a benchmark's YAML as data: the functions that it names stay text."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def known_benchmarks(folder: Path = SUITES) -> tuple[str, ...]:
    """Every benchmark that can be measured, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


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
    loaded: dict[str, Any] = yaml.load((folder / f"{benchmark}.yaml").read_text("utf-8"), Loader=_Loader)
    if loaded.get("task") != benchmark or loaded["dataset_kwargs"].get("benchmark") != benchmark:
        raise InputError(f"{folder / benchmark}.yaml: task and dataset_kwargs.benchmark must both be {benchmark!r}")
    return loaded


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
        InputError: if the data is absent or empty, or an id is missing or comes twice.
    """
    path = folder / "data" / f"{benchmark}.{split}.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        there = sorted(p.name for p in path.parent.glob("*.jsonl"))
        raise InputError(f"{path}: benchmark {benchmark} has no data for split {split!r}. There is: {there}") from error
    by_id = {str(row.get("id", "")): row for row in rows}
    if not rows or "" in by_id or len(by_id) < len(rows):
        raise InputError(
            f"{path}: {len(rows)} rows with {len(by_id)} different ids; expected some, each with its own id"
        )
    return [by_id[key] for key in permuted(by_id)][: None if limit == "all" else int(limit)]


def chosen(benchmark: str, *, split: str = "test", folder: Path = SUITES) -> list[dict[str, Any]]:
    """The items of ``benchmark`` as its YAML asks for them."""
    return read_items(
        benchmark, split=split, limit=definition(benchmark, folder)["dataset_kwargs"]["items"], folder=folder
    )


def benchmark_digest(benchmark: str, *, split: str = "test", folder: Path = SUITES) -> Digest:
    """sha256 over YAML (shots included), the items asked, and their order."""
    asked = chosen(benchmark, split=split, folder=folder)
    return fingerprint(kind="benchmark", yaml=definition(benchmark, folder), split=split, items=asked, seed=SEED)


def suite_digest(benchmarks: Sequence[str], *, split: str = "test", folder: Path = SUITES) -> Digest:
    """Digest over a set of benchmarks, in any order: the ``suite`` part of an eval_key.

    Raises:
        UnknownBenchmark: listing the known ones.
    """
    refuse_unknown(benchmarks, folder)
    digests = {name: benchmark_digest(name, split=split, folder=folder) for name in benchmarks}
    return fingerprint(kind="suite", benchmarks=digests)


def lm_eval_version() -> str:
    """Of the installed lm-eval, without importing it. Part of an eval_key: scores moved between its patch releases."""
    return version("lm-eval")


def load(benchmark: str, items: int | str = "all", split: str = "test", folder: str = "", **_: Any) -> dict[str, Any]:
    """What lm-eval calls to get the data (``custom_dataset``): no network, no cache, whatever the working directory.

    lm-eval hands over the YAML's ``metadata`` as keyword arguments too, hence ``**_``.
    """
    from datasets import Dataset

    rows = read_items(benchmark, split=split, limit=items, folder=Path(folder) if folder else SUITES)
    return {"test": Dataset.from_list(rows)}


def answered(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Strict and lenient marks for one chat answer."""
    said, gold = results[0], str(doc["answer"])
    whole = json.dumps({"answer": gold}, ensure_ascii=False)
    first_line = said.strip().split("\n", 1)[0]
    return {"strict": float(said == whole), "lenient": float(bool(gold) and gold in first_line)}
