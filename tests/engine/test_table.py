"""The methods table: mergekit's names and defaults, what a parameter accepts, and the shares of layer_swap."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.engine.errors import RecipeError
from tasks.engine.methods.table import REQUIRED, TABLE, language_share, layer_share
from tasks.engine.values import constant, count_layers

DELTAS = {"weight": REQUIRED, "density": 1.0, "lambda": 1.0, "int8_mask": False}
# As found by running mergekit 0.1.5. A default, once released, never changes: digests leave it out.
DEFAULTS = {
    "linear": {"weight": REQUIRED, "normalize": True},
    "slerp": {"t": REQUIRED},
    "nuslerp": {"weight": REQUIRED, "nuslerp_flatten": True, "nuslerp_row_wise": False},
    "task_arithmetic": {**DELTAS, "normalize": False, "rescale": False},
    "ties": {**DELTAS, "normalize": True, "rescale": False},
    "dare_linear": {**DELTAS, "normalize": False, "rescale": True},
    "dare_ties": {**DELTAS, "normalize": False, "rescale": True},
    "della": {**DELTAS, "normalize": True, "rescale": True, "epsilon": 0.15},
    "della_linear": {**DELTAS, "normalize": False, "rescale": True, "epsilon": 0.15},
    "breadcrumbs": {**DELTAS, "normalize": False, "rescale": False, "gamma": 0.01},
    "breadcrumbs_ties": {**DELTAS, "normalize": False, "rescale": False, "gamma": 0.01},
    "model_stock": {"filter_wise": False},
    "nearswap": {"t": REQUIRED},
    "passthrough": {"scale": 1.0},
    "language_graft": {"instruct_weight": 1.0, "weight": 1.0},
    "layer_swap": {"bottom": 5 / 32, "top": 2 / 32, "blend": 1, "embeddings": "language"},
}
# Role of the base, fewest and most models beside it.
ROLES = {
    "linear": ("unused", 1, None),
    "passthrough": ("unused", 1, 1),
    "slerp": ("required", 1, 1),
    "nearswap": ("required", 1, 1),
    "nuslerp": ("optional", 2, 2),
    "model_stock": ("required", 2, None),
    "language_graft": ("required", 0, None),
    "layer_swap": ("optional", 1, 1),
}


def test_names_and_defaults_are_as_released():
    found = {method: {name: p.default for name, p in spec.parameters.items()} for method, spec in TABLE.items()}
    assert found == DEFAULTS


def test_roles_are_as_released():
    found = {name: (spec.base, spec.fewest, spec.most) for name, spec in TABLE.items()}
    assert found == {name: ROLES.get(name, ("required", 1, None)) for name in DEFAULTS}
    assert {name for name, spec in TABLE.items() if spec.instruct_apart} == {"language_graft", "layer_swap"}
    assert {name for name, spec in TABLE.items() if spec.random} == {
        "dare_linear",
        "dare_ties",
        "della",
        "della_linear",
        "ties",
        "breadcrumbs",
        "breadcrumbs_ties",
    }


@pytest.mark.parametrize("name", TABLE)
def test_an_entry_is_whole(name):
    spec = TABLE[name]
    assert spec.name == name
    assert spec.doc.count("\n") == 0
    for parameter in spec.parameters.values():
        assert parameter.doc
        assert parameter.default is REQUIRED or parameter.read(parameter.default) == parameter.default
        assert bool(parameter.choices) == (parameter.kind is str)
    # The words of one table: the same parameter has one scope everywhere.
    scopes = {(p, other.parameters[p].scope) for other in TABLE.values() for p in other.parameters}
    assert len(scopes) == len({p for p, _ in scopes})


@pytest.mark.parametrize(
    ("method", "parameter", "written", "expected"),
    [
        ("ties", "density", 1, 1.0),
        ("ties", "density", 1.01, "expected 0 to 1"),
        ("ties", "density", -0.01, "expected 0 to 1"),
        ("ties", "density", "half", "finite number"),
        ("ties", "weight", -2, -2.0),
        ("ties", "weight", math.inf, "finite number"),
        ("ties", "normalize", 0, False),
        ("ties", "normalize", "True", True),
        ("ties", "normalize", 2, "expected true or false"),
        ("ties", "normalize", None, "expected true or false"),
        ("della", "epsilon", 0.6, "expected 0 to 0.5"),
        ("slerp", "t", 1.5, "expected 0 to 1"),
        ("nearswap", "t", "1e-4", 1e-4),
        ("nearswap", "t", -1, "expected 0 or more"),
        ("language_graft", "instruct_weight", 4.5, "expected 0 to 4"),
        ("layer_swap", "bottom", 0.25, 0.25),
        ("layer_swap", "bottom", 3, 3.0),
        ("layer_swap", "bottom", 1.5, "a share below 1, or a whole number"),
        ("layer_swap", "blend", 0.5, "expected a whole number"),
        ("layer_swap", "blend", 2.0, 2),
        ("layer_swap", "embeddings", "instruct", "instruct"),
        ("layer_swap", "embeddings", "base", "expected language or instruct"),
        ("layer_swap", "embeddings", ["language"], "expected language or instruct"),
    ],
)
def test_a_parameter_takes_its_kind_and_range(method, parameter, written, expected):
    read = TABLE[method].parameters[parameter].read
    if isinstance(expected, str) and expected != written:
        with pytest.raises(ValueError, match=expected):
            read(written)
    else:
        assert read(written) == expected
        assert type(read(written)) is type(expected)
        assert constant(read(written)) == constant(expected)


def shares(layers, bottom, top, blend):
    return [round(layer_share(layer, layers, bottom, top, blend), 9) for layer in range(layers)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((8, 2, 1, 1), [1, 1, 0.5, 0, 0, 0, 0.5, 1]),
        ((8, 2, 1, 0), [1, 1, 0, 0, 0, 0, 0, 1]),
        ((10, 2, 2, 3), [1, 1, 0.75, 0.5, 0.25, 0.25, 0.5, 0.75, 1, 1]),
        # Where the zones meet the larger share counts.
        ((6, 1, 1, 3), [1, 0.75, 0.5, 0.5, 0.75, 1]),
        # An end without layers has no zone either.
        ((5, 0, 2, 2), [0, 0.333333333, 0.666666667, 1, 1]),
        ((4, 0, 0, 2), [0, 0, 0, 0]),
        ((4, 2, 2, 1), [1, 1, 1, 1]),
        ((8, 0.25, 0.125, 0), [1, 1, 0, 0, 0, 0, 0, 1]),
        ((1, 0, 0, 1), [0]),
    ],
)
def test_the_language_is_outside_and_the_instruct_model_in_the_middle(arguments, expected):
    assert shares(*arguments) == expected


def test_the_defaults_are_five_and_two_of_32_layers_with_one_averaged_beside_each():
    defaults = [TABLE["layer_swap"].parameters[name].default for name in ("bottom", "top", "blend")]
    assert shares(32, *defaults) == [1] * 5 + [0.5] + [0] * 23 + [0.5] + [1] * 2
    assert shares(16, *defaults) == [1] * 3 + [0.5] + [0] * 10 + [0.5] + [1]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(0, 30), st.integers(0, 30), st.integers(0, 8))
def test_shares_fall_to_the_middle_and_rise_again(layers, bottom, top, blend):
    if bottom + top > layers:
        with pytest.raises(RecipeError, match=f"{bottom} and {top} layers, and the model has {layers}"):
            layer_share(0, layers, bottom, top, blend)
        return
    found = shares(layers, bottom, top, blend)
    lowest = found.index(min(found))
    assert found[:lowest] == sorted(found[:lowest], reverse=True)
    assert found[lowest:] == sorted(found[lowest:])
    assert found.count(1) >= bottom + top
    assert shares(layers, top, bottom, blend) == found[::-1]


def test_what_is_no_text_layer_is_the_instruct_models():
    outside = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    beside = [
        "model.visual.blocks.0.attn.qkv.weight",
        "multi_modal_projector.linear_1.weight",
        "mtp.layers.0.mlp.up_proj.weight",
        "model.layers.4.eh_proj.weight",
        "model.layers.4.mlp.up_proj.weight",
    ]
    text = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)]
    layers = count_layers([*outside, *beside, *text])

    def found(names, embeddings):
        ends = {"bottom": 1, "top": 1, "blend": 1, "embeddings": embeddings}
        return [language_share(name, layers, **ends) for name in names]

    assert found(outside, "language") == [1, 1, 1]
    assert found(outside, "instruct") == [0, 0, 0]
    assert found(beside, "language") == [0, 0, 0, 0, 0]
    assert found(text, "language") == [1, 0.5, 0.5, 1]
