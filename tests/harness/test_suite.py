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
    cost_of,
    definition,
    fewer_choices,
    known_benchmarks,
    permuted,
    read_items,
    requests_of,
    suite_digest,
    upstream_benchmarks,
)


@pytest.fixture
def copy(suites: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(suites, tmp_path / "suites"))


LANGUAGES = ("en", "es", "eu", "ca", "gl", "pt")
KINDS = ("mc", "chat", "bpb", "text")
OWN = tuple(name for name in known_benchmarks() if name not in upstream_benchmarks())
INSTRUCTIONS = {"eu_instructions", "gl_instructions"}
FIELDS = {
    "mc": {"prompt", "choices", "answer"},
    "chat": {"question", "answer"},
    "bpb": {"text"},
    "text": {"prompt", "language"},
    "instructions": {"prompt", "language", "checks"},
}
ITEMS: dict[str, tuple[int, ...]] = {
    "mc": (300, 60),
    "chat": (300, 80),
    "bpb": (100, 50),
    "text": (40, 25),
    "instructions": (120,),
}


def kind_of(benchmark: str) -> str:
    return benchmark.removesuffix("_short").rsplit("_", 1)[1]


@pytest.mark.parametrize("benchmark", OWN)
def test_each_benchmark_has_a_yaml_and_data_that_agree(benchmark: str) -> None:
    asked, kind = chosen(benchmark), kind_of(benchmark)
    assert all(row.keys() >= FIELDS[kind] for row in asked)
    assert len(asked) == ITEMS[kind][benchmark.endswith("_short")]
    if kind == "mc":
        assert {len(row["choices"]) for row in asked} == {3}
        assert {row["answer"] for row in asked} == {0, 1, 2}
    if kind == "text":
        assert {row["language"] for row in asked} == {benchmark[:2]}


def test_every_language_has_every_kind_long_and_short() -> None:
    own = {f"{code}_{kind}{end}" for code in LANGUAGES for kind in KINDS for end in ("", "_short")}
    more = {f"es_more_{kind}{end}" for kind in ("mc", "chat") for end in ("", "_short")}
    assert set(OWN) == own | more | INSTRUCTIONS


def test_a_short_benchmark_asks_some_of_the_long_ones_items() -> None:
    long, short = chosen("eu_mc"), chosen("eu_mc_short")
    assert short == long[: len(short)]
    assert suite_digest(["eu_mc"]) != suite_digest(["eu_mc_short"])


@pytest.mark.parametrize(
    ("benchmark", "cost"),
    [
        ("eu_mc", (900, 15)),
        ("eu_chat", (300, 300)),
        ("eu_bpb", (100, 2)),
        ("eu_text", (40, 1)),
        ("en_mc_short", (180, 3)),
    ],
)
def test_a_benchmarks_cost_is_known_before_it_is_asked(benchmark: str, cost: tuple[int, int]) -> None:
    assert cost_of(benchmark) == cost
    assert requests_of(benchmark) == cost[1]


def test_fewer_choices_keep_the_right_one_and_the_order() -> None:
    item = {"id": "q", "choices": ["a", "b", "c", "d"], "answer": 2}
    short = fewer_choices(item, 3)
    assert short["choices"] == [choice for choice in item["choices"] if choice in short["choices"]]
    assert len(short["choices"]) == 3
    assert short["choices"][short["answer"]] == "c"
    assert fewer_choices(item, 3) == short
    dropped = {(set("abd") - set(fewer_choices({**item, "id": f"q{k}"}, 3)["choices"])).pop() for k in range(40)}
    assert dropped == {"a", "b", "d"}


def test_a_benchmark_that_asks_more_than_there_is_is_refused(copy: Path) -> None:
    yaml = copy / "eu_bpb.yaml"
    yaml.write_text(yaml.read_text("utf-8").replace("items: all", "items: 9"), "utf-8")
    with pytest.raises(InputError, match=r"eu_bpb\.test\.jsonl: 8 rows, and the benchmark asks 9 items"):
        chosen("eu_bpb", folder=copy)


def test_lm_eval_reads_a_benchmark_and_its_template_as_we_do(copy: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    for name in known_benchmarks(copy):
        theirs = load_yaml(copy / f"{name}.yaml", resolve_func=False, recursive=True)
        assert theirs.keys() == definition(name, copy).keys()
        assert theirs["dataset_kwargs"] == definition(name, copy)["dataset_kwargs"]


def test_a_changed_template_is_another_suite(copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    template = other / "mc.template"
    template.write_text(template.read_text("utf-8").replace("num_fewshot: 0", "num_fewshot: 1"), "utf-8")
    assert suite_digest(["eu_mc"], folder=other) != suite_digest(["eu_mc"], folder=copy)
    assert suite_digest(["eu_bpb"], folder=other) == suite_digest(["eu_bpb"], folder=copy)


def test_dev_and_test_share_no_question() -> None:
    for benchmark in (name for name in OWN if not name.endswith(("_short", "_instructions"))):
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
    yaml.write_text(yaml.read_text("utf-8") + "num_fewshot: 1\n", "utf-8")
    assert suite_digest(["eu_mc"], folder=other) != suite_digest(["eu_mc"], folder=copy)


def test_an_unknown_benchmark_lists_the_known_ones() -> None:
    with pytest.raises(UnknownBenchmark, match=r"oc_mc.*Known: ca_arc_challenge, .*ca_bpb, ca_bpb_short") as refused:
        suite_digest(["eu_mc", "oc_mc"])
    assert refused.value.problems == ("oc_mc",)


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
        "import sys; from tasks.harness.suite import known_benchmarks, suite_digest, upstream_benchmarks;"
        "suite_digest(sorted(set(known_benchmarks()) - set(upstream_benchmarks())));"
        "assert not {'lm_eval', 'datasets', 'torch'} & set(sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root}, check=True)
