"""A whole merge: pytest tests/engine/test_merge.py. The oracle in conftest.py is the formula in float64."""

import hashlib
import json
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file

from tasks.engine import schedule
from tasks.engine.errors import CheckpointError, ForeignParent
from tasks.engine.merge import TunedPaths, merge
from tasks.engine.recipe import Recipe

METHODS = ("linear", "task_arithmetic")
"""Those whose formula the oracle is; test_algebra.py goes through all."""
WEIGHTS = [{}, {"tuned_weight": 0.75}, {"instruct_weight": 0.5, "tuned_weight": 1.5}]


def same_up_to_rounding(found, expected):
    """Nearest bfloat16 of the float64 result, but for ties that float32 decides otherwise: 1 ulp, at most 1 in 500."""
    assert found.keys() == expected.keys()
    different = total = 0
    for name, tensor in found.items():
        right = expected[name].to(tensor.dtype)
        assert tensor.shape == right.shape
        torch.testing.assert_close(tensor, right, rtol=2**-7, atol=1e-9)
        different += int((tensor != right).sum())
        total += tensor.numel()
    assert different <= total / 500


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_merge_is_the_formula(make_family, make_model, oracle, load, method, weights, tied, shards):
    family = make_family(tied=tied, shards=shards)
    recipe = Recipe(method=method, special_rows="merge", **weights)
    merge(recipe, **family.inputs, out=family.out)
    base, instruct, eu = (make_model(seed, tied=tied) for seed in (0, 1, 2))
    found = load(family.out)
    same_up_to_rounding(found, oracle(recipe, base, instruct, {"eu": (eu, base)}))
    assert ("lm_head.weight" in found) is not tied


@pytest.mark.parametrize("method", METHODS)
def test_several_languages_and_a_parent_that_is_not_the_base(make_family, make_model, oracle, load, method):
    family = make_family(languages=("eu", "gl"))
    family.tuned["gl"] = TunedPaths(family.tuned["gl"].path, parent=family.instruct)
    recipe = Recipe(method=method, tuned_weight={"eu": 0.5, "gl": 0.25}, special_rows="merge")
    report = merge(recipe, **family.inputs, out=family.out, allow_foreign_parent=True)  # gl is the base's child
    base, instruct, eu, gl = (make_model(seed) for seed in range(4))
    same_up_to_rounding(load(family.out), oracle(recipe, base, instruct, {"eu": (eu, base), "gl": (gl, instruct)}))
    assert report.coefficients == recipe.coefficients(["eu", "gl"])


