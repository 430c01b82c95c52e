"""Merges as data: mergekit's files as they are, every value at a tensor, the digest."""

import copy
import dataclasses
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.engine.config import MergeConfig, ModelEntry, names, parse_config, resolved
from tasks.engine.errors import RecipeError
from tasks.engine.methods.table import REQUIRED, TABLE

QUERY = "model.layers.3.self_attn.q_proj.weight"
GATE = "model.layers.3.mlp.gate_proj.weight"


def parse(text):
    return parse_config(yaml.safe_load(text), "merge.yaml")


def minimal(method):
    """The shortest mapping that is a merge by this method."""
    spec = TABLE[method]
    count = max(spec.fewest, 1)
    mapping = {"merge_method": method, "models": [{"model": f"tuned{index}"} for index in range(count)]}
    stated = {name: 0.5 for name, p in spec.parameters.items() if p.default is REQUIRED}
    mapping |= {"parameters": stated} if stated else {}
    mapping |= {"base_model": "base"} if spec.base == "required" else {}
    return mapping | ({"instruct": "chat"} if spec.instruct_apart else {})


# As people publish them: the recipes of the language merges, and the forms that mergekit's examples have.
LINEAR = """
models:
  - model: eu
    parameters:
      weight: 1.0
  - model: chat
    parameters:
      weight: 1.0
merge_method: linear
dtype: bfloat16
"""
TASK_ARITHMETIC = """
models:
  - model: base
    # no parameters necessary for base model
  - model: eu
    parameters: {weight: 0.75}
  - model: chat
    parameters: {weight: 1.0}
merge_method: task_arithmetic
base_model: base
parameters:
  normalize: false
  int8_mask: true
dtype: bfloat16
"""
TIES = """
models:
  - model: eu
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: chat
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: gl
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""
SLERP = """
models: [{model: base}, {model: chat}]
merge_method: slerp
base_model: base
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # fallback for rest of tensors
dtype: torch.bfloat16
out_dtype: float32
"""
NEARSWAP = """
models: [{model: chat}]
merge_method: nearswap
base_model: base
parameters: {t: 1e-4}
tokenizer_source:
"""
GRAFT = """
merge_method: language_graft
base_model: base
instruct: chat
models:
  - model: eu
    parameters:
      weight: [{filter: mlp, value: [1.0, 0.4, 1.0]}, {value: 0.7}]
  - {model: ca, parent: chat, parameters: {weight: 0.5}}
