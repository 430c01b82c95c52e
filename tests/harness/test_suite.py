"""The benchmarks of the repository, and what their digest depends on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.domain.errors import InputError, UnknownBenchmark
from tasks.harness.suite import (
    SUITES,
    chosen,
    definition,
    known_benchmarks,
    permuted,
    read_items,
    suite_digest,
)


@pytest.fixture
def copy(suites: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(suites, tmp_path / "suites"))


@pytest.mark.parametrize("benchmark", known_benchmarks())
def test_each_benchmark_has_a_yaml_and_data_that_agree(benchmark: str) -> None:
    asked = chosen(benchmark)
    kind = definition(benchmark)["output_type"]
    fields = {"multiple_choice": ["prompt", "choices", "answer"], "generate_until": ["question", "answer"]}
    assert all(field in row for row in asked for field in fields.get(kind, ["text"]))
    if benchmark.startswith("eu") or kind == "generate_until":
        assert len(asked) >= (100 if kind == "loglikelihood_rolling" else 300)
    if kind == "multiple_choice":
        assert {row["answer"] for row in asked} == {0, 1, 2, 3}


def test_the_known_benchmarks_are_those_of_three_languages() -> None:
    assert known_benchmarks() == tuple(
        sorted(f"{c}_{kind}" for c in ("en", "es", "eu") for kind in ("bpb", "chat", "mc"))
    )


def test_dev_and_test_share_no_question() -> None:
    for benchmark in known_benchmarks():
        dev, test = ({row["id"] for row in read_items(benchmark, split=s)} for s in ("dev", "test"))
        assert not dev & test, benchmark


def test_a_shortened_benchmark_is_not_the_first_rows_of_its_file() -> None:
    rows = [json.loads(line)["id"] for line in (SUITES / "data/en_mc.test.jsonl").read_text("utf-8").splitlines()]
    asked = [row["id"] for row in chosen("en_mc")]
    assert len(asked) == definition("en_mc")["dataset_kwargs"]["items"] < len(rows)
    assert asked != rows[: len(asked)]
    assert asked == [row["id"] for row in chosen("en_mc")]


def test_the_order_of_items_does_not_move_when_one_is_added() -> None:
    before = permuted(f"i{k}" for k in range(50))
    after = permuted(f"i{k}" for k in range(51))
    assert [item for item in after if item != "i50"] == before


def test_the_digest_depends_on_yaml_and_items_and_not_on_the_order_of_names(copy: Path) -> None:
    before = suite_digest(["eu_mc", "eu_bpb"], folder=copy)
    assert before == suite_digest(["eu_bpb", "eu_mc"], folder=copy)
    assert before != suite_digest(["eu_mc"], folder=copy)
    data = copy / "data/eu_mc.test.jsonl"
    data.write_text(data.read_text("utf-8").replace('"answer": 0', '"answer": 1', 1), "utf-8")
    assert suite_digest(["eu_mc", "eu_bpb"], folder=copy) != before


def test_a_changed_yaml_is_another_suite(copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    yaml = other / "eu_mc.yaml"
    yaml.write_text(yaml.read_text("utf-8").replace("num_fewshot: 0", "num_fewshot: 1"), "utf-8")
    assert suite_digest(["eu_mc"], folder=other) != suite_digest(["eu_mc"], folder=copy)


def test_an_unknown_benchmark_lists_the_known_ones() -> None:
    with pytest.raises(UnknownBenchmark, match=r"gl_mc.*Known: en_bpb, en_chat") as refused:
        suite_digest(["eu_mc", "gl_mc"])
    assert refused.value.problems == ("gl_mc",)


@pytest.mark.parametrize(
    ("rows", "said"),
    [(None, "no data for split 'test'"), ("", "0 rows"), ('{"id": "a"}\n{"id": "a"}', "2 rows with 1 different ids")],
)
def test_bad_data_is_refused_by_file(copy: Path, rows: str | None, said: str) -> None:
    path = copy / "data/eu_bpb.test.jsonl"
    path.unlink()
    if rows is not None:
        path.write_text(rows, "utf-8")
    with pytest.raises(InputError, match=said) as refused:
        read_items("eu_bpb", folder=copy)
    assert str(path) in str(refused.value)


def test_listing_benchmarks_needs_neither_lm_eval_nor_datasets(tmp_path: Path) -> None:
    code = (
        "import sys; from tasks.harness.suite import known_benchmarks, suite_digest; suite_digest(known_benchmarks());"
        "assert not {'lm_eval', 'datasets', 'torch'} & set(sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, check=True)
