"""Settings: how they are written, what they are at a tensor, and how deep a tensor lies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.engine.errors import RecipeError
from tasks.engine.values import Place, constant, count_layers, depth_of, number, parse_setting, place_of, resolve

WHERE = "merge.yaml: parameters.t"
QUERY = "model.layers.3.self_attn.q_proj.weight"
GATE = "model.layers.3.mlp.gate_proj.weight"

SCALARS = st.floats(min_value=-1e6, max_value=1e6)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, min_size=1, max_size=5))
RULES = st.one_of(
    st.fixed_dictionaries({"filter": st.text(alphabet="abc.*", max_size=3), "value": VALUES}),
    st.fixed_dictionaries({"value": VALUES}),
)
SETTINGS = st.one_of(VALUES, RULES, st.lists(RULES, min_size=1, max_size=4))


@pytest.mark.parametrize(
    ("written", "tensor", "depth", "expected"),
    [
        (0.5, QUERY, 0.3, 0.5),
        (2, QUERY, 0.3, 2.0),
        ("1e-4", QUERY, 0.3, 1e-4),
        ([0.25], QUERY, 0.9, 0.25),
        ([0.0, 1.0], QUERY, 0.0, 0.0),
        ([0.0, 1.0], QUERY, 0.25, 0.25),
        ([0.0, 1.0], QUERY, 1.0, 1.0),
        ([0, 0.3, 0.7, 1.0], QUERY, 0.5, 0.5),
        ([0, 0.5, 0.3, 0.7, 1], QUERY, 0.25, 0.5),
        ([0, 0.5, 0.3, 0.7, 1], QUERY, 0.375, 0.4),
        ({"filter": "self_attn", "value": 0.5}, QUERY, 0.3, 0.5),
        ({"filter": "self_attn", "value": 0.5}, GATE, 0.3, None),
        ({"value": 0.5}, GATE, 0.3, 0.5),
        (
            [{"filter": "self_attn", "value": [0, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 9}],
            GATE,
            0.25,
            0.75,
        ),
        (
            [{"filter": "self_attn", "value": [0, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 9}],
            "norm",
            0.25,
            9.0,
        ),
        ([{"filter": "proj", "value": 1}, {"filter": "mlp", "value": 2}], GATE, 0.3, 1.0),
        ([{"filter": "self_attn", "value": 1}, {"filter": "*", "value": 2}], GATE, 0.3, 2.0),
        ([{"filter": "self_attn", "value": 1}, {"filter": None, "value": 2}], GATE, 0.3, 2.0),
        # A substring and no pattern: neither * nor . nor ^ mean anything inside a word.
        ([{"filter": "model.*mlp", "value": 1}, {"value": 2}], GATE, 0.3, 2.0),
    ],
)
def test_a_setting_has_the_value_of_its_first_match(written, tensor, depth, expected):
    found = resolve(parse_setting(written, WHERE), tensor, depth)
    assert found == (expected if expected is None else pytest.approx(expected, abs=1e-12))


@pytest.mark.parametrize(("depth", "expected"), [(0, True), (0.49, True), (0.5, False), (0.99, False), (1, True)])
def test_a_gradient_of_switches_goes_in_steps(depth, expected):
    setting = parse_setting([True, False, True], WHERE, bool)
    assert resolve(setting, QUERY, depth) is expected


@settings(deadline=None)
@given(SETTINGS, st.sampled_from([QUERY, GATE, "abc", "a.b"]), st.floats(0, 1))
def test_what_a_setting_says_of_itself_reads_back_as_the_same(written, tensor, depth):
    setting = parse_setting(written, WHERE)
    again = parse_setting(setting.stated(), WHERE)
    assert again == setting
    assert resolve(again, tensor, depth) == resolve(setting, tensor, depth)


@settings(deadline=None)
@given(st.lists(SCALARS, min_size=1, max_size=6), st.floats(0, 1))
def test_a_gradient_stays_between_its_points_and_goes_through_them(points, depth):
    setting = parse_setting(points, WHERE)
    value = resolve(setting, QUERY, depth)
    assert min(points) - 1e-9 <= value <= max(points) + 1e-9
    assert resolve(setting, QUERY, 0) == points[0]
    assert resolve(setting, QUERY, 1) == points[-1]


def test_settings_that_mean_the_same_are_equal():
    same = [0.5, [0.5], "0.5", {"value": 0.5}, [{"filter": "*", "value": 0.5}, {"filter": "mlp", "value": 9}]]
    assert {parse_setting(written, WHERE) for written in same} == {constant(0.5)}


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("high", [f"{WHERE} = 'high': expected a finite number"]),
        (True, [f"{WHERE} = True: expected a finite number"]),
        (float("nan"), [f"{WHERE} = nan: expected a finite number"]),
        (10**400, [f"{WHERE} = 1000"]),
        (None, [f"{WHERE} = None: expected a finite number"]),
        ([], [f"{WHERE} = []: expected at least one point"]),
        ([0.5, "x", [1]], [f"{WHERE}[1] = 'x': expected", f"{WHERE}[2] = [1]: expected"]),
        ({"filter": "mlp"}, [f"{WHERE}: the key 'value' is missing beside {{'filter': 'mlp'}}"]),
        ({"filter": 3, "value": 1}, [f"{WHERE}.filter = 3: expected a part of tensor names"]),
        ({"filtre": "mlp", "value": 1}, [f"{WHERE}: unknown key 'filtre' = 'mlp'; known are filter, value"]),
        ([{"filter": "mlp", "value": "x"}], [f"{WHERE}[0].value = 'x': expected"]),
        (
            [{"filter": "mlp", "value": [1, "x"]}, 0.5],
            [f"{WHERE}[0].value[1] = 'x'", f"{WHERE}[1] = 0.5: expected a map"],
        ),
    ],
)
def test_everything_wrong_with_a_setting_is_told_at_once(written, lines):
    with pytest.raises(RecipeError) as told:
        parse_setting(written, WHERE)
    assert len(told.value.problems) == len(lines)
    for problem, line in zip(told.value.problems, lines, strict=True):
        assert str(problem).startswith(line)


def test_text_is_a_number_only_where_it_is_one():
    assert number("2.5E-3") == 0.0025
    for text in ("", "nan", "inf", "half", "1,5"):
        with pytest.raises(ValueError, match="finite number"):
            number(text)


NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.mlp.gate_proj.weight" for layer in range(4)),
    *(f"model.layers.2.mlp.experts.{expert}.w1.weight" for expert in range(9)),
    "model.norm.weight",
    "lm_head.weight",
    *(f"visual.blocks.{block}.attn.qkv.weight" for block in range(3)),
    "visual.merger.mlp.0.weight",
    "visual.merger.mlp.2.weight",
    "mtp.layers.0.mlp.gate_proj.weight",
]


def test_layers_are_counted_by_stack_and_experts_are_no_layers():
    assert count_layers(NAMES) == {"model.layers": 4, "visual.blocks": 3, "mtp.layers": 1}


@pytest.mark.parametrize(
    "stack", ["model.layers", "transformer.h", "h", "encoder.layers", "gpt_neox.layers", "backbone.x"]
)
def test_layers_are_found_under_any_name(stack):
    layers = count_layers(f"{stack}.{layer}.attn.weight" for layer in range(12))
    assert layers == {stack: 12}
    assert place_of(f"{stack}.11.attn.weight", layers) == Place(stack, 11, 12)
    assert place_of("other.3.attn.weight", layers) is None


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("model.layers.0.mlp.gate_proj.weight", 0),
        ("model.layers.1.mlp.gate_proj.weight", 1 / 3),
        ("model.layers.3.mlp.gate_proj.weight", 1),
        ("model.layers.2.mlp.experts.8.w1.weight", 2 / 3),
        ("visual.blocks.1.attn.qkv.weight", 1 / 2),
        ("visual.merger.mlp.2.weight", 0),
        ("mtp.layers.0.mlp.gate_proj.weight", 1),
        # mergekit's rule, and surprising: the head is as deep as the embeddings.
        ("model.embed_tokens.weight", 0),
        ("model.norm.weight", 0),
        ("lm_head.weight", 0),
    ],
)
def test_depth_runs_from_the_first_layer_to_the_last_and_is_0_outside(tensor, expected):
    assert depth_of(tensor, count_layers(NAMES)) == pytest.approx(expected)


def test_a_head_for_further_tokens_behind_the_last_layer_does_not_stretch_the_depth():
    names = [f"model.layers.{layer}.mlp.gate_proj.weight" for layer in range(5)] + ["model.layers.4.eh_proj.weight"]
    layers = count_layers(names)
    assert layers == {"model.layers": 4}
    assert [depth_of(name, layers) for name in names[3:]] == [1, 1, 1]
    assert place_of("model.layers.4.eh_proj.weight", layers) == Place("model.layers", 4, 4)
