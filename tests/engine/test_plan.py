"""What does not belong together is refused, by name, with both values, all of it at once; and nothing is left."""

import json

import pytest
import torch

from tasks.engine.errors import (
    CheckpointError,
    ConfigMismatch,
    DtypeMismatch,
    MissingTensor,
    RecipeError,
    ShapeMismatch,
    VocabularyMismatch,
)
from tasks.engine.layout import lay_out
from tasks.engine.merge import TunedPaths, by_roles, merge, plan_all
from tasks.engine.recipe import Recipe


@pytest.fixture
def refused(family):
    """Merge with another tuned base; it must be refused with this class and these words, and leave nothing."""

    def check(folder, kind, *words, recipe=None):
        tuned = {"eu": TunedPaths(folder)}
        with pytest.raises(CheckpointError) as told:
            merge(
                recipe or Recipe(method="linear"),
                base=family.base,
                instruct=family.instruct,
                tuned=tuned,
                out=family.out,
            )
        assert type(told.value) is kind, told.value
        for word in words:
            assert word in str(told.value)
        assert family.leftovers() == []
        return told.value

    return check


@pytest.fixture
def altered(family, checkpoint_writer, make_model):
    """A tuned base with one thing changed."""

    def make(change=lambda tensors: None, **settings):
        tensors = make_model(2)
        change(tensors)
        return checkpoint_writer(family.root / "altered", tensors, **settings)

    return make


def test_missing_and_extra_tensors_are_told_by_name(altered, refused):
    def change(tensors):
        del tensors["model.norm.weight"]
        tensors["model.ghost.weight"] = torch.zeros(3)

    error = refused(
        altered(change, config={"tie_word_embeddings": True}),
        MissingTensor,
        "model.norm.weight (16,) is in instruct but not in tuned base eu",
        "model.ghost.weight (3,) is in tuned base eu",
        "altered",
    )
    assert len(error.problems) == 2


def test_a_shape_is_told_with_both_values(altered, refused):
    def change(tensors):
        tensors["model.norm.weight"] = torch.zeros(17, dtype=torch.bfloat16)

    refused(altered(change), ShapeMismatch, "model.norm.weight is (17,) in tuned base eu", "(16,) in instruct")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn, torch.bool])
def test_a_type_that_cannot_be_added_is_refused(altered, refused, dtype):
    def change(tensors):
        tensors["model.norm.weight"] = torch.zeros(16).to(dtype)

    refused(altered(change), DtypeMismatch, "model.norm.weight is stored as", "tuned base eu", "BF16")


def test_inputs_of_mixed_float_types_are_merged(family, checkpoint_writer, make_model, oracle, load):
    instruct = checkpoint_writer(family.root / "i32", make_model(1, dtype=torch.float32), template="x")
    eu = checkpoint_writer(family.root / "eu16", make_model(2, dtype=torch.float16))
    recipe = Recipe(method="task_arithmetic", out_dtype="float32")
    merge(recipe, base=family.base, instruct=instruct, tuned={"eu": TunedPaths(eu)}, out=family.out)
    theta = make_model(0)
    expected = oracle(
        recipe, theta, make_model(1, dtype=torch.float32), {"eu": (make_model(2, dtype=torch.float16), theta)}
    )
    for name, tensor in load(family.out).items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures", ["MistralForCausalLM"]), ("num_attention_heads", 8), ("rope_theta", 500000.0),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}), ("head_dim", 8), ("rms_norm_eps", 1e-6),
        ("tie_word_embeddings", False), ("num_key_value_heads", 4), ("sliding_window", 4096), ("vocab_size", 41),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 7.0}),
    ],
)  # fmt: skip
def test_drift_of_a_configuration_is_told_by_key_with_both_values(altered, refused, key, value):
    config = {key: value} | ({"rope_theta": None} if key == "rope_parameters" else {})
    shown = {"rope_parameters": "7.0"}.get(key, repr(value))
    named = {"rope_parameters": "rope_theta"}.get(key, key)
    error = refused(altered(config=config), ConfigMismatch)
    assert f"{named} is {shown} in tuned base eu" in str(error)
    assert "in instruct" in str(error)


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 9999}, {"torch_dtype": "float32"}, {"eos_token_id": 3}, {"head_dim": 4},
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_scaling": {"type": "default"}}, {"transformers_version": "5.23.0"}, {"tie_word_embeddings": None},
    ],
)  # fmt: skip
def test_drift_that_changes_no_weights_meaning_is_accepted(family, altered, config):
    tuned = {"eu": TunedPaths(altered(config=config))}
    merge(Recipe(method="linear"), base=family.base, instruct=family.instruct, tuned=tuned, out=family.out)
    assert family.out.is_dir()