def test_no_language_at_all_is_the_control_arm(make_family, make_model, oracle, load):
    family = make_family(languages=())
    recipe = Recipe(method="task_arithmetic", instruct_weight=0.5, special_rows="merge")
    merge(recipe, **family.inputs, out=family.out)
    same_up_to_rounding(load(family.out), oracle(recipe, make_model(0), make_model(1), {}))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weight_zero_gives_the_instruct_model_bit_for_bit(make_family, load, method, dtype):
    family = make_family(dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    merge(Recipe(method=method, tuned_weight=0.0, out_dtype=name), **family.inputs, out=family.out)
    found = load(family.out)
    assert all(torch.equal(found[name], tensor) for name, tensor in load(family.instruct).items())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("weight", [0.3, 1.0, 1.7])
def test_zero_deltas_give_the_base_bit_for_bit(family, checkpoint_writer, make_model, load, method, dtype, weight):
    # Three writings of one model: in float32 a plain weighted sum would be off by an ulp.
    root = family.root / "same"
    base, instruct, eu = (
        checkpoint_writer(root / who, make_model(0, dtype=dtype), template="x") for who in ("base", "instruct", "eu")
    )
    recipe = Recipe(method=method, tuned_weight=weight, out_dtype=str(dtype).removeprefix("torch."))
    merge(recipe, base=base, instruct=instruct, tuned={"eu": TunedPaths(eu)}, out=family.out)
    found = load(family.out)
    assert all(torch.equal(found[name], tensor) for name, tensor in load(base).items())


def test_the_result_is_rounded_once(family, checkpoint_writer, make_model, load):
    # 1 and its bfloat16 neighbour u: 1 + 0.3 u + 0.3 u rounds to the neighbour; rounding after each delta stays at 1.
    def constant(value):
        return {name: torch.full_like(tensor, value) for name, tensor in make_model(0).items()}

    neighbour = 1 + 2**-7
    root = family.root / "constant"
    base = checkpoint_writer(root / "base", constant(1.0))
    instruct = checkpoint_writer(root / "instruct", constant(neighbour))
    eu = checkpoint_writer(root / "eu", constant(neighbour))
    recipe = Recipe(method="task_arithmetic", instruct_weight=0.3, tuned_weight=0.3, special_rows="merge")
    inputs = {"base": base, "instruct": instruct, "tuned": {"eu": TunedPaths(eu)}}
    merge(recipe, **inputs, out=family.out, allow_foreign_parent=True)  # equal models have no parent to be proven
    assert all(torch.equal(t, torch.full_like(t, neighbour)) for t in load(family.out).values())


def test_the_same_inputs_give_the_same_bytes_in_blocks_of_any_size(make_family, monkeypatch):
    one = make_family()
    recipe = Recipe(method="linear", tuned_weight=0.6)
    first = merge(recipe, **one.inputs, out=one.root / "out-1").files
    monkeypatch.setattr(schedule, "BLOCK_ELEMENTS", 37)
    second = merge(recipe, **one.inputs, out=one.root / "out-2").files
    assert first == second
    # Changed on purpose only: whoever changes it makes every stored artifact look foreign.
    assert first["model.safetensors"].sha256 == "8c3a95d6839c7bfa09fc7a8fcf8ce821b9b86629d05b37285a64689756b8dda8"


def test_inputs_that_are_sharded_differently_give_the_same_bytes(family, checkpoint_writer, make_model):
    recipe = Recipe(method="task_arithmetic")
    first = merge(recipe, **family.inputs, out=family.out).files
    sharded = {"eu": TunedPaths(checkpoint_writer(family.root / "eu3", make_model(2), shards=3))}
    second = merge(recipe, base=family.base, instruct=family.instruct, tuned=sharded, out=family.root / "out-2").files
    assert first == second


def test_small_shards_get_an_index_and_the_report_knows_every_file(family, load):
    recipe = Recipe(method="linear")
    report = merge(recipe, **family.inputs, out=family.out, max_shard_bytes=2000)
    whole = merge(recipe, **family.inputs, out=family.root / "out-whole")
    assert {path.name for path in family.out.iterdir()} == set(report.files)
    index = json.loads((family.out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    for name, digest in report.files.items():
        content = (family.out / name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == digest
        assert stat.S_IMODE((family.out / name).stat().st_mode) == 0o644
    assert report.bytes_written == sum(digest.size for digest in report.files.values())
    assert report.tensors == len(index["weight_map"]) == whole.tensors
    whole_tensors = load(family.root / "out-whole")
    assert all(torch.equal(tensor, whole_tensors[name]) for name, tensor in load(family.out).items())


def test_every_other_file_is_the_instruct_models(family):
    merge(Recipe(method="linear", out_dtype="float32"), **family.inputs, out=family.out)
    assert {path.name for path in family.out.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "generation_config.json",
    }  # fmt: skip
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (family.out / name).read_bytes() == (family.instruct / name).read_bytes()
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (family.out, family.instruct))
    assert ours == theirs | {"torch_dtype": "float32"}


def test_special_rows_come_from_the_instruct_model_when_asked(make_family, load):
    family = make_family(tied=False)
    merge(Recipe(method="linear", special_rows="merge"), **family.inputs, out=family.root / "out-merged")
    merge(Recipe(method="linear"), **family.inputs, out=family.out)
    found, plain, instruct = load(family.out), load(family.root / "out-merged"), load(family.instruct)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        # <|begin|> by its variable, <|turn|> and <|end|> by name; <|spare|> is in no template.
        assert torch.equal(found[name][36:39], instruct[name][36:39])
        assert not torch.equal(plain[name][36:39], instruct[name][36:39])
        assert torch.equal(found[name][:36], plain[name][:36])
        assert torch.equal(found[name][39:], plain[name][39:])


def test_a_source_without_weight_is_not_read(family):
    linear = merge(Recipe(method="linear"), **family.inputs, out=family.root / "out-1")
    arithmetic = merge(Recipe(method="task_arithmetic"), **family.inputs, out=family.root / "out-2")
    assert 3 * linear.bytes_read == 2 * arithmetic.bytes_read


def test_progress_ends_at_the_size_of_the_weights(family):
    seen = []
    report = merge(Recipe(method="linear"), **family.inputs, out=family.out, on_progress=seen.append)
    assert [step.done_bytes for step in seen] == sorted(step.done_bytes for step in seen)
    assert seen[-1].done_bytes == seen[-1].total_bytes == report.files["model.safetensors"].size


def test_norms_tell_an_unrelated_delta_from_one_that_was_counted_twice(family):
    honest = merge(Recipe(method="linear"), **family.inputs, out=family.root / "out-1").norms
    assert abs(honest["cos(tau_I,tau_eu)"]) < 0.1
    assert 0.01 < honest["tau_I/base"] < 0.1
    copied = shutil.copytree(family.instruct, family.root / "copied")
    tuned = {"eu": TunedPaths(copied)}  # "trained from the base", which it was not
    inputs = {"base": family.base, "instruct": family.instruct, "tuned": tuned}
    with pytest.raises(ForeignParent, match="eu"):
        merge(Recipe(method="linear"), **inputs, out=family.root / "out-2")
    twice = merge(Recipe(method="linear"), **inputs, out=family.root / "out-2", allow_foreign_parent=True).norms
    assert twice["cos(tau_I,tau_eu)"] == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_tensor_and_file(family, checkpoint_writer, make_model, bad):
    broken = make_model(2)
    broken["model.norm.weight"][3] = bad
    tuned = {"eu": TunedPaths(checkpoint_writer(family.root / "broken", broken))}
    with pytest.raises(
        CheckpointError, match=r"broken/model\.safetensors: model\.norm\.weight has (nan|inf) at element 3"
    ):
        merge(Recipe(method="linear"), base=family.base, instruct=family.instruct, tuned=tuned, out=family.out)
    assert family.leftovers() == []


def test_a_value_too_large_for_the_output_type_is_refused(family, checkpoint_writer, make_model):
    large = make_model(2)
    large["model.norm.weight"][3] = 1e6
    tuned = {"eu": TunedPaths(checkpoint_writer(family.root / "large", large))}
    recipe = Recipe(method="linear", out_dtype="float16")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight.*expected a finite F16"):
        merge(recipe, base=family.base, instruct=family.instruct, tuned=tuned, out=family.out)
    assert family.leftovers() == []


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 2000])
def test_transformers_loads_the_output_and_gets_the_same_numbers(make_family, load, shard_bytes):
    transformers = pytest.importorskip("transformers")
    family = make_family(tied=True)
    merge(Recipe(method="linear"), **family.inputs, out=family.out, max_shard_bytes=shard_bytes)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(family.out, dtype=torch.bfloat16)
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in load(family.out).items())
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


def test_a_parent_that_the_weights_cannot_tell_is_a_warning(family, checkpoint_writer):
    # A delta of its own from half way between base and instruct model: whose child it is nobody can say.
    base, instruct, eu = (
        load_file(folder / "model.safetensors") for folder in (family.base, family.instruct, family.tuned["eu"].path)
    )
    between = {n: (eu[n].float() + (instruct[n].float() - base[n].float()) / 2).to(eu[n].dtype) for n in base}
    tuned = {"eu": TunedPaths(checkpoint_writer(family.root / "between", between))}
    inputs = {"base": family.base, "instruct": family.instruct, "tuned": tuned}
    report = merge(Recipe(method="task_arithmetic"), **inputs, out=family.out)
    assert any("undecided" in warning for warning in report.warnings)
