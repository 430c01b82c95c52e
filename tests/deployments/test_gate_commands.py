"""`empelt gate lint` and `empelt replay` as a shell sees them, on the scores that ship with the demo's parents."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deployments.command import app
from tasks import doors
from tasks.domain.catalog import load_catalog
from tasks.domain.errors import CatalogError
from tasks.domain.models import Digest, Evaluation
from tasks.domain.replay import joined_for
from tasks.domain.verdict import judge

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "infra" / "demo_family" / "evaluations"
CATALOG = ROOT / "deployments" / "catalog"
CHECK = "  - {benchmark: en_chat_short, metric: strict, critical: true, max_drop: {instruct: %s}}\n"


def shipped(model: str) -> list[Evaluation]:
    return [Evaluation.model_validate(row) for row in json.loads((SHIPPED / f"{model}.json").read_text("utf-8"))]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation whose only candidate was the instruct parent itself, which its gate refused."""
    for name, value in {"EMPELT_HOME": str(tmp_path), "EMPELT_FAMILIES": "llama-tiny", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    doors.forget()
    ledger, models = doors.open_ledger(), {name: shipped(name) for name in ("llama-tiny-instruct-v2", "eu_llama-tiny")}
    for found in models.values():
        for one in found:
            ledger.record_evaluation(one)
    catalog = load_catalog(CATALOG, ["llama-tiny"])
    gate = catalog.gate_of(catalog.target("llama-tiny", "eu"))
    instruct, tuned = (joined_for(gate, found, {}) for found in models.values())
    assert instruct is not None
    assert tuned is not None
    verdict = judge(gate, instruct, {"instruct": instruct, "tuned": tuned}, None)
    assert verdict.outcome == "rejected"
    key: Digest = "a" * 64
    payload = verdict.model_dump(mode="json")
    ledger.record_verdict(key, "b" * 64, verdict.outcome, payload, family="llama-tiny", target="eu")
    yield tmp_path
    doors.forget()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def gate_file(folder: Path, drop: float, more: str = "") -> Path:
    path = folder / "new.yaml"
    path.write_text(f"name: new\nchecks:\n{CHECK % drop}{more}", "utf-8")
    return path


def test_the_same_gate_says_the_same_of_the_whole_history(home: Path):
    found = run("replay", "--gate", CATALOG / "gates" / "demo-language.yaml", "--json")
    report = json.loads(found.stdout)
    assert (found.exit_code, report["verdicts"], report["changed"]) == (0, 1, 0)
    assert report["replayed"][0]["target"] == "eu"


def test_a_gate_that_asks_less_changes_the_verdict_and_says_which(home: Path):
    path = gate_file(home, 0.145)
    report = json.loads(run("replay", "--gate", path, "--target", "eu", "--json").stdout)
    (row,) = report["replayed"]
    assert (row["before"], row["after"], row["changes"]) == ("rejected", "passed", True)
    assert "CHANGES" in run("replay", "--gate", path, "--target", "eu").stdout


def test_a_benchmark_that_was_never_asked_fails_and_is_named(home: Path):
    more = "  - {benchmark: pt_chat_short, metric: strict, floor: 0.1}\n"
    report = json.loads(run("replay", "--gate", gate_file(home, 0.145, more), "--target", "eu", "--json").stdout)
    (row,) = report["replayed"]
    assert (row["after"], row["unmeasured"]) == ("rejected", ["pt_chat_short"])


def test_looks_are_taken_in_a_replay_and_what_they_save_is_told(home: Path):
    looks = "  - {benchmark: eu_chat, metric: strict, floor: 0.9}\nsequential: {}\n"
    report = json.loads(run("replay", "--gate", gate_file(home, 0.145, looks), "--target", "eu", "--json").stdout)
    stop = report["replayed"][0]["stop"]
    assert (stop["look"], stop["of"], stop["planned"]) == (1, 3, 380)
    assert sum(stop["requests"]) == 38


@pytest.mark.parametrize(("drop", "refused", "code"), [(0.145, 0, 0), (0.01, 1, 2)])
def test_a_margin_that_the_items_cannot_carry_is_refused(home: Path, drop: float, refused: int, code: int):
    found = run("gate", "lint", gate_file(home, drop), "--target", "eu", "--json")
    report = json.loads(found.stdout)
    assert (found.exit_code, report["refused"]) == (code, refused)
    row = next(row for row in report["margins"] if row["against"] == "instruct")
    assert (row["items"], row["assumed"], row["standing"]) == (80, False, "refused" if refused else "ok")


def test_a_gain_that_the_parents_do_not_show_is_refused(home: Path):
    # Both parents go on in Basque on all of the texts: there is no gain to keep.
    more = "  - {benchmark: eu_text, metric: in_language, language: eu, keep_gain: 0.75}\n"
    found = run("gate", "lint", gate_file(home, 0.145, more), "--target", "eu", "--json")
    row = next(row for row in json.loads(found.stdout)["margins"] if row["against"] == "gain")
    assert (found.exit_code, row["standing"]) == (2, "refused")
    assert "would not be gated" in row["why"]


def test_nothing_on_record_is_assumed_and_said(home: Path):
    found = run("gate", "lint", gate_file(home, 0.145), "--target", "ca", "--json")
    row = next(row for row in json.loads(found.stdout)["margins"] if row["against"] == "instruct")
    assert (found.exit_code, row["assumed"], row["discordance"]) == (0, True, 0.12)


def test_a_file_with_unknown_keys_is_refused(home: Path):
    path = gate_file(home, 0.145, "sequentail: {}\n")
    found = run("gate", "lint", path)
    assert isinstance(found.exception, CatalogError)
    assert "sequentail" in str(found.exception)
