"""The search for a recipe: which ones a grid means, what is refused, how candidates are scored, halved and ranked."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.domain.catalog import load_catalog
from tasks.domain.errors import CatalogError
from tasks.domain.search import (
    Asked,
    Grid,
    Heard,
    Search,
    Sum,
    Worth,
    fit_search,
    halved,
    heard_of,
    ranked,
    recipes_of,
    requests_of,
    survivors,
    worth,
)
from tasks.engine.recipe import Recipe
from tasks.harness.selection import asked, dev_sets
from tasks.harness.suite import known_benchmarks, read_items

OWN = Recipe(method="task_arithmetic", tuned_weight=1.0)
DEV = {"texts": {"eu": 60, "ca": 60}, "questions": {"en": 96, "es": 96}}


def search(**stated: Any) -> Search:
    return Search.model_validate({"grid": [{"tuned_weight": [0.5, 0.75]}], **stated})


def test_a_grid_is_every_combination_once_without_the_recipe_that_was_rejected():
    grids = [
        {"tuned_weight": [0.5, 1.0], "tuned_depth": [[], [1.0, 0.5, 1.0]]},
        {"method": ["linear", "task_arithmetic"], "tuned_weight": [0.5]},
    ]
    found = recipes_of(search(grid=grids), OWN)
    assert [(r.method, r.tuned_weight, r.tuned_depth) for r in found] == [
        ("task_arithmetic", 0.5, ()),
        ("task_arithmetic", 0.5, (1.0, 0.5, 1.0)),
        ("task_arithmetic", 1.0, (1.0, 0.5, 1.0)),
        ("linear", 0.5, ()),
    ]


def test_what_the_grid_leaves_out_is_the_targets_own():
    own = Recipe(method="ties", parameters={"density": 0.7}, out_dtype="float32")
    (found,) = recipes_of(search(grid=[{"tuned_weight": [0.5]}]), own)
    assert (found.method, found.parameters, found.out_dtype) == ("ties", {"density": 0.7}, "float32")


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"grid": [{"tuned_weight": [1.5]}]}, "tuned_weight 1.5 of task_arithmetic: merges may collapse from 1.5 on"),
        ({"grid": [{"tuned_weight": [1.0]}]}, "no recipe but the target's own"),
        ({"grid": [{"tuned_weight": [0.5, 0.6]}], "most_recipes": 1}, "2 recipes, most_recipes is 1"),
        ({"grid": [{"method": ["liner"]}]}, "unknown method 'liner'; did you mean 'linear'?"),
        (
            {"grid": [{"method": ["linear"], "tuned_depth": [[1, 0.5]]}]},
            "tuned_depth [1.0, 0.5] is for task_arithmetic",
        ),
        ({"answers": ["en", "gl"]}, "no dev questions in 'gl'; there are ['en', 'es']"),
        ({"items": [30, 61]}, "61 texts in 'eu' are asked for, the dev split has 60"),
        ({"max_requests": 10}, "2 recipes in 3 rounds need 71 requests, 10 are allowed"),
    ],
)
def test_a_search_that_cannot_serve_its_target_is_refused(stated: dict[str, Any], said: str):
    problems = fit_search(search(**stated), OWN, ["eu"], DEV)
    assert len([one for one in problems if said in one]) == 1, problems


@pytest.mark.parametrize(
    "stated",
    [{"items": [30, 15]}, {"items": [4]}, {"grid": []}, {"answers": ["en", "en"]}, {"grid": [{"weight": [1.0]}]}],
)
def test_a_search_that_makes_no_sense_is_refused(stated: dict[str, Any]):
    with pytest.raises(ValidationError):
        search(**stated)


def test_a_search_without_a_fault_fits():
    assert fit_search(search(), OWN, ["eu"], DEV) == []
    assert fit_search(search(answers=["zz"]), OWN, ["yy"], None) == []  # nothing is known of what can be asked


def test_the_catalog_names_file_line_and_key_of_a_search(tmp_path: Path):
    shipped = Path(__file__).parents[2] / "deployments/catalog"
    family = yaml.safe_load((shipped / "llama-tiny.yaml").read_text("utf-8"))
    family["targets"] = {"eu": family["targets"]["eu"] | {"search": {"grid": [{"tuned_weight": [0.5]}]}}}
    family["targets"]["eu"]["search"]["answers"] = ["fr"]
    (tmp_path / "gates").mkdir()
    (tmp_path / "gates/demo-language.yaml").write_text((shipped / "gates/demo-language.yaml").read_text("utf-8"))
    (tmp_path / "llama-tiny.yaml").write_text(yaml.safe_dump(family))
    with pytest.raises(CatalogError) as refused:
        load_catalog(tmp_path, known=known_benchmarks(), dev=dev_sets())
    (problem,) = refused.value.problems
    assert "llama-tiny.yaml:" in problem
    assert "targets.eu.search: no dev questions in 'fr'" in problem
    family["targets"]["eu"]["search"]["answers"] = ["en", "es"]
    (tmp_path / "llama-tiny.yaml").write_text(yaml.safe_dump(family))
    found = load_catalog(tmp_path, known=known_benchmarks(), dev=dev_sets()).target("llama-tiny", "eu").search
    assert found == Search(grid=(Grid(tuned_weight=(0.5,)),), answers=("en", "es"))


def heard(text: float, answers: float) -> Heard:
    return Heard(texts={"eu": Sum(bits=text * 1000, size=1000)}, answers=Sum(bits=answers * 500, size=500))


def test_the_score_is_the_kept_gain_less_the_drift():
    """Figures of the demo's `eu` on dev: 30 texts, 60 answers."""
    instruct, tuned = heard(1.8662, 0.0181), {"eu": Sum(bits=1.6916 * 10, size=10)}
    at = {
        w: worth(heard(text, 0.0181 + drift), instruct, tuned, 1.0)
        for w, text, drift in [
            (0.5, 1.7709, 0.0001),
            (1.0, 1.7266, 0.0338),
            (1.5, 1.7574, 0.2229),
            (2.0, 1.8866, 0.8775),
        ]
    }
    assert at[1.0].kept == pytest.approx(0.1396 / 0.1746, abs=1e-3)
    assert at[1.0].drift == pytest.approx(0.0338)
    assert max(at, key=lambda w: at[w].score) == 1.0
    dearer = worth(heard(1.7266, 0.0519), instruct, tuned, 10.0)
    assert dearer.score == pytest.approx(at[1.0].kept - 0.338, abs=1e-6)


