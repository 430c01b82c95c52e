"""What a page shows beside a verdict: the matrix, the worst lost items, the items that are missing, cost and trend."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.domain.cost import STAGES, costs, seconds_by_stage
from tasks.domain.evidence import Evidence
from tasks.domain.flips import worst_flips
from tasks.domain.gate import parse_gate
from tasks.domain.insight import insight
from tasks.domain.insight_rows import against_rows, cost_rows, first_lines, last_lines, matrix_rows
from tasks.domain.looks import Stop
from tasks.domain.matrix import cells, references
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.needed import items_to_tell, needed
from tasks.domain.records import MergeCost, VerdictFact
from tasks.domain.statistics import Difference, mean_and_stderr, paired_difference
from tasks.domain.statistics_paired import power
from tasks.domain.trend import MOST, trend
from tasks.domain.verdict import judge
from tasks.domain.verdict_document import verdict_document, verdict_schema

CHECKS = [
    {"benchmark": "eu_chat_short", "metric": "strict", "max_drop": {"instruct": 0.05}, "critical": True},
    {"benchmark": "eu_mc", "metric": "acc", "capability": "knowledge", "keep_gain": 0.5, "critical": True},
    {"benchmark": "en_chat", "metric": "strict", "max_drop": {"instruct": 0.05}},
]
GATE = parse_gate({"name": "eu", "checks": CHECKS}, "eu.yaml")


def measured(who: str, wrong: dict[str, set[int]], n: int = 100) -> Evaluation:
    scores = []
    for check in GATE.checks:
        lost = wrong.get(check.benchmark, set())
        items = tuple(Item(item_id=f"q{k:03}", value=float(k not in lost), answer=f"{who} {k}") for k in range(n))
        value, stderr = mean_and_stderr(items)
        metric = check.metric
        scores.append(Score(benchmark=check.benchmark, metric=metric, value=value, stderr=stderr, n=n, items=items))
    facts = {f"requests:{check.benchmark}": "10" for check in GATE.checks}
    return Evaluation(eval_key="e" * 64, artifact_digest=who.encode().hex()[0] * 64, scores=tuple(scores), facts=facts)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    candidate = measured("me", {"eu_chat_short": {1, 2, 3, 4}, "en_chat": {5, 6}, "eu_mc": set(range(70, 100))})
    instruct = measured("parent", {"eu_chat_short": {3, 9}, "eu_mc": set(range(50, 100))})
    tuned = measured("tuned", {"eu_chat_short": {1, 2, 3}, "en_chat": {6}, "eu_mc": set(range(80, 100))})
    return Evidence(GATE, candidate, {"instruct": instruct, "tuned": tuned}, measured("live", {"en_chat": {6}}))


def test_the_matrix_has_every_check_in_its_place_and_every_reference(evidence: Evidence) -> None:
    verdict = judge(GATE, evidence.candidate, evidence.parents, evidence.live)
    found = cells(verdict, evidence)
    assert [(cell.language, cell.capability) for cell in found] == [
        ("eu", "chat"),
        ("eu", "knowledge"),
        ("en", "chat"),
    ]
    assert references(found) == ("instruct", "tuned", "live")
    by_role = {one.role: one for one in found[0].against}
    assert by_role["instruct"].gain == pytest.approx(0.96 - 0.98)
    assert by_role["instruct"].theirs == pytest.approx(0.98)
    assert by_role["instruct"].low < -0.02 < by_role["instruct"].high
    assert (by_role["instruct"].limit, by_role["tuned"].limit, by_role["live"].limit) == (-0.05, None, -0.03)
    assert {row[""]: row["knowledge"] for row in matrix_rows(found)}["en"] == "–"
    assert "limit -0.05" in against_rows(found)[0]["instruct"]


def test_what_all_references_know_is_worst_and_critical_slices_come_first(evidence: Evidence) -> None:
    found = worst_flips(evidence)
    assert [(one.benchmark, one.item_id) for one in found[:3]] == [
        ("eu_chat_short", "q004"),
        ("en_chat", "q005"),
        ("eu_chat_short", "q001"),
    ]
    assert found[0].known_by == ("live", "instruct", "tuned")
    assert (found[0].before, found[0].after) == ("live 4", "me 4")
    assert [len(one.known_by) for one in found] == sorted((len(one.known_by) for one in found), reverse=True)
    lost = {(one.benchmark, one.item_id) for one in worst_flips(evidence, most=1000)}
    assert ("eu_chat_short", "q003") in lost  # the live model alone has it right
    assert ("en_chat", "q007") not in lost
    assert len(worst_flips(evidence, most=3)) == 3


def test_an_undecided_limit_says_how_many_items_would_tell(evidence: Evidence) -> None:
    verdict = judge(GATE, evidence.candidate, evidence.parents, evidence.live)
    found = {one.limit: one for one in needed(verdict, evidence) if one.benchmark == "eu_chat_short"}
    (one,) = found.values()
    assert one.limit == "drop against instruct of 0.05"
    assert one.seen == pytest.approx(0.03)
    assert one.items is not None
    assert one.items > 100
    assert power(one.items, 0.05, 0.04, gain=-0.02) >= 0.8 > power(max(one.items - 30, 300), 0.05, 0.04, gain=-0.02)
    assert f"({one.items - 100:,} more)" in one.sentence


def test_more_items_are_needed_the_nearer_the_limit_and_never_fewer_than_there_are() -> None:
    near, far = (Difference(mean, 0.02, 200, True) for mean in (0.01, 0.03))
    assert items_to_tell(near, 0.0) == pytest.approx(9 * items_to_tell(far, 0.0), rel=0.01)
    assert items_to_tell(Difference(0.5, 0.02, 200, True), 0.0) == 201
    assert items_to_tell(Difference(0.0, 0.02, 200, True), 0.0) is None
    assert items_to_tell(Difference(0.0001, 0.02, 200, True), 0.0) is None
    assert items_to_tell(near.mirrored(), 0.0) == items_to_tell(near, 0.0)  # as many to show a failure
    assert items_to_tell(Difference(0.5, 0.02, 200, True, clusters=10), 0.0) == 600


def test_the_plan_agrees_with_the_gates_own_test(evidence: Evidence) -> None:
    ours, theirs = evidence.candidate.scores[0], evidence.parents["instruct"].scores[0]
    difference = paired_difference(ours.items, theirs.items)
    wanted = items_to_tell(difference, -0.05)
    assert wanted is not None
    assert wanted >= 300  # below that power is not sought


def test_a_decided_verdict_needs_nothing(evidence: Evidence) -> None:
    verdict = judge(GATE, evidence.parents["instruct"], evidence.parents, None)
    assert needed(verdict.model_copy(update={"rows": ()}), evidence) == ()


def test_cost_is_told_by_stage_with_what_looks_saved(evidence: Evidence) -> None:
    verdict = judge(GATE, evidence.candidate, evidence.parents, evidence.live)
    stop = Stop(look=2, of=3, share=0.35, requests=(5, 12), planned=50)
    found = costs(
        verdict.model_copy(update={"stop": stop}), evidence, MergeCost(seconds=75, peak_bytes=None), {"fetch": 3}
    )
    assert [(one.stage, one.seconds, one.requests) for one in found] == [
        ("fetch", 3, None),
        ("merge", 75, None),
        ("evaluate", None, 17),
        ("references", None, 90),
        ("looks", None, 33),
    ]
    assert found[-1].said == "decided at look 2 of 3: 66% of 50"
    assert cost_rows(found)[1]["time"] == "75 s"


def test_the_trend_has_the_newest_verdict_of_each_release_in_their_order(evidence: Evidence) -> None:
    verdict, at = judge(GATE, evidence.candidate, evidence.parents, None), datetime(2026, 5, 1, tzinfo=UTC)

    def fact(job: str, hours: int, outcome: str) -> VerdictFact:
        told = {"verdict_key": "k", "job_key": job, "family": "f", "target": "eu", "outcome": outcome}
        return VerdictFact(**told, payload=verdict.model_dump(mode="json"), at=at + timedelta(hours=hours))

    facts = [fact("j1", 5, "passed"), fact("j2", 4, "rejected"), fact("j1", 1, "undecided"), fact("gone", 0, "passed")]
    found = trend(facts, {"j1": "v1", "j2": "v2", "j3": "v3"})
    assert [(point.release, point.outcome) for point in found] == [("v1", "passed"), ("v2", "rejected")]
    assert {score.benchmark for score in found[0].scores} == {"eu_chat_short", "eu_mc"}
    assert len(trend([fact(f"j{k}", 1, "passed") for k in range(40)], {f"j{k}": f"v{k}" for k in range(40)})) == MOST


def test_the_document_is_what_its_schema_says(evidence: Evidence) -> None:
    verdict = judge(GATE, evidence.candidate, evidence.parents, evidence.live)
    more = insight(verdict, evidence, ask=lambda benchmark, item: (f"{benchmark}?", item))
    assert more.lost[0].question == "eu_chat_short?"
    told = verdict_document(verdict, more, family="f", target="eu", ended="Undecided").model_dump(mode="json")
    schema = verdict_schema()
    assert set(told) == set(schema["properties"])
    assert schema["properties"]["document"]["const"] == told["document"]
    assert told["slices"][0]["against"][0]["role"] == "instruct"
    assert [line["of"] for line in told["retention"]] == ["score", "gain", "score"]
    assert len(told["lost"]) == len(more.lost) > 0


def test_what_was_never_measured_leaves_its_parts_out(evidence: Evidence) -> None:
    verdict = judge(GATE, evidence.candidate, evidence.parents, evidence.live)
    assert first_lines(insight(verdict, None)) == last_lines(insight(verdict, None)) == []


def test_seconds_of_a_stage_are_those_in_which_it_lasted() -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)

    def run(name: str, began: float, ended: float) -> tuple[str, datetime, datetime]:
        return name, at + timedelta(seconds=began), at + timedelta(seconds=ended)

    found = seconds_by_stage(
        [
            run("fetch base: llama", 0, 4),
            run("fetch instruct: llama-v2", 1, 6),  # at once with the other
            run("merge v2 x eu", 6, 20),
            run("reference outputs of v2 x eu (candidate)", 31, 32),
            run("evaluate v2 x eu (candidate)", 32, 40),
            run("evaluate instruct parent", 40, 43),
            run("evaluate live v1", 43, 44),
            run("evaluate v2 x eu (candidate, look 2)", 44, 50),
            run("judge v2 x eu", 50, 51),
        ]
    )
    assert found == {"fetch": 6, "stage": 11, "evaluate": 15, "references": 4}
    searched = seconds_by_stage(
        [
            run("merge v2 x eu", 6, 20),
            run("examine files of v2 x eu", 20, 22),
            run("examine v2 x eu (candidate)", 31, 33),
            run("examine instruct parent", 40, 41),
            run("evaluate v2 x eu (candidate)", 42, 50),
            run("search-recipe-0", 51, 90),
            run("merge v2 x eu", 90, 91),  # of what the search chose
            run("examine files of v2 x eu", 91, 92),
            run("evaluate v2 x eu (candidate)", 95, 99),
        ]
    )
    assert searched == {"checks": 6, "stage": 9, "evaluate": 12, "search": 39}
    assert {*searched} <= {*STAGES}
    assert seconds_by_stage([]) == {}
