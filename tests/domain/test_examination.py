"""Few prompts, so a check fails on evidence; one that has none is undecided, and no verdict passes over it."""

import pytest

from tasks.domain.errors import CatalogError
from tasks.domain.examination import Examined, of_answers, of_file, of_language, refused, undecided
from tasks.domain.gate import Check, Gate
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.replay import replay
from tasks.domain.report import gate_rows
from tasks.domain.verdict import judge, not_asked, with_examined

GATE = Gate(name="g", checks=(Check(benchmark="eu_mc", metric="acc", floor=0.1, critical=True),))
DIGESTS = {"candidate": "a" * 64, "instruct": "b" * 64}


def share(wrong: int, of: int = 18) -> list[bool]:
    return [number < wrong for number in range(of)]


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "ok"),
    [
        ("endless", 18, 0, False),
        ("endless", 5, 0, False),  # 1/32
        ("endless", 4, 0, True),  # 1/16: no evidence yet
        ("endless", 18, 18, True),  # as its parent
        ("loops", 0, 18, True),  # better than its parent
        ("empty", 1, 0, False),
        ("leaks", 2, 1, False),
        ("leaks", 1, 1, True),
        ("thinks", 0, 18, False),  # a parent that thinks, and a merge that has lost it
        ("thinks", 18, 0, False),
        ("thinks", 17, 18, True),
    ],
)
def test_answers_are_held_against_the_parents_on_the_same_prompts(name: str, ours: int, theirs: int, ok: bool) -> None:
    found = of_answers(name, share(ours), share(theirs))
    assert (found.ok, found.n, found.value, found.parent) == (ok, 18, ours / 18, theirs / 18)
    assert bool(found.reasons) is not ok
    if not ok:
        assert found.sentence == f"Examined, {name}: {ours} of 18 answers, its instruct parent {theirs}."


def test_which_prompts_go_wrong_counts_and_not_only_how_many() -> None:
    # As many each, on others: neither is worse.
    assert of_answers("endless", share(6), share(6)[::-1]).ok is True


@pytest.mark.parametrize(("name", "n"), [("endless", 4), ("thinks", 5)])
def test_too_few_prompts_are_no_pass(name: str, n: int) -> None:
    found = of_answers(name, share(0, n), share(0, n))
    assert found.ok is None
    assert found.reasons == (f"{n} prompts are too few to tell; the gate has no more",)


@pytest.mark.parametrize(
    ("right", "n", "least", "ok"),
    [
        (0, 16, 0.5, False),
        (2, 16, 0.5, False),  # .002
        (3, 16, 0.5, True),  # .011
        (16, 16, 0.5, True),
        (8, 16, 0.8, False),
        (10, 16, 0.8, True),
        (0, 6, 0.5, None),  # 1/64: these are too few
        (0, 0, 0.5, None),
    ],
)
def test_the_language_is_held_to_the_floor(right: int, n: int, least: float, ok: bool | None) -> None:
    found = [("eu", "eu")] * right + [("eu", "es")] * (n - right)
    one = of_language(found, {"eu": least})
    assert (one.name, one.ok, one.n, one.limit) == ("language", ok, n, least)
    if ok is False:
        said = f"{right} of {n} answers are in the language asked for ({n - right} es for eu), at least {least:.0%} are to be"
        assert one.reasons == (said,)


def test_several_languages_are_looked_at_as_a_whole() -> None:
    lacks_one = [("eu", "eu")] * 16 + [("gl", "es")] * 16
    one = of_language(lacks_one, {"eu": 0.5, "gl": 0.6})
    assert (one.ok, one.value, one.limit) == (True, 0.5, pytest.approx(0.55))
    assert of_language([("eu", "es"), ("gl", "es")] * 16, {"eu": 0.5, "gl": 0.6}).ok is False


def evaluation(role: str, value: float) -> Evaluation:
    items = tuple(Item(item_id=str(number), value=value) for number in range(20))
    score = Score(benchmark="eu_mc", metric="acc", value=value, stderr=0.0, n=20, items=items)
    return Evaluation(eval_key="c" * 64, artifact_digest=DIGESTS[role], scores=(score,))


FINE, WRONG = of_file("tokenizer", ()), of_file("norms", ("lm_head: its norm is nan",))
UNTOLD = Examined(name="language", stage="server", ok=None, reasons=("0 answers",))


@pytest.mark.parametrize(
    ("value", "examined", "outcome"),
    [
        (1.0, [FINE], "passed"),
        (1.0, [FINE, UNTOLD], "undecided"),
        (1.0, [UNTOLD, WRONG], "rejected"),
        (0.0, [FINE], "rejected"),
        (0.0, [UNTOLD], "rejected"),
    ],
)
def test_a_verdict_is_the_worst_of_both(value: float, examined: list[Examined], outcome: str) -> None:
    verdict = with_examined(judge(GATE, evaluation("candidate", value), {}, None), examined)
    assert verdict.outcome == outcome
    assert verdict.examined == tuple(examined)
    told = [one.sentence for one in examined if one.ok is not True]
    assert list(verdict.reasons[: len(told)]) == told
    assert (refused(examined), undecided(examined)) == (WRONG in examined, UNTOLD in examined)


def test_what_was_refused_before_its_benchmarks_has_no_score_and_no_pass() -> None:
    verdict = not_asked(GATE, DIGESTS["candidate"], {"instruct": DIGESTS["instruct"]}, "d" * 64, [FINE, WRONG])
    assert (verdict.outcome, verdict.stronger_than_live, verdict.live_digest) == ("rejected", False, "d" * 64)
    assert verdict.reasons == (
        "Examined, norms: lm_head: its norm is nan.",
        "Refused before its benchmarks: none of the 1 of gate g was asked.",
    )
    assert [(row.benchmark, row.score, row.ok) for row in verdict.rows] == [("eu_mc", None, None)]
    table = gate_rows(verdict)
    assert [(row["benchmark"], row["verdict"]) for row in table] == [
        ("VERDICT", "REJECTED"),
        ("eu_mc *", "undecided"),
        ("norms", "FAIL"),
    ]
    assert all(row.keys() == table[0].keys() for row in table)


@pytest.mark.parametrize(("examined", "outcome"), [([FINE], "passed"), ([WRONG], "rejected"), ([UNTOLD], "undecided")])
def test_another_gate_changes_nothing_of_what_was_examined(examined: list[Examined], outcome: str) -> None:
    scored = evaluation("candidate", 1.0)
    before = with_examined(judge(GATE, scored, {}, None), examined)
    told = {"family": "f", "target": "eu", "verdict_key": "e" * 64}
    again = replay(GATE, before, lambda _: [scored], sorted, **told)
    assert again is not None
    assert (again.after, again.changes) == (outcome, False)


def test_the_examination_is_part_of_the_budget() -> None:
    from tasks.domain.fitting import fit_gate

    def where(_: object) -> str:
        return "gate.yaml: 1"

    tight = GATE.model_copy(update={"max_requests": 170})
    assert fit_gate(tight, where, ["eu"], requests_of=lambda _: 40) == tight
    with pytest.raises(CatalogError, match="130 questions of the examination and of A/A need 171 requests"):
        fit_gate(tight, where, ["eu"], requests_of=lambda _: 41)
