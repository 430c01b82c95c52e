"""Verdicts, table-driven: limits met and not met, what cannot be decided, and candidates that must never pass."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from tasks.domain.errors import InputError
from tasks.domain.gate import Gate, parse_gate
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.statistics import mean_and_stderr
from tasks.domain.verdict import judge

N = 400
Metric = Literal["acc", "strict", "bits_per_byte"]


def score(benchmark: str, metric: Metric, values: Sequence[float], weights: Sequence[float] | None = None) -> Score:
    weighed = zip(values, weights or [1.0] * len(values), strict=True)
    items = tuple(Item(item_id=f"i{k}", value=v, weight=w) for k, (v, w) in enumerate(weighed))
    value, stderr = mean_and_stderr(items)
    better = metric != "bits_per_byte"
    return Score(
        benchmark=benchmark,
        metric=metric,
        value=value,
        stderr=stderr,
        n=len(items),
        higher_is_better=better,
        items=items,
    )


def shares(right: int, n: int = N) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def evaluation(*scores: Score, digest: str = "c", facts: Mapping[str, str] | None = None) -> Evaluation:
    return Evaluation(eval_key="e" * 64, artifact_digest=digest * 64, scores=scores, facts=dict(facts or {}))


def gate(rule: str = "confident", **check: Any) -> Gate:
    whole = {"benchmark": "b", "metric": "acc", "critical": True, **check}
    return parse_gate({"name": "g", "rule": rule, "checks": [whole]}, "g.yaml")


@pytest.mark.parametrize(
    ("limits", "right", "outcome"),
    [
        ({"floor": 0.5}, 200, "passed"),
        ({"floor": 0.5}, 199, "rejected"),
        ({"floor": 0.5, "min_items": N}, 200, "passed"),
        ({"floor": 0.5, "min_items": N + 1}, 200, "undecided"),
        ({"floor": 0.5, "min_items": N + 1}, 199, "rejected"),
    ],
)
def test_a_floor_is_held_against_the_point_value(limits: dict[str, Any], right: int, outcome: str) -> None:
    verdict = judge(gate(**limits), evaluation(score("b", "acc", shares(right))), {}, None)
    assert verdict.outcome == outcome
    assert verdict.rows[0].ok is {"passed": True, "rejected": False, "undecided": None}[outcome]


@pytest.mark.parametrize(
    ("rule", "candidate", "outcome"),
    [
        # The parent has 300 of 400; 0.05 is 20 items. Nested answers, so the discordance is the difference itself.
        ("confident", 300, "passed"),
        ("confident", 290, "passed"),  # -0.025, bounds -0.038 to -0.012
        ("confident", 280, "undecided"),  # -0.050, bounds -0.068 to -0.032
        ("confident", 270, "rejected"),  # -0.075, bounds -0.097 to -0.053
        ("point", 280, "passed"),  # the limit met exactly is met
        ("point", 279, "rejected"),
    ],
)
def test_a_drop_is_judged_by_the_rule_of_the_gate(rule: str, candidate: int, outcome: str) -> None:
    parents = {"instruct": evaluation(score("b", "acc", shares(300)), digest="a")}
    judged = gate(rule, max_drop={"instruct": 0.05})
    verdict = judge(judged, evaluation(score("b", "acc", shares(candidate))), parents, None)
    assert verdict.outcome == outcome
    assert verdict.rows[0].parents == {"instruct": 0.75}


def test_pairing_decides_what_summaries_alone_cannot() -> None:
    judged = gate(max_drop={"instruct": 0.05})
    candidate, parent = score("b", "acc", shares(290)), score("b", "acc", shares(300))
    paired = judge(judged, evaluation(candidate), {"instruct": evaluation(parent)}, None)
    bare = parent.model_copy(update={"items": ()})
    unpaired = judge(judged, evaluation(candidate), {"instruct": evaluation(bare)}, None)
    assert (paired.outcome, unpaired.outcome) == ("passed", "undecided")
    assert "not paired" in unpaired.rows[0].reason


@pytest.mark.parametrize(("bits", "outcome"), [(1.9, "passed"), (2.1, "rejected")])
def test_bits_per_byte_are_better_when_lower(bits: float, outcome: str) -> None:
    weights = [100.0 + k for k in range(50)]
    parent = score("b", "bits_per_byte", [2.0 * w for w in weights], weights)
    candidate = score("b", "bits_per_byte", [bits * w for w in weights], weights)
    judged = gate(metric="bits_per_byte", max_drop={"tuned": 0.05})
    assert judge(judged, evaluation(candidate), {"tuned": evaluation(parent)}, None).outcome == outcome
    ceiling = gate(metric="bits_per_byte", ceiling=2.0)
    assert judge(ceiling, evaluation(candidate), {}, None).outcome == outcome


def test_a_missing_score_is_unscored_and_fails() -> None:
    verdict = judge(gate(floor=0.0), evaluation(score("other", "acc", shares(9))), {}, None)
    assert verdict.outcome == "rejected"
    assert verdict.rows[0].score is None
    assert verdict.reasons[0] == "b: the candidate is unscored."


def test_a_score_in_another_metric_is_not_the_score_asked_for() -> None:
    verdict = judge(gate(metric="strict", floor=0.1), evaluation(score("b", "acc", shares(400))), {}, None)
    assert verdict.outcome == "rejected"


def test_a_missing_parent_fails_the_check_that_needs_it() -> None:
    verdict = judge(gate(max_drop={"tuned": 0.5}), evaluation(score("b", "acc", shares(400))), {}, None)
    assert verdict.outcome == "rejected"
    assert "parent tuned is unscored" in verdict.reasons[0]


def test_a_score_that_is_not_a_number_fails() -> None:
    broken = Score(benchmark="b", metric="acc", value=float("nan"), stderr=0.0, n=400)
    parents = {"instruct": evaluation(score("b", "acc", shares(1)))}
    judged = gate(max_drop={"instruct": 0.5})
    assert judge(judged, evaluation(broken), parents, None).outcome == "rejected"


def test_a_failed_check_outweighs_an_undecided_one() -> None:
    checks = [
        {"benchmark": "a", "metric": "acc", "floor": 0.1, "min_items": 999, "critical": True},
        {"benchmark": "b", "metric": "acc", "floor": 0.9},
    ]
    both = parse_gate({"name": "g", "checks": checks}, "g.yaml")
    verdict = judge(both, evaluation(score("a", "acc", shares(99)), score("b", "acc", shares(99))), {}, None)
    assert [row.ok for row in verdict.rows] == [None, False]
    assert verdict.outcome == "rejected"


def test_other_items_and_other_settings_are_refused_all_at_once() -> None:
    candidate = evaluation(score("b", "acc", shares(9)), facts={"lm_eval": "0.4.13", "benchmark:b": "one"})
    parent = evaluation(score("b", "acc", shares(9, n=40)), facts={"lm_eval": "0.4.12", "benchmark:b": "two"})
    with pytest.raises(InputError, match="cannot be compared") as refused:
        judge(gate(max_drop={"instruct": 0.1}), candidate, {"instruct": parent}, None)
    assert len(refused.value.problems) == 3
    assert "measured with lm_eval 0.4.12, the candidate with 0.4.13" in refused.value.problems[0]


# Candidates that no gate worth its name lets through.
REAL = {
    "name": "eu",
    "checks": [
        {"benchmark": "eu_mc", "metric": "acc", "floor": 0.6, "max_drop": {"tuned": 0.2}, "critical": True},
        {"benchmark": "eu_chat", "metric": "strict", "floor": 0.3, "critical": True},
        {"benchmark": "en_chat", "metric": "strict", "floor": 0.5, "max_drop": {"instruct": 0.3}, "critical": True},
        {"benchmark": "eu_bpb", "metric": "bits_per_byte", "ceiling": 2.0, "max_drop": {"tuned": 0.2}},
    ],
}


def real(mc: list[float], eu: list[float], en: list[float], bits: float, digest: str = "c") -> Evaluation:
    weights = [200.0 + k for k in range(60)]
    return evaluation(
        score("eu_mc", "acc", mc),
        score("eu_chat", "strict", eu),
        score("en_chat", "strict", en),
        score("eu_bpb", "bits_per_byte", [bits * w for w in weights], weights),
        digest=digest,
    )


def mixed(right: int, seed: int) -> list[float]:
    marks = shares(right)
    random.Random(seed).shuffle(marks)
    return marks


@pytest.mark.parametrize(
    ("name", "candidate", "outcome"),
    [
        ("a good merge", real(mixed(380, 1), mixed(200, 2), mixed(340, 3), 1.82), "passed"),
        ("always A", real(mixed(100, 1), shares(0), shares(0), 1.82), "rejected"),
        ("empty answers", real(mixed(380, 1), shares(0), shares(0), 1.82), "rejected"),
        ("another model", real(mixed(92, 1), shares(0), shares(2), 6.2), "rejected"),
        ("the instruct parent itself", real(mixed(118, 1), shares(2), mixed(384, 3), 2.24), "rejected"),
        ("the tuned base itself", real(mixed(389, 1), shares(0), shares(0), 1.76), "rejected"),
    ],
)
def test_what_must_be_blocked_is_blocked(name: str, candidate: Evaluation, outcome: str) -> None:
    parents = {
        "instruct": real(mixed(118, 1), shares(2), mixed(384, 3), 2.24, digest="a"),
        "tuned": real(mixed(389, 1), shares(0), shares(0), 1.76, digest="b"),
    }
    verdict = judge(parse_gate(REAL, "eu.yaml"), candidate, parents, None)
    assert verdict.outcome == outcome, (name, verdict.reasons)


@pytest.mark.parametrize(
    ("live", "stronger"),
    [
        (None, None),  # the first occupant needs the gate only
        ((200, 200), True),  # better on both
        ((300, 200), True),  # level on one, better on the other
        ((300, 300), False),  # level on both: a switch for nothing
        ((330, 100), False),  # worse on a critical slice, however much better elsewhere
    ],
)
def test_stronger_is_not_worse_anywhere_and_better_somewhere(
    live: tuple[int, int] | None, stronger: bool | None
) -> None:
    checks = [{"benchmark": name, "metric": "acc", "floor": 0.1, "critical": True} for name in ("one", "two")]
    both = parse_gate({"name": "g", "checks": checks}, "g.yaml")

    def scored(pair: tuple[int, int], digest: str) -> Evaluation:
        return evaluation(score("one", "acc", shares(pair[0])), score("two", "acc", shares(pair[1])), digest=digest)

    verdict = judge(both, scored((300, 300), "c"), {}, scored(live, "f") if live else None)
    assert verdict.outcome == "passed"
    assert verdict.stronger_than_live is stronger
    assert verdict.live_digest == ("f" * 64 if live else None)


def test_a_slice_that_is_not_critical_does_not_hold_a_stronger_model_back() -> None:
    checks = [
        {"benchmark": "one", "metric": "acc", "floor": 0.1, "critical": True},
        {"benchmark": "two", "metric": "acc", "floor": 0.1},
    ]
    candidate = evaluation(score("one", "acc", shares(300)), score("two", "acc", shares(100)))
    live = evaluation(score("one", "acc", shares(200)), score("two", "acc", shares(300)), digest="f")
    assert judge(parse_gate({"name": "g", "checks": checks}, "g.yaml"), candidate, {}, live).stronger_than_live is True


def test_the_live_model_is_not_stronger_than_itself() -> None:
    same = evaluation(score("b", "acc", shares(300)))
    assert judge(gate(floor=0.1), same, {}, same).stronger_than_live is False


def test_an_unscored_live_model_is_no_proof_of_strength() -> None:
    live = evaluation(digest="f")
    verdict = judge(gate(floor=0.1), evaluation(score("b", "acc", shares(300))), {}, live)
    assert verdict.stronger_than_live is False
    assert "unscored for the live model" in verdict.reasons[1]


def test_a_verdict_survives_being_stored() -> None:
    verdict = judge(gate(floor=0.9), evaluation(score("b", "acc", shares(300))), {}, None)
    assert type(verdict).model_validate_json(verdict.model_dump_json()) == verdict
    assert verdict.reasons == ("b: 0.750 is below the floor 0.9.", "Nothing is live yet: the gate alone decides.")
