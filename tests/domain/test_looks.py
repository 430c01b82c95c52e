"""Looks at a part of the items: what they spend, what they may say, and that a gate without them changes nothing."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from pydantic import ValidationError
from scipy import stats

from tasks.domain.errors import CatalogError
from tasks.domain.gate import Gate, parse_gate
from tasks.domain.looks import Levels, Sequential, chance_to_pass, cut_to, exact_share, items_at, spent
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.replay import judge_in_looks
from tasks.domain.statistics import Difference, paired_difference
from tasks.domain.verdict import judge

LOOKS = (0.10, 0.35, 1.0)


def in_order(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=int)


def score_of(right: Iterable[float], cluster: int = 0) -> Score:
    items = tuple(
        Item(item_id=str(k), value=v, cluster=f"p{k // cluster}" if cluster else "") for k, v in enumerate(right)
    )
    value = sum(i.value for i in items) / len(items)
    return Score(benchmark="b", metric="acc", value=value, stderr=0.01, n=len(items), items=items)


def evaluation_of(right: Iterable[float], name: str = "a") -> Evaluation:
    return Evaluation(eval_key=name * 64, artifact_digest=name * 64, scores=(score_of(right),))


def gate_with(**limits: Any) -> Gate:
    check = {"benchmark": "b", "metric": "acc", "critical": True, **limits}
    return Gate.model_validate({"name": "g", "checks": [check], "sequential": {}})


@pytest.mark.parametrize("how", ["obrien-fleming", "pocock"])
def test_a_spending_function_spends_alpha_and_no_more(how: Any):
    parts = spent(how, LOOKS)
    assert sum(parts) == pytest.approx(0.05)
    assert all(part >= 0 for part in parts)


def test_the_boundaries_of_obrien_and_fleming_spend_late():
    parts = spent("obrien-fleming", LOOKS)
    assert parts == pytest.approx((0.0, 0.000927, 0.049073), abs=2e-5)
    expected = 2 * (1 - stats.norm.cdf(stats.norm.ppf(0.975) / math.sqrt(0.35)))
    assert parts[0] + parts[1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"looks": [0.5]}, "rising shares of which the last is 1"),
        ({"looks": [0.5, 0.2, 1]}, "rising shares"),
        ({"looks": [0.0, 1.0], "to_pass": "pocock", "to_reject": "pocock"}, "rising shares"),
        ({"to_pass": [0.01, 0.04]}, "to_pass has 2 levels and there are 3 looks"),
        ({"to_pass": [0.02, 0.02, 0.02]}, "to_pass spends 0.06"),
        ({"to_reject": [0.05, 0.0, 0.0]}, "some last"),
        ({"futility": 0.5}, "less than 0.5"),
        ({"look": [1]}, "unknown key; known here: looks, to_pass, to_reject, futility"),
    ],
)
def test_looks_that_spend_too_much_or_make_no_sense_are_refused(wrong: dict[str, Any], said: str):
    mapping = {
        "name": "g",
        "checks": [{"benchmark": "b", "metric": "acc", "floor": 0.5, "critical": True}],
        "sequential": wrong,
    }
    with pytest.raises(CatalogError, match="not a valid gate") as refused:
        parse_gate(mapping, "gate.yaml")
    assert said in str(refused.value)
    assert "sequential" in str(refused.value)


def test_point_values_cannot_stop_early():
    with pytest.raises(ValidationError, match="sequential with rule point"):
        gate_with(floor=0.5).model_validate({**gate_with(floor=0.5).model_dump(), "rule": "point"})


def test_looks_are_part_of_a_gates_digest_and_their_absence_changes_none():
    with_looks = gate_with(floor=0.5)
    without = with_looks.model_copy(update={"sequential": None})
    later = with_looks.model_copy(update={"sequential": Sequential(to_pass="obrien-fleming")})
    assert len({with_looks.digest(), without.digest(), later.digest()}) == 3


@pytest.mark.parametrize(
    ("share", "n", "items"), [(0.1, 300, 30), (0.35, 300, 105), (0.1, 7, 1), (1.0, 7, 7), (0.35, 80, 28)]
)
def test_a_look_has_whole_items(share: float, n: int, items: int):
    assert items_at(share, n) == items


@pytest.mark.parametrize(("successes", "n"), [(0, 30), (3, 30), (30, 30), (150, 300)])
def test_exact_bounds_of_a_share_are_scipys(successes: int, n: int):
    found = exact_share(successes, n, 0.025, 0.025)
    expected = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_chance_to_pass_is_that_of_drawing_the_rest():
    # Half of the items show exactly what the last look asks for at that size: under a flat prior it is a matter of luck.
    levels = Levels(0.0, 0.01, 0.5, 0.04, 0.01)
    at_the_edge = stats.norm.ppf(0.96) * math.sqrt(0.5)
    assert chance_to_pass(Difference(at_the_edge, 1.0, 50, True), 0.0, levels) == pytest.approx(0.5)
    assert chance_to_pass(Difference(-3.0, 1.0, 50, True), 0.0, levels) < 0.001
    assert chance_to_pass(Difference(4.0, 1.0, 50, True), 0.0, levels) > 0.999


def test_clusters_are_counted_and_not_their_items():
    right, wrong = [1.0] * 300, [1.0 if k // 10 % 3 else 0.0 for k in range(300)]
    alone = paired_difference(score_of(wrong).items, score_of(right).items)
    grouped = paired_difference(score_of(wrong, cluster=10).items, score_of(right, cluster=10).items)
    assert (grouped.clusters, grouped.n, grouped.table) == (30, 300, None)
    assert grouped.mean == alone.mean
    # Ten items that are right or wrong together say as much as one: the error of 30 independent items.
    assert grouped.stderr == pytest.approx(stats.sem([0.0 if k % 3 else -1.0 for k in range(30)]))
    assert grouped.stderr > 3 * alone.stderr


def test_a_reference_is_cut_to_the_items_that_the_candidate_was_asked():
    whole, part = score_of([1, 0, 1, 1]), score_of([1, 1])
    assert (cut_to(whole, part).n, cut_to(whole, part).value) == (2, 0.5)
    assert cut_to(whole, whole) is whole
    assert cut_to(part, whole) is part


def test_a_wreck_is_rejected_at_the_first_look():
    gate = gate_with(max_drop={"instruct": 0.1})
    verdict = judge_in_looks(
        gate, evaluation_of([0] * 300), {"instruct": evaluation_of([1] * 300, "b")}, None, in_order
    )
    assert verdict.outcome == "rejected"
    assert verdict.stop is not None
    assert (verdict.stop.look, verdict.stop.items) == (1, {"b": 30})
    assert verdict.rows[0].n == 30


def test_an_equal_model_passes_and_a_whole_evaluation_says_the_same():
    right = [float(k % 9 > 0) for k in range(1000)]
    gate = gate_with(max_drop={"instruct": 0.05})
    parents = {"instruct": evaluation_of(right, "b")}
    verdict = judge_in_looks(gate, evaluation_of(right), parents, None, in_order)
    assert (verdict.outcome, verdict.stop and verdict.stop.look) == ("passed", 2)
    assert judge(gate, evaluation_of(right), parents, None).outcome == "passed"


def test_the_first_look_passes_nothing_where_it_may_spend_nothing():
    right = [1.0] * 5000
    gate = gate_with(max_drop={"instruct": 0.5}, floor=0.1)
    verdict = judge_in_looks(gate, evaluation_of(right), {"instruct": evaluation_of(right, "b")}, None, in_order)
    assert (verdict.outcome, verdict.stop and verdict.stop.look) == ("passed", 2)


def test_what_would_hardly_pass_is_given_up():
    # 26 of the first 105 items fell: that more than .2 did is not shown, but that all 300 rule it out is unlikely by then.
    theirs = [1.0] * 300
    ours = [float(k % 4 != 1) for k in range(300)]
    gate = gate_with(max_drop={"instruct": 0.2})
    verdict = judge_in_looks(gate, evaluation_of(ours), {"instruct": evaluation_of(theirs, "b")}, None, in_order)
    assert verdict.outcome == "rejected"
    assert verdict.stop is not None
    assert verdict.stop.look == 2
    assert "given up: with all items it would pass with a chance of 0." in verdict.rows[0].reason
    never = gate.model_copy(update={"sequential": Sequential(futility=0)})
    later = judge_in_looks(never, evaluation_of(ours), {"instruct": evaluation_of(theirs, "b")}, None, in_order)
    assert later.stop is not None
    assert later.stop.look == 3


def test_a_gain_is_asked_for_by_its_lower_bound():
    ours, theirs = [float(k % 10 > 0) for k in range(400)], [float(k % 10 > 1) for k in range(400)]
    parents = {"instruct": evaluation_of(theirs, "b")}
    outcomes = []
    for least in (0.05, 0.1, 0.2):
        gate = gate_with(min_gain={"instruct": least}).model_copy(update={"sequential": None})
        outcomes.append(judge(gate, evaluation_of(ours), parents, None).outcome)
    assert outcomes == ["passed", "undecided", "rejected"]


def test_an_advisory_check_decides_nothing():
    checks = [
        {"benchmark": "b", "metric": "acc", "floor": 0.5, "tier": "critical"},
        {"benchmark": "c", "metric": "acc", "floor": 0.99, "tier": "advisory"},
    ]
    gate = Gate.model_validate({"name": "g", "checks": checks})
    other = score_of([1, 0]).model_copy(update={"benchmark": "c"})
    mine = evaluation_of([1] * 10)
    verdict = judge(gate, mine.model_copy(update={"scores": (*mine.scores, other)}), {}, None)
    assert (verdict.outcome, gate.checks[0].critical) == ("passed", True)
    assert verdict.rows[1].not_gated == ("advisory: 0.500 is below the floor 0.99",)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"max_drop": {"instuct": 0.1}},
            "unknown reference instuct; known: instruct, tuned, control, tuned:<language>",
        ),
        ({"floor": 0.1, "tier": "advisory"}, "contradict each other"),
        ({"min_gain": {"instruct": 0.1}, "max_drop": {"instruct": 0.1}}, "the second says more"),
        ({"min_gain": {"instruct": -0.1}}, "as a number >= 0"),
    ],
)
def test_a_slice_that_means_nothing_is_refused(limits: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        gate_with(**limits)
