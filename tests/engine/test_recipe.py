"""Recipes: what is understood, what is refused and with which words."""

import subprocess
import sys

import pytest

from tasks.engine.errors import RecipeError
from tasks.engine.recipe import METHOD_NAMES, Coefficients, Recipe, Tuned, parse_recipe

WHERE = "llama.yaml: targets.eu.recipe"


def test_the_names_in_recipes_are_the_names_in_the_methods_table():
    from tasks.engine.methods.registry import METHODS

    assert sorted(METHODS) == sorted(METHOD_NAMES)


def test_a_recipe_loads_without_torch_and_numpy():
    code = "import sys, tasks.engine.recipe; assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("method", "instruct", "tuned", "expected"),
    [
        ("linear", 1.0, 1.0, Coefficients(0.5, {"eu": 0.5})),
        ("linear", 1.0, 3.0, Coefficients(0.25, {"eu": 0.75})),
        ("linear", 1.0, {"eu": 0.25}, Coefficients(0.8, {"eu": 0.2})),
        ("task_arithmetic", 1.0, 0.75, Coefficients(1.0, {"eu": 0.75})),
        ("task_arithmetic", 0.0, 0.75, Coefficients(0.0, {"eu": 0.75})),
    ],
)
def test_the_coefficients_are_those_of_the_papers(method, instruct, tuned, expected):
    recipe = Recipe(method=method, instruct_weight=instruct, tuned_weight=tuned)
    assert recipe.coefficients(["eu"]) == expected


def test_linear_over_four_languages_is_the_weighted_mean_of_all_five():
    recipe = parse_recipe({"method": "linear", "tuned_weight": 0.25}, WHERE)
    assert recipe.coefficients(["eu", "ca", "gl", "es"]) == (0.5, dict.fromkeys(["eu", "ca", "gl", "es"], 0.125))


def test_weights_by_language_must_name_exactly_the_languages_merged():
    recipe = Recipe(method="linear", tuned_weight={"eu": 1.0, "pt": 1.0})
    with pytest.raises(RecipeError, match=r"no weight for language 'gl'.*weight for 'pt', which is not merged") as told:
        recipe.coefficients(["eu", "gl"])
    assert len(told.value.problems) == 2


def test_a_language_named_twice_and_weights_that_are_all_zero_are_refused():
    with pytest.raises(RecipeError, match="twice"):
        Recipe(method="linear").coefficients(["eu", "eu"])
    with pytest.raises(RecipeError, match="nothing to merge"):
        Recipe(method="linear", instruct_weight=0.0).coefficients([])


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"method": "tyes"}, ["unknown method 'tyes'", "did you mean 'ties'", "linear, slerp"]),
        ({}, ["'method' is missing", "linear, slerp"]),
        ({"method": "linear", "tuned_weigth": 1.0}, ["'tuned_weigth'", "did you mean 'tuned_weight'", "Known keys"]),
        ({"method": "linear", "density": 0.5}, ["'density' = 0.5", "instruct_weight"]),
        ({"method": "linear", "tuned_weight": "1"}, ["tuned_weight = '1'", "number"]),
        ({"method": "linear", "tuned_weight": True}, ["tuned_weight = True"]),
        ({"method": "linear", "tuned_weight": {"eu": -1}}, ["tuned_weight.eu = -1", "greater than or equal to 0"]),
        ({"method": "linear", "instruct_weight": float("nan")}, ["instruct_weight = nan", "finite"]),
        ({"method": "linear", "instruct_weight": 40}, ["instruct_weight = 40", "less than or equal to 4"]),
        ({"method": "linear", "instruct_weight": 0, "tuned_weight": 0}, ["instruct_weight 0.0", "above 0"]),
        ({"method": "linear", "out_dtype": "int8"}, ["out_dtype = 'int8'", "bfloat16"]),
        (["linear"], ["mapping", "['linear']"]),
    ],
)
def test_what_is_wrong_is_told_with_place_key_and_value(mapping, words):
    with pytest.raises(RecipeError) as told:
        parse_recipe(mapping, WHERE)
    assert str(told.value).startswith(WHERE)
    for word in words:
        assert word in str(told.value)
    assert len(told.value.problems) == 1


def test_all_mistakes_are_told_at_once():
    with pytest.raises(RecipeError) as told:
        parse_recipe({"method": "tyes", "tuned_weight": -1, "density": 0.5}, WHERE)
    assert len(told.value.problems) == 3


def test_the_digest_depends_on_what_is_meant_and_not_on_how_it_is_written():
    short = parse_recipe({"method": "linear"}, WHERE)
    long = parse_recipe({"tuned_weight": 1, "out_dtype": "bfloat16", "method": "linear", "instruct_weight": 1.0}, WHERE)
    assert short.digest() == long.digest()
    assert short.digest() != parse_recipe({"method": "linear", "tuned_weight": 1.5}, WHERE).digest()
    # In ledgers: a change makes every stored merge due again.
    assert short.digest() == "69a1816c283cb73e2011d154ca9bc268341235e6e1c626e529015ea464ed059a"


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Recipe(method="linear").method = "task_arithmetic"


def test_a_profile_over_the_depth_is_a_gradient_of_the_tuned_weights_alone():
    recipe = Recipe(method="task_arithmetic", tuned_weight=0.8, tuned_depth=(1.0, 0.5, 1.0))
    config = recipe.config("base", "instruct", {"eu": Tuned("eu")})
    stated = {entry.model: entry.parameters["weight"].stated() for entry in config.models}
    assert stated == {"instruct": 1.0, "eu": [0.8, 0.4, 0.8]}
    assert recipe.sums(["eu"]) is None  # its b is another one in each layer
    for method, depth, words in (
        ("linear", (1.0,), "for task_arithmetic alone"),
        ("task_arithmetic", (0.0,), "above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Recipe(method=method, tuned_depth=depth)
