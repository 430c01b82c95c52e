"""What pictures are drawn from: the same differences that the gate judges, as shares and as limits on an axis."""

import pytest

from tasks.domain.evidence import Evidence, behind, changes, interval, kept, limits
from tasks.domain.gate import parse_gate
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.verdict import judge

CHECKS = [
    {"benchmark": "eu_mc", "metric": "acc", "max_drop": {"tuned": 0.1}, "critical": True, "floor": 0.3},
    {"benchmark": "en_mc", "metric": "acc", "max_drop": {"instruct": 0.08}},
    {"benchmark": "eu_bpb", "metric": "bits_per_byte", "keep_gain": 0.5},
    {"benchmark": "es_bpb", "metric": "bits_per_byte", "keep_gain": 0.5},
]
GATE = parse_gate({"name": "eu", "checks": CHECKS}, "eu.yaml")
RIGHT = {
    "candidate": (180, 170, 1.62, 1.50),
    "instruct": (80, 180, 1.80, 1.50),
    "tuned": (190, 120, 1.60, 1.501),
    "live": (170, 175, 1.61, 1.49),
}


def measured(who: str) -> Evaluation:
    eu, en, eu_bits, es_bits = RIGHT[who]
    scores = []
    for name, right in (("eu_mc", eu), ("en_mc", en)):
        items = tuple(Item(item_id=f"q{k:03}", value=float(k < right), answer=f"{who} {k}") for k in range(200))
        scores.append(Score(benchmark=name, metric="acc", value=right / 200, stderr=0.02, n=200, items=items))
    for name, bits in (("eu_bpb", eu_bits), ("es_bpb", es_bits)):
        spread = [0.02 * ((k * 7 + len(who)) % 5 - 2) for k in range(50)]  # sums to nothing over 50 items
        items = tuple(Item(item_id=f"t{k}", value=100 * (bits + spread[k]), weight=100.0) for k in range(50))
        scores.append(
            Score(
                benchmark=name,
                metric="bits_per_byte",
                value=bits,
                stderr=0.004,
                n=50,
                higher_is_better=False,
                items=items,
            )
        )
    return Evaluation(eval_key="e" * 64, artifact_digest=who[0].encode().hex() * 32, scores=tuple(scores))


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    parents = {role: measured(role) for role in ("instruct", "tuned")}
    return Evidence(GATE, measured("candidate"), parents, measured("live"))


def test_a_bar_lies_on_the_side_of_its_limit_that_the_verdict_says(evidence: Evidence) -> None:
    verdict = judge(GATE, evidence.candidate, evidence.parents, evidence.live)
    oks = {row.benchmark: row.ok for row in verdict.rows}
    bars = {bar.benchmark: bar for bar in kept(evidence)}
    assert set(bars) == {"eu_mc", "en_mc", "eu_bpb"}
    assert bars["eu_mc"].limit is None  # the gate limits a difference there, and no share
    for name in ("en_mc", "eu_bpb"):
        low, high, limit = bars[name].low, bars[name].high, bars[name].limit
        assert oks[name] is (True if low > limit else False if high < limit else None), name


def test_shares_are_of_the_score_or_of_the_gain(evidence: Evidence) -> None:
    bars = {bar.benchmark: bar for bar in kept(evidence)}
    assert (bars["en_mc"].of, bars["en_mc"].parent) == ("score", "instruct")
    assert bars["en_mc"].share == pytest.approx(170 / 180)
    assert bars["en_mc"].limit == pytest.approx(1 - 0.08 / 0.9)
    assert (bars["eu_mc"].of, bars["eu_mc"].parent) == ("gain", "tuned")
    assert bars["eu_mc"].share == pytest.approx((180 - 80) / (190 - 80))
    assert bars["eu_bpb"].share == pytest.approx((1.80 - 1.62) / (1.80 - 1.60))
    assert bars["eu_bpb"].limit == 0.5


def test_a_gain_that_the_parents_do_not_show_is_not_drawn(evidence: Evidence) -> None:
    assert "es_bpb" not in {bar.benchmark for bar in kept(evidence)}
    assert limits(GATE.checks[3], evidence) == []


def test_the_hardest_limit_comes_last(evidence: Evidence) -> None:
    assert limits(GATE.checks[0], evidence) == pytest.approx([0.3, 0.85])
    assert limits(GATE.checks[2], evidence) == pytest.approx([1.70])


def test_a_parent_that_was_not_measured_leaves_its_bars_out(evidence: Evidence) -> None:
    assert kept(evidence._replace(parents={})) == ()
    assert limits(GATE.checks[0], evidence._replace(parents={})) == [0.3]


def test_changes_tell_the_items_that_were_won_and_lost(evidence: Evidence) -> None:
    by_name = {change.check.benchmark: change for change in changes(evidence)}
    assert [flip.item_id for flip in by_name["eu_mc"].won] == [f"q{k}" for k in range(170, 180)]
    assert by_name["eu_mc"].won[0].before == "live 170"
    assert by_name["eu_mc"].won[0].after == "candidate 170"
    assert len(by_name["en_mc"].lost) == 5
    assert by_name["en_mc"].word == "worse"
    assert (by_name["eu_bpb"].won, by_name["eu_bpb"].lost) == ((), ())
    assert by_name["eu_bpb"].gain.mean == pytest.approx(-0.01)
    assert changes(evidence._replace(live=None)) == ()


def test_an_interval_of_shares_stays_within_them(evidence: Evidence) -> None:
    sure = evidence.candidate.scores[0].model_copy(
        update={"value": 1.0, "items": tuple(Item(item_id=str(k), value=1.0) for k in range(200))}
    )
    low, high = interval(sure)
    assert 0.97 < low < high <= 1.0
    low, high = interval(evidence.candidate.scores[2])
    assert high - 1.62 == pytest.approx(1.62 - low)


def test_the_scores_behind_a_verdict_are_joined_from_evaluations_of_one_benchmark_each(evidence: Evidence) -> None:
    verdict = judge(GATE, evidence.candidate, evidence.parents, evidence.live)
    whole = evidence.candidate
    parts = [whole.model_copy(update={"scores": (score,), "facts": {score.benchmark: "x"}}) for score in whole.scores]
    stale = [
        part.model_copy(update={"scores": (part.scores[0].model_copy(update={"value": 0.001}),)}) for part in parts
    ]
    joined = behind([*parts, *stale], verdict, "candidate")
    assert joined is not None
    told = {(row.benchmark, row.metric): row.score for row in verdict.rows}
    assert {(score.benchmark, score.metric): score.value for score in joined.scores} == told
    assert set(joined.facts) == {name for name, _ in told}
    assert behind(parts[1:], verdict, "candidate") is None
    assert behind([evidence.parents["tuned"]], verdict, "instruct") is None
