"""A/A: what a server changes by itself decides nothing, and no margin may be near it."""

import math

import pytest

from tasks.domain.examination import undecided
from tasks.domain.gate import Check, Gate
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.repeats import (
    AGAIN,
    MOST_FLIPS,
    REPEATED_ITEMS,
    deviation,
    differences,
    held_to,
    of_repeats,
    repeats_key,
    share_of,
)
from tasks.domain.replay import replay
from tasks.domain.verdict import judge, with_examined

SERVING = {"image": "vllm 0.32.0 fork", "flags": "--dtype bfloat16", "device": "cuda"}


def score(values: list[float], benchmark: str = "eu_mc", metric: str = "acc", weight: float = 1.0) -> Score:
    items = tuple(Item(item_id=str(n), value=value, weight=weight) for n, value in enumerate(values))
    told = {"value": sum(values) / len(values), "stderr": 0.0, "n": len(values), "items": items}
    return Score(benchmark=benchmark, metric=metric, **told)  # type: ignore[arg-type]


def said(*scores: Score) -> Evaluation:
    return Evaluation(eval_key="c" * 64, artifact_digest="a" * 64, scores=scores)


def flipped(n: int, flips: int) -> tuple[Score, ...]:
    """Of n items, of which so many are right the first time and wrong the second."""
    return differences(said(score([1.0] * n)), [score([0.0] * flips + [1.0] * (n - flips))])


def gate(**limits: object) -> Gate:
    return Gate(name="g", checks=(Check(benchmark="eu_mc", metric="acc", critical=True, **limits),))  # type: ignore[arg-type]


def test_differences_are_of_the_same_items_only() -> None:
    first = said(score([1.0, 0.0, 1.0]), score([8.0, 9.0], "eu_bpb", "bits_per_byte", 4.0))
    again = [score([1.0, 1.0]), score([8.5, 9.0, 1.0], "eu_bpb", "bits_per_byte", 4.0), score([1.0], "es_mc")]
    found = {one.benchmark: one for one in differences(first, again)}
    assert {name: (one.metric, one.n, [item.value for item in one.items]) for name, one in found.items()} == {
        "eu_mc:acc": (AGAIN, 2, [0.0, 1.0]),
        "eu_bpb:bits_per_byte": (AGAIN, 2, [0.5, 0.0]),
    }
    assert found["eu_bpb:bits_per_byte"].value == 0.5 / 8


def test_a_deviation_is_that_of_the_whole_benchmark_in_the_units_of_its_metric() -> None:
    (one,) = flipped(50, 2)
    assert deviation(one, 200) == pytest.approx(math.sqrt(0.04 / 200))
    first, again = [score([bits] * 10, "eu_bpb", "bits_per_byte", 4.0) for bits in (8.0, 8.4)]
    (bits,) = differences(said(first), [again])
    assert deviation(bits, 100) == pytest.approx(0.1 / 10)  # .1 bits a byte, each item


@pytest.mark.parametrize(
    ("n", "flips", "holds"),
    [(60, 0, True), (60, 4, True), (60, 5, False), (20, 2, True), (20, 3, False), (500, 19, False), (500, 12, True)],
)
def test_a_server_whose_answers_change_too_often_decides_nothing(n: int, flips: int, holds: bool) -> None:
    (found,) = of_repeats(gate(floor=0.1, live_tolerance=0.0), flipped(n, flips), {"eu_mc": 10_000})
    assert (found.name, found.ok, found.value, found.limit, found.n) == (
        "repeats", True if holds else None, flips / n, MOST_FLIPS, n,
    )  # fmt: skip
    assert bool(found.reasons) is not holds
    if not holds:
        assert found.sentence.startswith(f"Examined, repeats: {flips} of {n} answers changed when")


@pytest.mark.parametrize(
    ("limits", "items", "ok"),
    [
        ({"max_drop": {"instruct": 0.05}, "live_tolerance": 0.05}, 100, True),  # 2 x .0183
        ({"max_drop": {"instruct": 0.03}, "live_tolerance": 0.05}, 100, None),
        ({"max_drop": {"instruct": 0.03}, "live_tolerance": 0.05}, 400, True),  # 2 x .0091
        ({"min_gain": {"instruct": 0.03}, "live_tolerance": 0.05}, 100, None),
        ({"floor": 0.5}, 100, None),  # what is live may be worse by .03
    ],
)
def test_a_margin_is_twice_what_two_runs_differ_by(limits: dict[str, object], items: int, ok: bool | None) -> None:
    found = {one.name: one for one in of_repeats(gate(**limits), flipped(60, 2), {"eu_mc": items})}
    assert found["repeats"].ok is True
    noise = found["noise:eu_mc"]
    assert (noise.ok, noise.value) == (ok, pytest.approx(math.sqrt(2 / 60 / items)))
    assert noise.limit in (0.015, 0.025)


def test_an_advisory_check_and_one_that_nobody_asked_twice_are_not_judged() -> None:
    advisory = Check(benchmark="eu_mc", metric="acc", tier="advisory", max_drop={"instruct": 0.001})
    other = Check(benchmark="es_mc", metric="acc", critical=True, max_drop={"instruct": 0.001})
    assert of_repeats(Gate(name="g", checks=(advisory, other)), flipped(60, 30), {"eu_mc": 100, "es_mc": 100}) == ()


def test_noise_holds_a_verdict_and_another_gate_is_held_to_the_same_noise() -> None:
    strict, wide = (gate(floor=0.1, live_tolerance=tolerance) for tolerance in (0.01, 0.2))
    examined = of_repeats(strict, flipped(60, 2), {"eu_mc": 100})
    scored = said(score([1.0] * 100))
    before = with_examined(judge(strict, scored, {}, None), examined)
    assert before.outcome == "undecided"
    assert undecided(held_to(wide, examined)) is False
    assert held_to(strict, held_to(wide, examined)) == examined
    told = {"family": "f", "target": "eu", "verdict_key": "e" * 64}
    for other, outcome in ((strict, "undecided"), (wide, "passed")):
        again = replay(other, before, lambda _: [scored], sorted, **told)  # type: ignore[arg-type]
        assert again is not None
        assert again.after == outcome


def test_noise_is_of_a_way_of_serving_and_few_items_are_asked_for_it() -> None:
    one = repeats_key("f", SERVING, "eu_mc")
    assert repeats_key("f", {**SERVING, "image": "vllm 0.32.0 plain"}, "eu_mc") == one, "forked or not is the same"
    others = [("g", SERVING, "eu_mc"), ("f", {**SERVING, "flags": ""}, "eu_mc"), ("f", SERVING, "es_mc")]
    assert one not in {repeats_key(*other) for other in others}
    assert share_of({"a": 300, "b": 900}, 1.0) == REPEATED_ITEMS / 1200
    assert share_of({"a": 30}, 0.1) == 0.1