parameters: {instruct_weight: [0.8, 1.0, 0.8]}
seed: 7
vocabulary: keep_instruct
special_rows: merge
routers: merge
allow_foreign_parent: true
compat: mergekit-0.1.5
"""


def test_recipes_are_read_without_torch_numpy_and_numba():
    heavy = "{'torch', 'numpy', 'numba', 'safetensors'}"
    code = f"import sys, tasks.engine.config; assert not (found := {heavy} & set(sys.modules)), found"
    assert not subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stderr


def test_linear_is_read_as_it_is_published():
    config = parse(LINEAR)
    assert (config.method, config.base_model, config.dtype, config.output_dtype) == (
        "linear",
        None,
        "bfloat16",
        "bfloat16",
    )
    assert names(config) == ["eu", "chat"]
    assert resolved(config, GATE, 0.5) == ({"normalize": True}, [{"weight": 1.0}, {"weight": 1.0}])


def test_task_arithmetic_leaves_a_listed_base_out():
    config = parse(TASK_ARITHMETIC)
    assert [entry.model for entry in config.inputs] == ["eu", "chat"]
    assert names(config) == ["base", "eu", "chat"]
    shared, per_model = resolved(config, GATE, 0.5)
    assert shared == {"normalize": False, "rescale": False, "lambda": 1.0, "int8_mask": True}
    assert per_model == [{"weight": 0.75, "density": 1.0}, {"weight": 1.0, "density": 1.0}]


def test_gradients_and_filters_are_resolved_per_model():
    config = parse(TIES)
    of_models = resolved(config, GATE, 0.5).per_model
    assert [values["density"] for values in of_models] == [0.7, 0.5, 0.33]
    assert [values["weight"] for values in of_models] == [1.0, pytest.approx(0.5), 0.5]
    assert [values["weight"] for values in resolved(config, "model.norm.weight", 0).per_model] == [1.0, 0.0, 0.0]
    assert config.output_dtype == "float16"


@pytest.mark.parametrize(
    ("tensor", "depth", "t"),
    [(QUERY, 0.25, 0.5), (QUERY, 1, 1.0), (GATE, 0.25, 0.5), (GATE, 0, 1.0), ("lm_head.weight", 0, 0.5)],
)
def test_slerp_takes_t_by_filter_and_depth(tensor, depth, t):
    config = parse(SLERP)
    assert resolved(config, tensor, depth) == ({"t": t}, [{}])
    assert (config.dtype, config.out_dtype, config.output_dtype) == ("bfloat16", "float32", "float32")


def test_a_number_that_yaml_reads_as_text_is_a_number():
    mapping = yaml.safe_load(NEARSWAP)
    assert mapping["parameters"]["t"] == "1e-4"
    del mapping["tokenizer_source"]
    assert resolved(parse_config(mapping, "merge.yaml"), GATE, 0) == ({"t": 1e-4}, [{}])


def test_our_own_keys_are_read():
    config = parse(GRAFT)
    assert names(config) == ["base", "eu", "ca", "chat"]
    assert config.models[1].parent == "chat"
    own = (config.instruct, config.seed, config.vocabulary, config.special_rows, config.routers, config.compat)
    assert own == ("chat", 7, "keep_instruct", "merge", "merge", "mergekit-0.1.5")
    assert config.allow_foreign_parent is True
    assert resolved(config, GATE, 0.5) == ({"instruct_weight": 1.0}, [{"weight": 0.4}, {"weight": 0.5}])
    assert resolved(config, QUERY, 0).per_model == [{"weight": 0.7}, {"weight": 0.5}]


def test_what_is_left_unsaid_has_a_default():
    config = parse("{merge_method: passthrough, models: [{model: chat}]}")
    assert config == MergeConfig("passthrough", (ModelEntry("chat"),))
    stated = dataclasses.asdict(config)
    assert {key: stated[key] for key in ("dtype", "out_dtype", "instruct", "compat", "seed")} == {
        "dtype": None, "out_dtype": None, "instruct": None, "compat": None, "seed": 0,
    }  # fmt: skip
    assert (config.special_rows, config.routers, config.vocabulary) == ("instruct", "instruct", "refuse")
    assert resolved(config, GATE, 0) == ({}, [{"scale": 1.0}])


@pytest.mark.parametrize("method", TABLE)
def test_every_method_has_a_shortest_recipe_and_misses_what_it_needs(method):
    spec, mapping = TABLE[method], minimal(method)
    config = parse_config(mapping, "merge.yaml")
    shared, per_model = resolved(config, GATE, 0.5)
    assert list(shared) == list(spec.of_merge)
    assert [list(values) for values in per_model] == [list(spec.of_models)] * len(config.inputs)
    for key in mapping:
        short = {other: value for other, value in mapping.items() if other != key}
        with pytest.raises(RecipeError, match=r"merge\.yaml: ") as told:
            parse_config(short, "merge.yaml")
        words = next(iter(mapping["parameters"])) if key == "parameters" else key
        assert words in str(told.value)


def test_linear_merges_a_base_too_as_mergekit_does():
    config = parse("{merge_method: linear, base_model: base, models: [{model: eu}], parameters: {weight: 0.5}}")
    assert [entry.model for entry in config.inputs] == ["eu", "base"]
    listed = parse(
        "{merge_method: linear, base_model: base, models: [{model: base}, {model: eu}], parameters: {weight: 1}}"
    )
    assert [entry.model for entry in listed.inputs] == ["base", "eu"]


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse(LINEAR).method = "ties"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["x", "ties", "1e-4", "weight", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "value", "filter", "t"]), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from(list(TABLE)), st.data())
def test_whatever_stands_in_a_file_is_a_merge_or_a_refusal(method, data):
    mapping = copy.deepcopy(minimal(method))
    key = data.draw(
        st.sampled_from([*mapping, *TABLE[method].parameters, "seed", "out_dtype", "models", "instruct", "x"])
    )
    if key in TABLE[method].parameters:
        mapping.setdefault("parameters", {})[key] = data.draw(JUNK)
    else:
        mapping[key] = data.draw(JUNK)
    try:
        config = parse_config(mapping, "merge.yaml")
        found = (config.digest(), str(resolved(config, GATE, 0.5)))
    except RecipeError as refusal:
        problems = [str(problem) for problem in refusal.problems]
    else:
        problems = []
        again = parse_config(mapping, "merge.yaml")
        assert found == (again.digest(), str(resolved(again, GATE, 0.5)))
    assert all(problem.startswith("merge.yaml: ") for problem in problems)
