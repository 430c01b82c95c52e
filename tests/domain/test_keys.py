"""The keys that decide what is due: what makes work due again, and what must not."""

from collections.abc import Callable
from typing import Any

import pytest

from tasks.domain.jobs import Job
from tasks.domain.keys import eval_key, job_key, joined_key, merge_key, verdict_key
from tasks.domain.lineage import Ingredient, Lineage

Make = Callable[..., Lineage]


def test_a_merge_key_never_changes(lineage: Make) -> None:
    # A stored merge is found by this key; a change would make every merge on record due again.
    assert merge_key(lineage("eu")) == "2bdc17a75d061d1809e7f551187596dda230f6e7dbaddd51bc6a245800318ba4"


@pytest.mark.parametrize("change", [{"instruct_weight": 0.9}, {"method": "linear"}, {"special_rows": "merge"}])
def test_a_merge_key_changes_with_the_recipe(lineage: Make, change: dict[str, Any]) -> None:
    one = lineage("eu")
    other = one.model_copy(update={"recipe": {**one.recipe, **change}})
    assert merge_key(one) != merge_key(other)


def test_a_merge_key_does_not_change_when_a_default_is_stated(lineage: Make) -> None:
    # So a parameter that a later version adds, with its default, makes no merge on record due.
    one = lineage("eu")
    stated = one.model_copy(update={"recipe": {"method": "task_arithmetic", "tuned_weight": 0.85}})
    assert len(one.recipe) > len(stated.recipe)
    assert merge_key(one) == merge_key(stated)


def test_a_merge_key_changes_with_the_target(lineage: Make) -> None:
    one = lineage("eu")
    assert merge_key(one) != merge_key(one.model_copy(update={"target": "basque"}))


def with_ingredient(lineage: Lineage, number: int, **changes: Any) -> Lineage:
    parts = list(lineage.ingredients)
    parts[number] = Ingredient.model_validate({**parts[number].model_dump(), **changes})
    return lineage.model_copy(update={"ingredients": tuple(parts)})


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_merge_key_changes_with_the_content_of_any_ingredient(lineage: Make, number: int) -> None:
    one = lineage("eu")
    assert merge_key(one) != merge_key(with_ingredient(one, number, digest="d" * 64))


def test_a_merge_key_changes_with_a_parent_of_its_own(lineage: Make) -> None:
    one = lineage("eu")
    base = one.ingredients[0]
    parent = Ingredient(role="parent:eu", ref=base.ref, digest=base.digest)
    assert merge_key(one) != merge_key(one.model_copy(update={"ingredients": (*one.ingredients, parent)}))


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_merge_key_does_not_change_with_a_revision_or_a_repository(lineage: Make, number: int) -> None:
    one = lineage("eu")
    moved = {"repo_id": "elsewhere/renamed", "revision": "0" * 40}
    assert merge_key(one) == merge_key(with_ingredient(one, number, ref=moved))


def test_a_merge_key_does_not_change_with_the_engine_or_the_order_of_ingredients(lineage: Make) -> None:
    one = lineage("eu")
    assert merge_key(one) == merge_key(lineage("eu", engine="2"))
    assert merge_key(one) == merge_key(one.model_copy(update={"ingredients": tuple(reversed(one.ingredients))}))


EVALUATION: dict[str, Any] = {
    "artifact": "a" * 64,
    "template": "b" * 64,
    "serving": {"image": "vllm 0.32.0", "dtype": "float32"},
    "suite": "c" * 64,
    "lm_eval": "0.4.13",
}


@pytest.mark.parametrize(
    "change",
    [
        {"artifact": "d" * 64},
        {"template": ""},
        {"serving": {"image": "vllm 0.33.0", "dtype": "float32"}},
        {"serving": {"image": "vllm 0.32.0"}},
        {"suite": "d" * 64},
        {"lm_eval": "0.4.14"},
    ],
)
def test_an_eval_key_changes_with_everything_that_moves_scores(change: dict[str, Any]) -> None:
    assert eval_key(**EVALUATION) != eval_key(**{**EVALUATION, **change})


def test_an_eval_key_does_not_change_with_the_order_of_the_flags() -> None:
    backwards = {**EVALUATION, "serving": dict(reversed(EVALUATION["serving"].items()))}
    assert eval_key(**EVALUATION) == eval_key(**backwards)


def test_the_key_of_joined_evaluations_is_that_of_their_set() -> None:
    assert joined_key(["a" * 64, "b" * 64]) == joined_key(["b" * 64, "a" * 64])
    assert len({joined_key(["a" * 64]), joined_key(["a" * 64, "b" * 64]), "a" * 64}) == 3


def test_a_verdict_key_changes_with_gate_and_references() -> None:
    known = {"artifact": "a" * 64, "gate": "b" * 64}
    keys = [
        verdict_key(**known, references={}),
        verdict_key(**known, references={"live": "c" * 64}),
        verdict_key(**known, references={"instruct": "c" * 64}),
        verdict_key(artifact="a" * 64, gate="d" * 64, references={}),
    ]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("part", ["release", "merge", "gate", "family", "target"])
def test_a_job_key_changes_with_each_of_its_parts(part: str) -> None:
    known = {"family": "f", "release": "a" * 64, "target": "eu", "merge": "b" * 64, "gate": "c" * 64}
    assert job_key(**known) != job_key(**{**known, part: "d" * 64})


def test_keys_of_different_kinds_never_meet() -> None:
    digest = "a" * 64
    keys = {
        eval_key(artifact=digest, template="", serving={}, suite=digest, lm_eval=""),
        verdict_key(artifact=digest, gate=digest, references={}),
        job_key(family="", release=digest, target="", merge=digest, gate=digest),
    }
    assert len(keys) == 3


def test_a_commit_that_changes_only_the_readme_makes_no_job_due(job: Job) -> None:
    ref = job.release.ref.model_copy(update={"revision": "0" * 40})
    release = job.release.model_copy(update={"ref": ref})
    again = job.model_copy(
        update={"release": release, "lineage": with_ingredient(job.lineage, 1, ref=ref.model_dump())}
    )
    assert again.key == job.key
    assert again.refs()["instruct"].revision == "0" * 40


def test_a_changed_gate_makes_a_job_due_but_no_merge(job: Job) -> None:
    stricter = job.model_copy(update={"gate_digest": "d" * 64})
    assert stricter.key != job.key
    assert stricter.merge_key == job.merge_key


def test_a_job_is_called_by_release_and_target(job: Job) -> None:
    assert job.name == "instruct-v2 x eu"
    assert job.family == "llama-tiny"
