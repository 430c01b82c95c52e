"""``python -m tasks.harness.prepare NAME...``: bring the data of benchmarks of others here, once, at a fixed revision.

Measuring never needs a network: what is read afterwards is ``suites/upstream/data/NAME.{test,shots}.jsonl``, whose
items are part of a benchmark's digest. The data are not part of this repository, and their licences are their own.

    python -m tasks.harness.prepare eu_belebele eu_trivia    where the YAML pins a revision
    python -m tasks.harness.prepare --latest eu_belebele     takes what is newest, and prints the line to pin it with
    python -m tasks.harness.prepare --from DIR eu_belebele   from DIR/<owner>/<name>, a copy of the data set
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tasks.domain.errors import InputError
from tasks.harness.suite import SUITES, definition, known_benchmarks, permuted, refuse_unknown, upstream_benchmarks
from tasks.harness.upstream import items_of, value_of

Row = dict[str, Any]


class Prepared(NamedTuple):
    """What was brought here."""

    benchmark: str
    revision: str
    test: int
    shots: int


def prepare(benchmark: str, *, folder: Path = SUITES, root: Path | None = None, latest: bool = False) -> Prepared:
    """Read the data set that ``benchmark`` names, check every row, and write test items and shots.

    Args:
        benchmark: one of ``upstream_benchmarks()``.
        folder: of the suites.
        root: holds ``<owner>/<name>`` with a copy of the data set's repository; None: the Hub.
        latest: take the newest revision where the YAML pins none.

    Raises:
        InputError: if there is no revision, the data set cannot be read or needs a script, or rows are not as expected.
            Nothing is written then.
    """
    known = definition(benchmark, folder)
    source, shots = known["metadata"]["source"], int(known["dataset_kwargs"].get("shots", 0))
    revision = "local copy" if root else source.get("revision") or (_newest(source["repo"]) if latest else "")
    if not revision:
        raise InputError(f"{benchmark}: its YAML pins no revision of {source['repo']}; pin one, or give --latest")
    test = _rows(source, source["split"], revision, root)
    if shots and source.get("shots_split"):
        given = _first(_rows(source, source["shots_split"], revision, root), shots)
    else:  # the last of the permutation, so that a shortened benchmark asks the same items with shots and without
        order = permuted(row["id"] for row in test)
        given = _first(test, shots, order[::-1])
        test = [row for row in test if row["id"] not in {one["id"] for one in given}]
    if len(given) < shots or not test:
        raise InputError(f"{benchmark}: {len(test)} items and {len(given)} of {shots} shots in {source['repo']}")
    for rows in (test, given):
        items_of(benchmark, source, rows)
    place = folder / "upstream" / "data"
    place.mkdir(parents=True, exist_ok=True)
    _write(place / f"{benchmark}.shots.jsonl", given)
    _write(place / f"{benchmark}.test.jsonl", test)
    return Prepared(benchmark, revision, len(test), len(given))


def _first(rows: list[Row], count: int, order: list[str] | None = None) -> list[Row]:
    by_id = {row["id"]: row for row in rows}
    return [by_id[key] for key in (order or permuted(by_id))[:count]]


def _rows(source: Mapping[str, Any], split: str, revision: str, root: Path | None) -> list[Row]:
    """The rows of all configurations, each with an id; those that ``where`` leaves out are not among them."""
    found = []
    for config in source.get("configs", [source.get("config")]):
        for number, row in enumerate(_loaded(source["repo"], config, split, revision, root)):
            fields = {**row, "config": config or ""}
            if "where" in source and not value_of(source["where"], fields):
                continue
            own = str(value_of(source["id"], fields)) if "id" in source else f"{split}-{number:05d}"
            found.append({"id": f"{config}/{own}" if "configs" in source else own, "row": fields})
    ids = [row["id"] for row in found]
    if len(set(ids)) < len(ids):
        raise InputError(f"{source['repo']}: {len(ids)} rows with {len(set(ids))} different ids; leave out source.id")
    return found


def _loaded(repo: str, config: str | None, split: str, revision: str, root: Path | None) -> Iterable[Row]:
    from datasets import load_dataset

    where = str(root / repo) if root else repo
    if root and not (root / repo).is_dir():
        raise InputError(f"{root / repo}: no such folder; expected a copy of the data set's repository")
    try:
        with tempfile.TemporaryDirectory() as cache:  # a stale cache would answer for a changed copy
            loaded = load_dataset(
                where, config, split=split, revision=None if root else revision, cache_dir=cache, keep_in_memory=True
            )
            return [dict(row) for row in loaded]
    except RuntimeError as error:  # what datasets >= 4 raises for a repository that needs its script
        raise InputError(
            f"{repo}: {error}. Script data sets cannot be loaded; see suites/upstream/README.md"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{repo}, config {config}, split {split}: {type(error).__name__}: {error}") from error


def _newest(repo: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().dataset_info(repo).sha)
    except (HfHubHTTPError, OSError) as error:
        raise InputError(f"{repo}: the Hub did not say its newest revision: {type(error).__name__}: {error}") from error


def _write(path: Path, rows: list[Row]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8"
    ) as half:
        half.write(text)
    os.replace(half.name, path)


def main(argv: list[str] | None = None) -> int:
    """Prepare what is named; 0 if all could be, 2 with the reasons if not."""
    parser = argparse.ArgumentParser(prog="python -m tasks.harness.prepare", description="Bring benchmarks' data here.")
    parser.add_argument("benchmarks", nargs="+")
    parser.add_argument("--from", dest="root", type=Path)
    parser.add_argument("--latest", action="store_true")
    asked = parser.parse_args(argv)
    failed = 0
    try:
        refuse_unknown(asked.benchmarks)
        own = sorted(set(asked.benchmarks) & set(known_benchmarks()) - set(upstream_benchmarks()))
        if own:
            raise InputError(f"{', '.join(own)}: part of this repository, nothing to prepare")
        for name in asked.benchmarks:
            try:
                done = prepare(name, root=asked.root, latest=asked.latest)
                sys.stdout.write(f"{name}: {done.test} items, {done.shots} shots; revision: {done.revision}\n")
            except InputError as error:
                failed = 2
                sys.stderr.write(f"{error}\n")
    except InputError as error:
        failed = 2
        sys.stderr.write(f"{error}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
