"""The gates for families of 8 B parameters: read, within their budget, and with margins that their items can carry."""

import re
import shutil
from pathlib import Path

import pytest

from tasks.domain.errors import InputError
from tasks.domain.fitting import fit_gate
from tasks.domain.gate import Gate, parse_gate
from tasks.domain.lint import lint
from tasks.domain.statistics_paired import detectable
from tasks.domain.yaml_lines import Document
from tasks.harness.suite import PROMPTS_PER_REQUEST, SUITES, cost_of, known_benchmarks, requests_of, upstream_benchmarks

GATES = Path(__file__).parents[2] / "deployments/catalog/gates"
LANGUAGES = ("eu", "ca", "gl", "es")
ITEMS = {
    "proficiency": (5164, 4),
    "trivia": (1710, 4),
    "exams": (3000, 4),
    "bertaqa": (4751, 3),
    "xstorycloze": (1511, 2),
    "belebele": (895, 4),
    "openbookqa": (500, 4),
    "arc_challenge": (1172, 4),
    "mgsm": (250, 0),
}
"""Published sizes, less five shots where the data set has no split to take them from; and choices. 0: one by one."""


def items_of(benchmark: str) -> int:
    task = benchmark[3:]
    return ITEMS[task][0] if task in ITEMS else cost_of(benchmark).prompts


def cost(benchmark: str) -> int:
    task = benchmark[3:]
    if benchmark not in upstream_benchmarks():
        return requests_of(benchmark)
    items, choices = ITEMS[task]
    return -(-items * choices // PROMPTS_PER_REQUEST) if choices else items


def gate_of(language: str) -> Gate:
    document = Document(GATES / f"{language}-8b.yaml")
    gate = parse_gate(document.data, document.where, known=known_benchmarks())
    return fit_gate(gate, document.where, [language], known=known_benchmarks(), requests_of=cost)


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_read_and_fits_a_target_and_its_budget(language: str) -> None:
    gate = gate_of(language)
    total = sum(map(cost, gate.benchmarks))
    stated = re.search(r"# ([\d,]+) by the numbers", (GATES / f"{language}-8b.yaml").read_text("utf-8"))
    assert stated is not None
    assert total == int(stated[1].replace(",", "")) < gate.max_requests
    assert all(check.language in (language, None) for check in gate.checks)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_margin_is_one_that_the_items_can_carry(language: str) -> None:
    found = lint(gate_of(language), items_of, lambda check: [])
    margins = [row for row in found if row.margin is not None]
    assert {row.standing for row in margins} == {"ok"}, [row for row in margins if row.standing != "ok"]
    assert {row.against for row in found} >= {"instruct", "live", "gain"}


@pytest.mark.parametrize(
    ("n", "told"),
    [(120, 0.109), (250, 0.075), (895, 0.039), (1172, 0.034), (1511, 0.030), (3000, 0.021), (5164, 0.017)],
)
def test_the_figures_in_their_heads_are_the_linters(n: int, told: float) -> None:
    assert 1.3 * detectable(n, 0.12, 0.05, 0.8) == pytest.approx(told, abs=0.0006)
    assert f"{told:.3f}"[1:] in (GATES / "eu-8b.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("benchmark", "instruct", "tuned"),
    [
        ("eu_proficiency", 0.341, 0.536),
        ("eu_trivia", 0.450, 0.605),
        ("eu_exams", 0.462, 0.550),
        ("eu_xstorycloze", 0.612, 0.685),
    ],
)
def test_what_may_be_lost_of_a_published_gain_can_be_carried(benchmark: str, instruct: float, tuned: float) -> None:
    check = next(check for check in gate_of("eu").checks if check.benchmark == benchmark)
    assert check.keep_gain is not None
    lost = (1 - check.keep_gain) * (tuned - instruct)
    assert lost >= 1.3 * detectable(items_of(benchmark), 0.12, 0.05, 0.8)
    line = next(x for x in (GATES / "eu-8b.yaml").read_text("utf-8").split("\n") if x.startswith(f"#     {benchmark} "))
    assert f"= {lost:.3f}".replace("0.", ".") in line


def test_the_slices_of_the_basque_gate_are_explained_with_the_linters_figures() -> None:
    head = (GATES / "eu-8b.yaml").read_text("utf-8")
    found = {row.slice: row for row in lint(gate_of("eu"), items_of, lambda check: []) if row.metric == "pooled"}
    assert set(found) == {"eu.knowledge", "eu.reading", "en.general"}
    for name, row in found.items():
        assert row.margin is not None
        assert row.detectable is not None
        assert row.margin >= 1.3 * row.detectable
        explained = head.split(f"#     {name} ")[1].split("needed ")[1]
        assert explained.startswith(f"{1.3 * row.detectable:.3f}"[1:]), (name, 1.3 * row.detectable)


def test_without_prepared_data_a_target_with_such_a_gate_is_refused_with_what_to_run(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("data")
    bare = Path(shutil.copytree(SUITES, tmp_path / "suites", ignore=ignored))
    document = Document(GATES / "eu-8b.yaml")
    gate = parse_gate(document.data, document.where)
    with pytest.raises(InputError, match=r"python -m tasks\.harness\.prepare eu_proficiency"):
        fit_gate(gate, document.where, ["eu"], requests_of=lambda name: cost_of(name, folder=bare).requests)
