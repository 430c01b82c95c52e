"""The control of a merge: what it is for each recipe, that the engine makes it, and what a gate says against it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tasks import doors
from tasks.control import control_digest, control_made
from tasks.domain.catalog import load_catalog
from tasks.domain.control import control_of, control_weight
from tasks.domain.errors import CatalogError, InputError
from tasks.domain.gate import parse_gate
from tasks.domain.jobs import Job
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Artifact, Evaluation, FileDigest, Item, ModelRef, Release, Score
from tasks.domain.verdict import judge
from tasks.engine.merge import merge
from tasks.engine.recipe import Recipe

MODELS = Path(__file__).parents[2] / "infra" / "demo_family" / "models"
AT = datetime(2026, 5, 1, tzinfo=UTC)
DIGESTS = {"base": "a" * 64, "instruct": "b" * 64, "tuned:eu": "c" * 64, "tuned:ca": "d" * 64}


def job(recipe: dict[str, object], *, languages: tuple[str, ...] = ("eu",)) -> Job:
    ref = ModelRef(repo_id="lab/instruct-v2", revision="1" * 40)
    roles = ("base", "instruct", *(f"tuned:{code}" for code in languages))
    parts = tuple(Ingredient(role=role, ref=ref, digest=DIGESTS[role]) for role in roles)
    target = "-".join(languages)
    lineage = Lineage(family="tiny", target=target, ingredients=parts, recipe=recipe, engine_version="1")
    release = Release(family="tiny", ref=ref, content_digest="b" * 64, released_at=AT, seen_at=AT)
    return Job(release=release, target=target, channel=target, gate_digest="e" * 64, lineage=lineage)


def test_a_plain_average_has_a_control_of_its_own_shared_by_all_languages() -> None:
    average = job({"method": "linear"})
    control = control_of(average)
    assert control is not None
    assert control.lineage.recipe == {"method": "task_arithmetic", "instruct_weight": 0.5}
    assert [part.role for part in control.lineage.ingredients] == ["base", "instruct"]
    assert control.merge_key != average.merge_key
    other = control_of(job({"method": "linear"}, languages=("ca",)))
    assert other is not None
    assert other.merge_key == control.merge_key
    three = control_of(job({"method": "linear"}, languages=("eu", "ca")))
    assert three is not None
    assert three.lineage.recipe["instruct_weight"] == pytest.approx(1 / 3)
    kept = control_of(job({"method": "linear", "special_rows": "merge"}))
    assert kept is not None
    assert kept.lineage.recipe["special_rows"] == "merge"


def test_with_the_whole_instruct_delta_the_control_is_the_instruct_parent() -> None:
    whole = job({"method": "task_arithmetic", "tuned_weight": 0.8})
    assert control_of(whole) is None
    assert control_digest(whole) == DIGESTS["instruct"]


def test_a_recipe_that_is_no_sum_has_no_control() -> None:
    with pytest.raises(InputError, match="recipe ties has no control"):
        control_weight(Recipe(method="ties"), ["eu"])


def test_the_catalog_refuses_a_gate_that_asks_for_a_control_that_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates" / "small.yaml").write_text(
        "name: small\nchecks:\n  - {benchmark: eu_mc, metric: acc, min_gain: {control: 0.02}, critical: true}\n"
    )
    family = (
        "family: tiny\narchitectures: [LlamaForCausalLM]\nbase: {repo: lab/base}\n"
        "instruct: {organizations: [lab], pattern: 'lab/instruct'}\ntuned_bases: {eu: {repo: lab/eu_base}}\n"
        "targets:\n  eu: {languages: [eu], channel: eu, recipe: {method: %s}, gate: small}\n"
    )
    (tmp_path / "tiny.yaml").write_text(family % "linear")
    assert load_catalog(tmp_path).families["tiny"]
    (tmp_path / "tiny.yaml").write_text(family % "ties")
    with pytest.raises(CatalogError) as refused:
        load_catalog(tmp_path)
    (problem,) = refused.value.problems
    assert "tiny.yaml" in problem
    assert "recipe ties has no control" in problem


def test_so_does_one_whose_search_may_bring_a_recipe_without_a_control_to_that_gate(tmp_path: Path) -> None:
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates" / "small.yaml").write_text(
        "name: small\nchecks:\n  - {benchmark: eu_mc, metric: acc, min_gain: {control: 0.02}, critical: true}\n"
    )
    family = (
        "family: tiny\narchitectures: [LlamaForCausalLM]\nbase: {repo: lab/base}\n"
        "instruct: {organizations: [lab], pattern: 'lab/instruct'}\ntuned_bases: {eu: {repo: lab/eu_base}}\ntargets:\n"
        "  eu:\n    languages: [eu]\n    channel: eu\n    recipe: {method: linear}\n    gate: small\n"
        "    search: {grid: [{method: [%s], tuned_weight: [0.5]}]}\n"
    )
    (tmp_path / "tiny.yaml").write_text(family % "linear, task_arithmetic")
    assert load_catalog(tmp_path).families["tiny"]
    (tmp_path / "tiny.yaml").write_text(family % "linear, ties")
    with pytest.raises(CatalogError) as refused:
        load_catalog(tmp_path)
    (problem,) = refused.value.problems
    assert "tiny.yaml:12: targets.eu.search: recipe ties has no control" in problem


def test_the_engine_makes_it_from_two_models(tmp_path: Path) -> None:
    control = control_of(job({"method": "linear", "out_dtype": "float32", "special_rows": "merge"}))
    assert control is not None
    base, instruct, out = MODELS / "llama-tiny", MODELS / "llama-tiny-instruct-v2", tmp_path / "out"
    recipe = Recipe.model_validate(control.lineage.recipe)
    report = merge(recipe, base=base, instruct=instruct, tuned={}, out=out)
    assert report.coefficients == (0.5, {})
    name = "model.layers.0.self_attn.q_proj.weight"
    made, before, after = (load_file(folder / "model.safetensors")[name].float() for folder in (out, base, instruct))
    assert (made - (before + after) / 2).abs().max() < 1e-6
    assert (made - after).abs().max() > 1e-4


def test_it_is_made_once_and_found_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    doors.forget()
    average = job({"method": "linear"})
    control = control_of(average)
    assert control is not None
    assert control_made(average) is None
    weights = FileDigest(path="model.safetensors", sha256="e" * 64, size=5)
    artifact = Artifact(digest="f" * 64, folder=str(tmp_path), files=(weights,))
    doors.open_ledger().record_artifact(control.merge_key, artifact, control.lineage, 1.0, 1)
    assert control_made(average) == "f" * 64
    assert control_made(job({"method": "linear"}, languages=("ca",))) == "f" * 64
    doors.forget()


def measured(who: str, right: int) -> Evaluation:
    items = tuple(Item(item_id=f"q{k:03}", value=float(k < right)) for k in range(400))
    score = Score(benchmark="eu_mc", metric="acc", value=right / 400, stderr=0.02, n=400, items=items)
    return Evaluation(eval_key="e" * 64, artifact_digest=who * 64, scores=(score,))


def test_a_gain_that_the_control_shows_too_does_not_pass() -> None:
    limits = {"benchmark": "eu_mc", "metric": "acc", "critical": True}
    alone = parse_gate({"name": "a", "checks": [{**limits, "min_gain": {"instruct": 0.02}}]}, "a.yaml")
    both = parse_gate({"name": "b", "checks": [{**limits, "min_gain": {"instruct": 0.02, "control": 0.02}}]}, "b.yaml")
    candidate, parents = measured("c", 300), {"instruct": measured("a", 240), "control": measured("b", 298)}
    assert judge(alone, candidate, parents, None).outcome == "passed"
    refused = judge(both, candidate, parents, None)
    assert refused.outcome == "rejected"
    assert "against control 0.745" in refused.reasons[0]
    assert judge(both, candidate, {**parents, "control": measured("b", 245)}, None).outcome == "passed"
    missing = judge(both, candidate, {"instruct": parents["instruct"]}, None)
    assert missing.outcome == "rejected"  # what was not measured is never a pass
