"""Values at a tensor that a file alone does not show to be missing or wrong, and the digest of a merge."""

import hashlib

import pytest
import yaml

from tasks.engine.config import parse_config, resolved, unmatched_filters
from tasks.engine.errors import RecipeError

QUERY = "model.layers.3.self_attn.q_proj.weight"
GATE = "model.layers.3.mlp.gate_proj.weight"


def parse(text):
    return parse_config(yaml.safe_load(text), "merge.yaml")


def test_a_required_value_that_no_filter_gives_is_told_with_the_tensor():
    config = parse("""
        {merge_method: ties, base_model: b, models: [{model: x}, {model: y, parameters: {weight: 1}}],
         parameters: {weight: {filter: mlp, value: 0.5}, density: {filter: mlp, value: 0.25}}}
    """)
    assert resolved(config, GATE, 0).per_model == [{"weight": 0.5, "density": 0.25}, {"weight": 1.0, "density": 0.25}]
    with pytest.raises(RecipeError) as told:
        resolved(config, QUERY, 0)
    assert str(told.value) == (
        f"merge.yaml: no filter of weight of x matches {QUERY}, and ties needs a value there; add {{value: ...}} without "
        "a filter as the last entry of weight"
    )


def test_a_models_own_filter_that_misses_falls_through_to_the_value_for_all():
    config = parse("""
        {merge_method: ties, base_model: b, parameters: {weight: 0.25, density: 0.5},
         models: [{model: x, parameters: {weight: {filter: mlp, value: 1}}}, {model: y}]}
    """)
    assert [values["weight"] for values in resolved(config, GATE, 0).per_model] == [1.0, 0.25]
    assert [values["weight"] for values in resolved(config, QUERY, 0).per_model] == [0.25, 0.25]


def test_weights_that_cancel_are_refused_where_linear_would_divide_by_zero():
    text = "{{merge_method: linear, models: [{{model: x, parameters: {{weight: [1, -1]}}}}, {{model: y, parameters: {{weight: 1}}}}]{}}}"
    config = parse(text.format(""))
    assert resolved(config, GATE, 0).per_model == [{"weight": 1.0}, {"weight": 1.0}]
    with pytest.raises(
        RecipeError, match=rf"the weights at {GATE} are -1, 1: their sum is 0, and linear divides by it"
    ):
        resolved(config, GATE, 1)
    assert resolved(parse(text.format(", parameters: {normalize: false}")), GATE, 1).per_model[0] == {"weight": -1.0}


@pytest.mark.parametrize(
    ("density", "fits"), [(1, True), (0, True), (0.5, True), (0.9, False), (0.1, False), (0.85, False)]
)
def test_a_keep_probability_outside_of_0_to_1_is_refused(density, fits):
    config = parse(
        f"{{merge_method: della, base_model: b, models: [{{model: x}}], parameters: {{weight: 1, density: {density}}}}}"
    )
    if fits:
        assert resolved(config, GATE, 0).per_model == [{"weight": 1.0, "density": density, "epsilon": 0.15}]
    else:
        with pytest.raises(
            RecipeError, match=rf"density {density} and epsilon 0.15 of x at {GATE}.*make epsilon smaller"
        ):
            resolved(config, GATE, 0)


def test_filters_that_match_nothing_are_found():
    config = parse("""
        {merge_method: slerp, base_model: b, models: [{model: x}],
         parameters: {t: [{filter: self_atn, value: 1}, {filter: mlp, value: 0}, {value: 0.5}]}}
    """)
    assert unmatched_filters(config, [QUERY, GATE]) == [
        "merge.yaml: parameters.t: the filter 'self_atn' matches no tensor"
    ]


# The digest.


def test_the_digest_says_what_is_meant_and_not_how_it_is_written():
    one = parse("{merge_method: ties, base_model: b, models: [{model: x}, {model: y}], parameters: {weight: 1}}")
    same = parse("""
        models: [{model: b}, {model: deep/x, parent: b, parameters: {density: 1.0}}, {model: ./y}]
        parameters: {normalize: true, lambda: 1, int8_mask: true, density: 1, weight: [{filter: "*", value: [1.0]}]}
        base_model: b
        merge_method: ties
        vocabulary: refuse
    """)
    assert one.digest() == same.digest()
    # In ledgers and journals: a change of a default or of this form makes every stored merge another one.
    canonical = '{"base_model":0,"merge_method":"ties","models":[{"model":1},{"model":2}],"parameters":{"weight":1.0}}'
    assert one.digest() == hashlib.sha256(canonical.encode()).hexdigest()


CHANGES = {
    "method": {"merge_method": "breadcrumbs_ties"},
    "weight of all": {"parameters": {"weight": 0.5, "density": 0.5}},
    "a model's own default": {"models": [{"model": "x", "parameters": {"density": 1.0}}, {"model": "y"}]},
    "parent of the other": {"models": [{"model": "x"}, {"model": "y", "parent": "z"}]},
    "parent": {"models": [{"model": "x", "parent": "z"}, {"model": "y"}]},
    "lambda": {"parameters": {"weight": 1, "density": 0.5, "lambda": 0.5}},
    "dtype": {"dtype": "bfloat16"},
    "instruct": {"instruct": "x"},
    "other instruct": {"instruct": "y"},
    "special rows": {"special_rows": "merge"},
    "routers": {"routers": "merge"},
    "vocabulary": {"vocabulary": "match_tokens"},
    "compat": {"compat": "mergekit-0.1.5"},
    "allowed parent": {"allow_foreign_parent": True},
    "random": {"merge_method": "dare_ties"},
    "seed of a random method": {"merge_method": "dare_ties", "seed": 5},
}


def test_everything_that_changes_a_merge_changes_its_digest():
    plain = {
        "merge_method": "ties", "base_model": "b", "models": [{"model": "x"}, {"model": "y"}],
        "parameters": {"weight": 1, "density": 0.5},
    }  # fmt: skip
    digests = {name: parse_config(plain | change, "merge.yaml").digest() for name, change in CHANGES.items()}
    digests["plain"] = parse_config(plain, "merge.yaml").digest()
    assert len(set(digests.values())) == len(digests)
    certain = plain | {"merge_method": "task_arithmetic"}
    assert parse_config(certain | {"seed": 5}, "merge.yaml").digest() == parse_config(certain, "merge.yaml").digest()
    assert parse_config(plain | {"out_dtype": "bfloat16"}, "merge.yaml").digest() == digests["dtype"]
