"""Pooled slices: read, refused, judged at once and in looks, linted, replayed, and shown."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.domain.errors import CatalogError
from tasks.domain.evidence import Evidence, behind
from tasks.domain.fitting import fit_gate
from tasks.domain.gate import Gate, parse_gate
from tasks.domain.lint import Trio, lint
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.replay import judge_in_looks, replay
from tasks.domain.report import gate_rows
from tasks.domain.statistics import mean_and_stderr
from tasks.domain.verdict import Verdict, judge, not_asked
from tasks.domain.yaml_lines import Document
from tasks.pictures.scores import draw_scores

NAMES = tuple(f"eu_{letter}" for letter in "abcde")
CHANCES = dict.fromkeys(NAMES, 0.25)


def mapping(slices: Any = None, drop: float = 0.2, **more: Any) -> dict[str, Any]:
    checks = [{"benchmark": n, "metric": "acc", "language": "eu", "max_drop": {"instruct": drop}} for n in NAMES]
    checks[0]["critical"] = True
    return {"name": "g", "checks": checks, **({} if slices is None else {"slices": slices}), **more}


def gate(drop: float = 0.04, *, looks: bool = False, **more: Any) -> Gate:
    one = {"benchmarks": CHANCES, "max_drop": {"instruct": drop}, **more}
    return parse_gate(mapping({"eu.knowledge": one}, **({"sequential": {}} if looks else {})), "g.yaml")


def score(name: str, values: list[int]) -> Score:
    items = tuple(Item(item_id=f"{name}{k}", value=float(v)) for k, v in enumerate(values))
    value, stderr = mean_and_stderr(items)
    return Score(benchmark=name, metric="acc", value=value, stderr=stderr, n=len(items), items=items)


def model(wrong: Mapping[str, int], digest: str = "c", n: int = 400, noise: float = 0.1) -> Evaluation:
    """60 % right, less so many of each benchmark, and different answers on a share of the items, balanced."""
    rng, scores = random.Random(digest), []
    for name in NAMES:
        values = [1] * round(0.6 * n) + [0] * (n - round(0.6 * n))
        flipped = round(noise * n / 2)
        for k in [*range(flipped + wrong.get(name, 0)), *range(n - flipped, n)]:
            values[k] = 1 - values[k]
        scores.append(score(name, values))
    rng.shuffle(scores)
    return Evaluation(eval_key="e" * 64, artifact_digest=digest * 64, scores=tuple(scores))


INSTRUCT = model({}, "a", noise=0.0)


def without(evaluation: Evaluation, name: str) -> Evaluation:
    return evaluation.model_copy(update={"scores": tuple(s for s in evaluation.scores if s.benchmark != name)})


def row_of(verdict: Verdict) -> Any:
    return next(row for row in verdict.rows if row.benchmark == "eu.knowledge")


def test_a_gate_without_slices_keeps_its_digest_and_its_verdicts() -> None:
    plain = parse_gate(mapping(), "g.yaml")
    assert plain.digest() == "faa4073c3c1fabcc87202e4e39a2df1caadee0ef04bc61a24fab595b58d80806"
    assert parse_gate(mapping({}), "g.yaml").digest() == plain.digest() != gate().digest() != gate(0.05).digest()
    verdict, pooled = (judge(g, model({}), {"instruct": INSTRUCT}, None) for g in (plain, gate()))
    assert [row for row in pooled.rows if row.metric != "pooled"] == list(verdict.rows)
    assert len(verdict.rows) == 5


def test_a_small_drop_in_each_of_five_blocks_though_none_of_them_does() -> None:
    worse = model(dict.fromkeys(NAMES, 28))  # .07 of accuracy, .093 without a guesser's share
    verdict = judge(gate(), worse, {"instruct": INSTRUCT}, None)
    assert verdict.outcome == "rejected"
    assert [row.benchmark for row in verdict.rows if row.ok is not True] == ["eu.knowledge"]
    row = row_of(verdict)
    assert (row.metric, row.n, row.ok) == ("pooled", 2000, False)
    assert row.score == pytest.approx((0.53 - 0.25) / 0.75)
    assert row.parents["instruct"] == pytest.approx(0.35 / 0.75)
    assert "-0.093 in the mean of 5" in row.reason
    assert "a drop of 0.04 is exceeded" in verdict.reasons[0]


def test_one_noisy_task_does_not_block_and_an_equal_model_passes() -> None:
    for wrong in ({}, {"eu_b": 10}):
        verdict = judge(gate(), model(wrong), {"instruct": INSTRUCT}, None)
        assert verdict.outcome == "passed", verdict.reasons
    single = judge(parse_gate(mapping(drop=0.03), "g.yaml"), model({"eu_b": 10}), {"instruct": INSTRUCT}, None)
    assert single.outcome == "undecided"


def test_too_few_items_to_tell_are_undecided_and_a_drop_far_beyond_the_limit_is_not() -> None:
    assert row_of(judge(gate(0.01), model({}), {"instruct": INSTRUCT}, None)).ok is None
    few = judge(gate(min_items=401), model({}), {"instruct": INSTRUCT}, None)
    assert row_of(few).ok is None
    assert "401 items of each are needed" in row_of(few).reason


@pytest.mark.parametrize("side", ["candidate", "instruct"])
def test_a_task_that_is_missing_is_never_a_pass(side: str) -> None:
    ours, theirs = model({}), INSTRUCT
    if side == "candidate":
        ours = without(ours, "eu_c")
    else:
        theirs = without(theirs, "eu_c")
    verdict = judge(gate(), ours, {"instruct": theirs}, None)
    assert row_of(verdict).ok is False
    assert "eu_c" in row_of(verdict).reason
    assert row_of(judge(gate(), model({}), {}, None)).ok is False


def test_answers_that_are_not_stored_leave_it_undecided() -> None:
    bare = tuple(s.model_copy(update={"items": ()}) if s.benchmark == "eu_c" else s for s in INSTRUCT.scores)
    verdict = judge(gate(0.2), model({}), {"instruct": INSTRUCT.model_copy(update={"scores": bare})}, None)
    assert row_of(verdict).ok is None
    assert "eu_c are not stored" in row_of(verdict).reason


def test_a_gain_can_be_asked_for_and_an_advisory_slice_decides_nothing() -> None:
    better = gate(max_drop={}, min_gain={"instruct": 0.02})
    assert row_of(judge(better, model(dict.fromkeys(NAMES, -30)), {"instruct": INSTRUCT}, None)).ok is True
    assert row_of(judge(better, model(dict.fromkeys(NAMES, 30)), {"instruct": INSTRUCT}, None)).ok is False
    shown = judge(gate(tier="advisory"), model(dict.fromkeys(NAMES, 28)), {"instruct": INSTRUCT}, None)
    assert shown.outcome == "passed"
    assert row_of(shown).gated is False


def test_a_critical_slice_counts_against_the_live_model() -> None:
    live = model({}, "b", noise=0.0)
    for wrong, said in ((28, "not shown to hold its level: eu.knowledge"), (-28, "better on: eu.knowledge")):
        found = judge(gate(0.5, tier="critical"), model(dict.fromkeys(NAMES[1:], wrong)), {"instruct": INSTRUCT}, live)
        assert any(said in reason for reason in found.reasons), found.reasons


def in_order(ids: Any) -> list[str]:
    return sorted(ids, key=lambda key: random.Random(key).random())


def test_looks_stop_early_where_the_items_say_enough_and_take_all_where_they_do_not() -> None:
    spread = gate(looks=True)
    for wrong, look, outcome in ((70, 2, "rejected"), (0, 2, "passed")):
        candidate = model(dict.fromkeys(NAMES, wrong))
        verdict = judge_in_looks(spread, candidate, {"instruct": INSTRUCT}, None, in_order)
        assert verdict.stop is not None
        assert (verdict.stop.look <= look, verdict.outcome) == (True, outcome), verdict.reasons
        assert row_of(verdict).ok is (outcome == "passed")
    tight = judge_in_looks(gate(0.012, looks=True), model({}), {"instruct": INSTRUCT}, None, in_order)
    assert tight.stop is not None
    assert (tight.stop.look, tight.outcome) == (3, "undecided")


def test_a_replay_judges_the_history_by_a_slice() -> None:
    worse, read = model(dict.fromkeys(NAMES, 28)), {INSTRUCT.artifact_digest: [INSTRUCT]}
    read[worse.artifact_digest] = [worse]
    before = judge(parse_gate(mapping(), "g.yaml"), worse, {"instruct": INSTRUCT}, None)
    again = replay(gate(), before, read.__getitem__, in_order, family="f", target="eu", verdict_key="k")
    assert again is not None
    assert (again.before, again.after, again.changes) == ("passed", "rejected", True)


def test_lint_states_what_the_pooled_items_carry_and_refuses_too_few() -> None:
    trio = [Trio(None, {}, None)]
    *singles, pooled = lint(gate(), lambda name: 400, lambda check: trio)
    assert (pooled.slice, pooled.metric, pooled.items, pooled.against) == ("eu.knowledge", "pooled", 2000, "instruct")
    assert pooled.detectable is not None
    assert pooled.assumed
    assert pooled.detectable < min(row.detectable for row in singles if row.detectable is not None)
    (few,) = [row for row in lint(gate(), lambda name: 29, lambda check: trio) if row.metric == "pooled"]
    assert few.standing == "refused"
    assert "29 items" in few.why
    known = {
        name: [Trio(model({}).score(name), {"instruct": s}, None)] for name in NAMES if (s := INSTRUCT.score(name))
    }
    (tight,) = [row for row in lint(gate(0.02), lambda n: 400, lambda c: known[c.benchmark]) if row.metric == "pooled"]
    assert (tight.standing, tight.assumed, tight.discordance) == ("refused", False, pytest.approx(0.1))
    assert tight.items_needed is not None
    more = lint(gate(0.02), lambda n: tight.items_needed // 5 + 1, lambda c: known[c.benchmark])
    assert [row.standing for row in more if row.metric == "pooled"] != ["refused"]


def test_the_row_is_in_the_table_the_picture_and_a_refusal_before_any_question() -> None:
    candidate = model({})
    verdict = judge(gate(), candidate, {"instruct": INSTRUCT}, None)
    told = next(row for row in gate_rows(verdict) if row["benchmark"] == "eu.knowledge")
    assert told["verdict"] == "pass"
    assert told["limit"] == "mean of 5, instruct: at most 0.04 worse"
    assert "eu.knowledge" in draw_scores(verdict, Evidence(gate(), candidate, {"instruct": INSTRUCT}, None))
    assert behind([candidate], verdict, "candidate") is not None
    refused = not_asked(gate(), "c" * 64, {"instruct": "a" * 64}, None, ())
    assert row_of(refused).reason == "not asked"


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({"weights": {}}, "weights", "unknown key; known here: benchmarks, max_drop"),
        ({"max_drop": {}}, "eu.knowledge", "it would never block"),
        ({"benchmarks": {"eu_a": 0.25}}, "benchmarks", "at least 2"),
        ({"benchmarks": {"eu_a": 0.25, "eu_z": 0.25}}, "benchmarks.eu_z", "exactly one check of its own"),
        ({"benchmarks": {"eu_a": 0.25, "eu_b": 1.0}}, "eu.knowledge", "what a guesser scores"),
        ({"max_drop": {"other": 0.1}}, "eu.knowledge", "unknown reference other"),
        ({"max_drop": {"instruct": -0.1}}, "eu.knowledge", "max_drop.instruct is -0.1"),
        ({"min_items": 29}, "min_items", "greater than or equal to 30"),
    ],
)
def test_what_could_not_be_judged_is_refused_with_file_line_and_key(
    tmp_path: Path, change: dict[str, Any], key: str, said: str
) -> None:
    import yaml

    path = tmp_path / "g.yaml"
    one = {"benchmarks": CHANCES, "max_drop": {"instruct": 0.04}, **change}
    path.write_text(yaml.safe_dump(mapping({"eu.knowledge": one}), sort_keys=False), "utf-8")
    document = Document(path)
    with pytest.raises(CatalogError) as refused:
        parse_gate(document.data, document.where)
    lines = path.read_text("utf-8").split("\n")
    (problem,) = refused.value.problems
    number = int(problem.removeprefix(f"{path}:").split(":")[0])
    assert said in problem
    assert "slices.eu.knowledge" in problem
    assert lines[number - 1].strip().startswith(key.removeprefix("benchmarks."))


def test_a_slice_for_each_language_and_its_parents_are_measured() -> None:
    checks = [
        {"benchmark": f"{{language}}_{kind}", "metric": "acc", "floor": 0.1, "critical": True} for kind in ("x", "y")
    ]
    one = {"benchmarks": {"{language}_x": 0.25, "{language}_y": 0.5}, "max_drop": {"tuned": 0.1}}
    whole = parse_gate({"name": "g", "checks": checks, "slices": {"{language}.reading": one}}, "g.yaml")
    both = fit_gate(whole, lambda loc: "g.yaml", ["eu", "gl"])
    assert list(both.slices) == ["eu.reading", "gl.reading"]
    assert dict(both.slices["gl.reading"].benchmarks) == {"gl_x": 0.25, "gl_y": 0.5}
    assert both.benchmarks_of("tuned:gl") == ("gl_x", "gl_y")
    assert both.roles == ("tuned",)
    plain = [{"benchmark": name, "metric": "acc", "floor": 0.1, "critical": True} for name in ("x", "y")]
    mixed = {"benchmarks": {"x": 0.25, "y": 0.5}, "max_drop": {"tuned": 0.1}}
    parsed = parse_gate({"name": "g", "checks": plain, "slices": {"reading": mixed}}, "g.yaml")
    assert parsed.benchmarks_of("tuned") == ("x", "y")
    with pytest.raises(CatalogError, match=r"slices|several"):
        fit_gate(parsed, lambda loc: "g.yaml", ["eu", "gl"])
