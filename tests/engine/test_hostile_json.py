"""The small files of a checkpoint with values of any kind: a plan is made or refused, and nothing else happens."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.engine.donor import donor_config
from tasks.engine.errors import CheckpointError, ConfigMismatch, MergeError
from tasks.engine.merge import plan_all
from tasks.engine.methods.table import TABLE
from tests.engine.folders import recipe_for, scratch, tensors, write_folder

SHAPES = {"model.embed_tokens.weight": (12, 8), "model.layers.0.mlp.up_proj.weight": (16, 8), "lm_head.weight": (12, 8)}
CONFIG = {
    "architectures": ["PicoForCausalLM"], "model_type": "pico", "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "rope_parameters": {"rope_type": "default"},
    "vocab_size": 12, "tie_word_embeddings": False, "sliding_window": None, "text_config": {"hidden_size": 8},
    "vision_config": {"dtype": "float32"}, "torch_dtype": "float32", "quantization_config": None, "auto_map": None,
}  # fmt: skip
TOKENIZER = {
    "model": {"type": "BPE", "vocab": {f"w{number}": number for number in range(9)}},
    "added_tokens": [
        {"id": 9, "content": "<|turn|>", "special": True},
        {"id": 10, "content": "<|end|>", "special": True},
    ],
}
FILES = {
    "config.json": CONFIG,
    "tokenizer.json": TOKENIZER,
    "tokenizer_config.json": {
        "bos_token": "<|turn|>",
        "eos_token": {"content": "<|end|>"},
        "chat_template": [{"name": "default", "template": "{{ bos_token }}<|end|>"}],
    },
    "generation_config.json": {"eos_token_id": [10]},
    "chat_template.json": {"chat_template": "<|turn|>"},
}
WORDS = st.sampled_from(["hidden_size", "rope_theta", "factor", "id", "content", "special", "w3", "<|end|>", "dtype"])
ANY_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 20), st.sampled_from([2**31, 2**63, -1, 1e400]), st.floats(),
        st.text(max_size=4), WORDS,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def folders():
    with scratch() as place:
        yield [write_folder(place / role, tensors(seed, SHAPES)) for seed, role in enumerate(("base", "one", "two"))]


def places_in(value, path=()):
    """Every place in a JSON value, itself included."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inner:
        yield from places_in(entry, (*path, key))


def changed(value, path, new):
    """The same with another value at one place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def plan(folders, **policies):
    base, one, two = folders
    config = recipe_for(
        TABLE["ties"], base, one, [one, two], {"weight": 1.0}, **{"special_rows": "instruct", **policies}
    )
    (found,) = plan_all({one / "out": config}).values()
    return found


def write_all(folders):
    for folder in folders:
        for name, content in FILES.items():
            (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("number", [-1, True, 1.5, "3", None])
def test_an_id_that_is_no_row_is_refused_with_its_token(folders, number):
    write_all(folders)
    content = changed(TOKENIZER, ("added_tokens", 0, "id"), number)
    (folders[2] / "tokenizer.json").write_text(json.dumps(content))
    for policy in ("refuse", "match_tokens"):
        with pytest.raises(CheckpointError, match=rf"two/tokenizer\.json: '<\|turn\|>' -> {number!r} is no token"):
            plan(folders, vocabulary=policy)


def test_the_rope_of_layers_of_two_kinds_is_compared(folders):
    # Gemma 3, as transformers 5 writes it.
    write_all(folders)
    rope = {"sliding": {"rope_type": "default", "rope_theta": 1e4}, "full": {"rope_type": "linear", "factor": 8.0}}
    for folder in folders:
        (folder / "config.json").write_text(json.dumps(CONFIG | {"rope_parameters": rope}))
    assert set(plan(folders).tensors) == set(SHAPES)
    other = changed(rope, ("full", "factor"), 4.0)
    (folders[2] / "config.json").write_text(json.dumps(CONFIG | {"rope_parameters": other}))
    with pytest.raises(ConfigMismatch, match=r"rope_scaling is .*'factor': 4\.0.* in .*two.* and .*'factor': 8\.0"):
        plan(folders)


@pytest.mark.parametrize("file", FILES)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_file_with_any_value_anywhere_is_planned_with_or_refused(folders, file, data):
    role = data.draw(st.sampled_from(folders))
    write_all(folders)
    content = FILES[file]
    content = changed(content, data.draw(st.sampled_from(list(places_in(content)))), data.draw(ANY_JSON))
    (role / file).write_text(json.dumps(content))
    refused = None
    try:
        found = plan(folders, vocabulary=data.draw(st.sampled_from(["refuse", "match_tokens", "keep_instruct"])))
    except MergeError as error:
        refused = error
    if refused is None:
        assert set(found.tensors) == set(SHAPES)
        assert str(found)
        assert json.loads(donor_config(found.donor, "bfloat16"))
    else:
        assert str(refused)