@pytest.mark.parametrize("key", ["quantization_config", "auto_map"])
def test_quantized_models_and_models_with_code_are_refused(altered, refused, key):
    refused(altered(config={key: {"who": "knows"}}), ConfigMismatch, key, "tuned base eu", "{'who': 'knows'}")


def test_a_foreign_tokenizer_is_told_by_its_first_ids_and_their_number(altered, refused):
    foreign = {f"v{number}" if number >= 10 else f"w{number}": number for number in range(36)}
    refused(
        altered(vocab=foreign),
        VocabularyMismatch,
        "tuned base eu",
        "26 of 40 ids",
        "id 10 is 'v10'",
        "'w10' in instruct",
    )


def test_a_permuted_tokenizer_of_the_same_size_is_refused(altered, refused):
    permuted = {f"w{35 - number}": number for number in range(36)}
    refused(altered(vocab=permuted), VocabularyMismatch, "36 of 40 ids", "id 0 is 'w35' in tuned base eu and 'w0'")


def test_added_tokens_count_and_one_id_has_one_token(family, altered, refused):
    folder = altered()
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][3]["content"] = "<|other|>"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused(folder, VocabularyMismatch, "1 of 40 ids", "id 39 is '<|other|>' in tuned base eu and '<|spare|>'")
    content["added_tokens"][3]["id"] = 5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    refused(folder, VocabularyMismatch, "id 5 is both 'w5' and '<|other|>'")


def test_a_tokenizer_that_cannot_be_compared_is_refused(altered, refused):
    folder = altered()
    (folder / "tokenizer.json").unlink()
    refused(folder, CheckpointError, "tuned base eu", "tokenizer.json: missing")


def test_a_foreign_architecture_is_one_error_that_tells_all(altered, refused):
    def change(tensors):
        tensors["model.norm.weight"] = torch.zeros(17, dtype=torch.bfloat16)
        del tensors["model.layers.1.mlp.up_proj.weight"]

    config = {"architectures": ["QwenForCausalLM"], "model_type": "qwen3"}
    words = ("QwenForCausalLM", "MissingTensor: model.layers.1.mlp.up_proj.weight", "ShapeMismatch: model.norm.weight")
    error = refused(altered(change, config=config), CheckpointError, "4 problems", *words)
    assert [problem.kind for problem in error.problems] == [
        "ConfigMismatch", "ConfigMismatch", "MissingTensor", "ShapeMismatch",
    ]  # fmt: skip


def test_a_message_stays_readable_and_the_error_keeps_everything(altered, refused):
    def change(tensors):
        tensors |= {f"ghost.{number}": torch.zeros(1) for number in range(50)}

    error = refused(altered(change), MissingTensor, "50 problems", "and 30 more of this kind")
    assert len(error.problems) == 50


def test_a_tied_head_that_one_model_stores_is_not_dropped_in_silence(altered, refused):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0)

    refused(altered(change, config={"tie_word_embeddings": True}), MissingTensor, "lm_head.weight", "not in instruct")


def test_every_broken_input_is_told_at_once(family):
    (family.base / "config.json").unlink()
    (family.tuned["eu"].path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as told:
        merge(Recipe(method="linear"), **family.inputs, out=family.out)
    assert "base/config.json" in str(told.value)
    assert "eu: has neither" in str(told.value)


def test_special_rows_without_a_chat_template_are_refused(family):
    (family.instruct / "chat_template.jinja").unlink()
    with pytest.raises(CheckpointError, match=r"no chat template.*special_rows: merge"):
        merge(Recipe(method="linear", special_rows="instruct"), **family.inputs, out=family.out)
    assert family.leftovers() == []


def test_a_recipe_for_other_languages_is_refused(family):
    with pytest.raises(RecipeError, match="'eu'"):
        merge(Recipe(method="linear", tuned_weight={"gl": 1.0}), **family.inputs, out=family.out)


def test_a_plan_draws_itself_and_is_ordered_as_a_person_would(family):
    recipe = Recipe(method="task_arithmetic")
    config, labels = by_roles(recipe, family.base, family.instruct, family.tuned)
    (plan,) = plan_all({family.out: config}, labels=labels).values()
    assert "task_arithmetic of instruct, base, tuned base eu" in str(plan)
    layout = lay_out(
        {f"layers.{number}.w": (4,) for number in (10, 2, 1)}, {f"layers.{n}.w": "BF16" for n in (10, 2, 1)}, 16
    )
    assert [shard.tensors for shard in layout.shards] == [("layers.1.w", "layers.2.w"), ("layers.10.w",)]
