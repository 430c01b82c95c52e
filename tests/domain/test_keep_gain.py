"""The share of a tuned base's gain that a merge must keep: by numbers, by words, and where there is no gain to ask for."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from tasks.domain.gate import Gate, parse_gate
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.statistics import mean_and_stderr
from tasks.domain.verdict import judge

N = 400
Metric = Literal["acc", "bits_per_byte"]


def score(values: Sequence[float], metric: Metric = "acc", weights: Sequence[float] | None = None) -> Score:
    weighed = zip(values, weights or [1.0] * len(values), strict=True)
    items = tuple(Item(item_id=f"i{k}", value=v, weight=w) for k, (v, w) in enumerate(weighed))
    value, stderr = mean_and_stderr(items)
    return Score(benchmark="b", metric=metric, value=value, stderr=stderr, n=len(items), items=items)


def right(count: int, n: int = N) -> Score:
    return score([1.0] * count + [0.0] * (n - count))


def evaluation(found: Score, digest: str = "c") -> Evaluation:
    return Evaluation(eval_key="e" * 64, artifact_digest=digest * 64, scores=(found,))


def gate(rule: str = "confident", **check: Any) -> Gate:
    whole = {"benchmark": "b", "metric": "acc", "critical": True, **check}
    return parse_gate({"name": "g", "rule": rule, "checks": [whole]}, "g.yaml")


def parents(instruct: Score, tuned: Score) -> dict[str, Evaluation]:
    return {"instruct": evaluation(instruct, "a"), "tuned": evaluation(tuned, "b")}


@pytest.mark.parametrize(
    ("rule", "candidate", "outcome"),
    [
        # Instruct has 100 of 400, tuned 300: 75 % of the gain is 250.
        ("point", 250, "passed"),
        ("point", 249, "rejected"),
        ("confident", 300, "passed"),
        ("confident", 270, "passed"),
        ("confident", 255, "undecided"),
        ("confident", 245, "undecided"),
        ("confident", 220, "rejected"),
        ("confident", 100, "rejected"),
    ],
)
def test_the_gain_that_is_kept_is_judged_by_the_rule_of_the_gate(rule: str, candidate: int, outcome: str) -> None:
    verdict = judge(gate(rule, keep_gain=0.75), evaluation(right(candidate)), parents(right(100), right(300)), None)
    assert verdict.outcome == outcome, verdict.rows[0].reason
    assert verdict.rows[0].gated
    assert f"keeps {(candidate - 100) / 200:.1%} of the gain from 0.250 to 0.750" in verdict.rows[0].reason


@pytest.mark.parametrize(
    ("bits", "outcome"), [(1.80, "passed"), (1.84, "passed"), (1.86, "rejected"), (2.0, "rejected"), (2.2, "rejected")]
)
def test_bits_per_byte_are_gained_downwards(bits: float, outcome: str) -> None:
    # Instruct 2.0, tuned 1.8: 75 % of the gain is 1.85. Texts differ in length, and the bytes weigh.
    weights = [100.0 + 3 * k for k in range(80)]

    def text(per_byte: float, noise: float) -> Score:
        return score([(per_byte + noise * (-1) ** k) * w for k, w in enumerate(weights)], "bits_per_byte", weights)

    verdict = judge(
        gate(metric="bits_per_byte", keep_gain=0.75),
        evaluation(text(bits, 0.02)),
        parents(text(2.0, 0.01), text(1.8, -0.01)),
        None,
    )
    assert verdict.outcome == outcome, verdict.rows[0].reason


def test_pairing_decides_a_gain_that_summaries_alone_cannot() -> None:
    known = parents(right(100), right(300))
    bare = {
        role: e.model_copy(update={"scores": (e.scores[0].model_copy(update={"items": ()}),)})
        for role, e in known.items()
    }
    paired = judge(gate(keep_gain=0.75), evaluation(right(265)), known, None)
    unpaired = judge(gate(keep_gain=0.75), evaluation(right(265)), bare, None)
    assert (paired.outcome, unpaired.outcome) == ("passed", "undecided")
    assert "not paired" in unpaired.rows[0].reason


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        (100, "not gated: the parents differ by 0.0 standard errors, 3 are needed"),
        # 8 items more of 400, nested: stderr sqrt((.02 - .0004) / 400) = .007, which is 2.9 of them.
        (108, "not gated: the parents differ by 2.9 standard errors, 3 are needed"),
        (60, "not gated: the tuned parent is worse than the instruct parent by 6.7 standard errors"),
    ],
)
def test_where_the_parents_hardly_differ_there_is_no_gain_to_gate(tuned: int, said: str) -> None:
    judged = gate(keep_gain=0.75, floor=0.1)
    verdict = judge(judged, evaluation(right(60)), parents(right(100), right(tuned)), None)
    assert verdict.outcome == "passed"
    (row,) = verdict.rows
    assert (row.ok, row.gated, row.not_gated) == (True, True, (said,))
    assert f"b: {said}." in verdict.reasons


def test_three_standard_errors_are_enough_to_gate() -> None:
    # 9 items more: 3.03 standard errors.
    verdict = judge(gate(keep_gain=0.75), evaluation(right(60)), parents(right(100), right(109)), None)
    assert verdict.outcome == "rejected"
    assert verdict.rows[0].not_gated == ()


def test_a_gate_of_which_nothing_could_be_gated_passes_nobody() -> None:
    verdict = judge(gate(keep_gain=0.75), evaluation(right(400)), parents(right(100), right(100)), None)
    assert verdict.outcome == "undecided"
    assert (verdict.rows[0].ok, verdict.rows[0].gated) == (True, False)
    assert verdict.reasons[0] == "No check of gate g could be gated, so nothing was shown."
    assert "not gated: the parents differ by 0.0" in verdict.reasons[1]


def test_a_check_that_is_not_gated_neither_helps_nor_hurts_the_others() -> None:
    checks = [
        {"benchmark": "b", "metric": "acc", "keep_gain": 0.75, "min_items": 999},
        {"benchmark": "other", "metric": "acc", "floor": 0.5, "critical": True},
    ]
    both = parse_gate({"name": "g", "checks": checks}, "g.yaml")

    def scored(other: int) -> Evaluation:
        second = right(other).model_copy(update={"benchmark": "other"})
        return evaluation(right(10)).model_copy(update={"scores": (right(10), second)})

    known = parents(right(100), right(100))
    assert judge(both, scored(199), known, None).outcome == "rejected"
    passed = judge(both, scored(200), known, None)
    assert passed.outcome == "passed"
    assert passed.reasons[0] == "All 1 gated checks of gate g passed."


@pytest.mark.parametrize("missing", ["instruct", "tuned"])
def test_an_unscored_parent_fails_the_gain_and_is_named(missing: str) -> None:
    known = parents(right(100), right(300))
    del known[missing]
    verdict = judge(gate(keep_gain=0.75), evaluation(right(300)), known, None)
    assert verdict.outcome == "rejected"
    assert f"parent {missing} is unscored" in verdict.reasons[0]


def test_of_several_tuned_bases_the_one_of_the_checks_language_is_meant() -> None:
    known = {"instruct": evaluation(right(100), "a"), "tuned:eu": evaluation(right(300), "b")}
    known["tuned:gl"] = evaluation(right(120), "d")
    outcomes = {
        code: judge(gate(keep_gain=0.75, language=code), evaluation(right(150)), known, None).outcome
        for code in ("eu", "gl")
    }
    assert outcomes == {"eu": "rejected", "gl": "passed"}
    dropped = judge(gate(max_drop={"tuned": 0.1}, language="gl"), evaluation(right(150)), known, None)
    assert dropped.outcome == "passed"
    assert dropped.rows[0].parents == {"instruct": 0.25, "tuned:eu": 0.75, "tuned:gl": 0.3}