def test_the_languages_of_a_target_count_alike():
    instruct = Heard(texts={"eu": Sum(bits=2, size=1), "ca": Sum(bits=4, size=1)}, answers=Sum(bits=1, size=1))
    tuned = {"eu": Sum(bits=1, size=1), "ca": Sum(bits=2, size=1)}
    candidate = instruct.model_copy(update={"texts": {"eu": Sum(bits=1, size=1), "ca": Sum(bits=4, size=1)}})
    assert worth(candidate, instruct, tuned, 1.0) == Worth(0.5, 0.0, 0.5)


def test_without_a_gain_there_is_nothing_to_search_for():
    with pytest.raises(ValueError, match=r"tuned base of eu needs 2.0000 .* instruct parent 1.5000"):
        worth(heard(1.4, 0.1), heard(1.5, 0.1), {"eu": Sum(bits=2, size=1)}, 1.0)


def test_of_each_set_the_first_items_count():
    sets = {
        "text eu": (Asked(text="abcd"), Asked(text="ñ")),
        "answers en": (Asked(text="ab", tokens=(1, 2), start=1),),
        "answers es": (Asked(text="abc", tokens=(1, 2), start=1),),
    }
    bits = {"text eu": [8.0, 3.0], "answers en": [1.0], "answers es": [4.0]}
    found = heard_of(bits, sets, 1)
    assert (found.texts["eu"].rate, found.answers.rate) == (2.0, 1.0)
    assert heard_of(bits, sets, 2).texts["eu"] == Sum(bits=11.0, size=6)
    with pytest.raises(ValueError, match="nothing was heard"):
        assert Sum().rate


@given(st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=20))
def test_halving_keeps_the_better_half_and_never_one_that_was_not_heard(scores: list[float | None]):
    worths = {f"{n:064x}": None if s is None else Worth(s, 0.0, s) for n, s in enumerate(scores)}
    kept = survivors(worths)
    audible = [s for s in scores if s is not None]
    assert len(kept) == min(len(audible), halved(len(scores)))
    worst = min((found.score for key in kept if (found := worths[key])), default=0.0)
    assert all(worths[key] is None or worths[key].score <= worst for key in worths if key not in kept)
    assert ranked(worths)[: len(kept)] == kept


def test_requests_are_those_of_every_round():
    # Instruct: 10 answers, 1 + 1; the tuned base 1; 4 candidates in the first round and 2 in the second, 1 + 1 each.
    assert requests_of(search(items=[5, 10], answers=["en"]), 4, 1) == (10 + 2) + 1 + 4 * 2 + 2 * 2


def test_the_dev_split_has_what_is_asked_and_the_test_split_does_not():
    dev = dev_sets()
    assert set(dev["texts"]) >= {"eu", "ca", "gl", "es", "en"}
    assert "es_more" not in dev["questions"]
    for kind, benchmark in (("texts", "eu_bpb"), ("questions", "eu_chat")):
        key = {"texts": "text", "questions": "question"}[kind]
        assert not {*asked(kind, "eu")} & {item[key] for item in read_items(benchmark)}


def test_a_recipe_that_says_nothing_of_depth_keeps_its_digest():
    assert Recipe(method="task_arithmetic").digest() == Recipe(method="task_arithmetic", tuned_depth=()).digest()
    assert (
        Recipe(method="task_arithmetic", tuned_depth=(1.0, 0.5)).digest() != Recipe(method="task_arithmetic").digest()
    )
