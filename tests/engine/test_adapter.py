"""The language part of a merge as an adapter, held against the merge itself, in float64 and in what the files hold."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tasks.engine.adapter import extract
from tasks.engine.adapter_files import served_rank
from tasks.engine.command_file import read_merge_file
from tasks.engine.errors import CheckpointError, DiskFull, MergeError, RecipeError, WriteError
from tasks.engine.low_rank import factorize
from tasks.engine.merge import merge
from tasks.engine.recipe import Recipe

RECIPE = {"method": "task_arithmetic", "tuned_weight": 0.75, "special_rows": "merge"}
FULL = 24
"""The longest side of a projection in these models, and so more than any rank."""


def extracted(family, rank, recipe=RECIPE, out="adapter", **options):
    return extract(read_merge_file(family.config(recipe)), family.root / out, rank, **options)


def changes(folder):
    """B @ A by tensor, float64, read as PEFT and vLLM do."""
    tensors = {name: tensor.double() for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    settings = json.loads((folder / "adapter_config.json").read_text())
    scale = settings["lora_alpha"] / settings["r"]
    found = {}
    for name, tensor in tensors.items():
        module = name.removeprefix("base_model.model.")
        if name.endswith("lora_A.weight"):
            up = tensors[name.replace("lora_A", "lora_B")]
            found[module.replace("lora_A.", "")] = scale * (up @ tensor)
        elif name.endswith("lora_embedding_A"):
            up = tensors[name.replace("embedding_A", "embedding_B")]
            found[module.replace("lora_embedding_A", "weight")] = scale * (up @ tensor).T
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_at_full_rank_the_instruct_model_and_the_adapter_are_the_merge(make_family, load, tied):
    family = make_family(tied=tied)
    report = extracted(family, FULL, carried="all")
    merge(Recipe.model_validate(RECIPE), **family.inputs, out=family.out)
    merged, instruct, found = load(family.out), load(family.instruct), changes(family.root / "adapter")
    carried = {one.tensor for one in report.tensors if not one.why}
    assert carried == {name for name in merged if "norm" not in name} | {"lm_head.weight"}
    for name in carried & set(merged):
        rebuilt = instruct[name].double() + found[name]
        # One rounding to bfloat16 of the merge, and one of each factor, which counts by the change: 5 % of the weight.
        torch.testing.assert_close(rebuilt, merged[name].double(), rtol=2**-8, atol=2**-8 * 1e-3)
    if tied:
        assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert all(one.kept == pytest.approx(1) and one.lost < 1e-4 for one in report.tensors if not one.why)


def test_a_rank_loses_what_the_singular_values_beyond_it_hold(make_family, make_model, oracle):
    family = make_family(dtype=torch.float32)
    report = extracted(family, 3, RECIPE | {"out_dtype": "float32"})
    base, instruct, eu = (make_model(seed, dtype=torch.float32) for seed in (0, 1, 2))
    whole = oracle(Recipe.model_validate(RECIPE), base, instruct, {"eu": (eu, base)})
    found = changes(family.root / "adapter")
    for one in report.tensors:
        own = "model.embed_tokens.weight" if one.tensor == "lm_head.weight" else one.tensor  # they are tied
        change = (whole[own] - instruct[own].double()).numpy()
        assert one.energy == pytest.approx(float((change**2).sum()), rel=1e-5)
        if one.why:
            continue
        beyond = np.linalg.svd(change, compute_uv=False)[3:] ** 2
        missed = float(((change - found[one.tensor].numpy()) ** 2).sum())
        assert missed == pytest.approx(beyond.sum(), rel=1e-4)
        assert 1 - one.kept == pytest.approx(beyond.sum() / one.energy, rel=1e-4)
        assert one.lost == pytest.approx(1 - one.kept, rel=1e-4)
    assert 0 < report.kept < report.carried < 1
    assert {one.why for one in report.tensors if "norm" in one.tensor} == {"no matrix"}
    assert [one.why for one in report.tensors if one.tensor == "lm_head.weight"] == ["left out as asked"]


def test_more_rank_keeps_more(family):
    kept = [extracted(family, rank, out=f"r{rank}").kept for rank in (1, 4, 8, 16)]
    assert kept == sorted(kept)
    assert kept[0] < kept[-1]


def test_rows_of_the_chat_template_stay_the_instruct_models(make_family):
    family = make_family()
    extracted(family, FULL, {"method": "task_arithmetic"})
    found = changes(family.root / "adapter")["model.embed_tokens.weight"]
    assert found[36:39].abs().max() < 1e-6
    assert found[:36].abs().max() > 1e-4


def test_the_adapter_does_not_depend_on_the_instruct_release(make_family, make_model, checkpoint_writer):
    family = make_family()
    extracted(family, 4)
    template = (family.instruct / "chat_template.jinja").read_text()
    shutil.rmtree(family.instruct)
    checkpoint_writer(family.instruct, make_model(7), template=template)
    extracted(family, 4, out="next")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (family.root / "next" / name).read_bytes() == (family.root / "adapter" / name).read_bytes()


def test_the_same_inputs_give_the_same_bytes_however_they_are_sharded(make_family, load, checkpoint_writer):
    family = make_family()
    first = extracted(family, 4)
    eu = family.tuned["eu"].path
    weights = load(eu)
    shutil.rmtree(eu)
    checkpoint_writer(eu, weights, shards=3)
    assert extracted(family, 4, out="again").files == first.files


def test_several_languages_and_a_language_graft_are_carried_too(make_family):
    family = make_family(languages=("eu", "gl"))
    sums = extracted(family, FULL, RECIPE | {"tuned_weight": {"eu": 0.5, "gl": 0.25}})
    grafted = extracted(
        family,
        FULL,
        {"method": "language_graft", "tuned_weight": {"eu": 0.5, "gl": 0.25}, "special_rows": "merge"},
        "b",
    )
    assert sums.coefficients == {"eu": 0.5, "gl": 0.25} == grafted.coefficients
    assert sums.files["adapter_model.safetensors"] == grafted.files["adapter_model.safetensors"]


def test_embeddings_are_left_out_as_asked_or_where_the_server_has_no_adapter_for_them(family):
    asked = extracted(family, 4, carried="layers")
    assert {one.why for one in asked.tensors if "embed" in one.tensor} == {"left out as asked"}
    assert not any("embed" in name or "lm_head" in name for name in changes(family.root / "adapter"))
    for folder in (family.base, family.instruct, family.tuned["eu"].path):
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | {"architectures": ["MistralForCausalLM"]}))
    other = extracted(family, 4, out="mistral")
    assert {one.why for one in other.tensors if "embed" in one.tensor} == {
        "vLLM serves no adapter of it for MistralForCausalLM"
    }
    assert other.kept == asked.kept


@pytest.mark.parametrize(
    ("recipe", "rank", "words"),
    [
        ({"method": "linear"}, 4, ["linear does not leave the instruct model as it is", "task_arithmetic"]),
        ({"method": "ties", "parameters": {"density": 0.5}}, 4, ["ties does not leave the instruct model as it is"]),
        (RECIPE | {"instruct_weight": 0.5}, 4, ["weight 0.5 at model.embed_tokens.weight", "must be 1"]),
        (RECIPE | {"instruct_weight": 0.0}, 4, ["weight 0 at model.embed_tokens.weight", "must be 1"]),
        (RECIPE | {"tuned_weight": 0.0}, 4, ["no language has a weight above 0"]),
        (RECIPE, 0, ["rank 0: expected 1 to 512"]),
        (RECIPE, 513, ["rank 513: expected 1 to 512"]),
    ],
)
def test_what_is_no_language_part_over_the_instruct_model_is_refused(family, recipe, rank, words):
    with pytest.raises(RecipeError) as refused:
        extracted(family, rank, recipe)
    assert all(word in str(refused.value) for word in words)
    assert not list(family.root.glob("*adapter*"))


def test_an_output_that_exists_a_broken_model_and_one_without_projections_are_refused(family, monkeypatch):
    (family.root / "adapter").mkdir()
    with pytest.raises(WriteError, match="exists already"):
        extracted(family, 4)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(DiskFull, match="other: needs"):
            extracted(family, 4, out="other")
    with monkeypatch.context() as patch:
        patch.setattr("tasks.engine.adapter_files._LINEAR", __import__("re").compile("$^"))
        with pytest.raises(CheckpointError, match="none of its 20 tensors is a projection"):
            extracted(family, 4, out="other", carried="layers")
    (family.tuned["eu"].path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(MergeError, match="5 bytes"):
        extracted(family, 4, out="other")
    assert not list(family.root.glob("*other*"))


def test_a_number_that_is_not_finite_leaves_nothing_behind(make_family, make_model, checkpoint_writer):
    family = make_family()
    weights = make_model(2)
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = float("nan")
    shutil.rmtree(family.tuned["eu"].path)
    checkpoint_writer(family.tuned["eu"].path, weights)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight has nan at element"):
        extract(read_merge_file(family.config(RECIPE | {"special_rows": "merge"})), family.root / "adapter", 4)
    assert not list(family.root.glob("*adapter*"))


def matrix_of(rows, columns, seed, fall=0.5):
    """Singular values 1, 2^-fall, 3^-fall, ... between random bases."""
    drawn = np.random.Generator(np.random.PCG64(seed))
    left = np.linalg.qr(drawn.standard_normal((rows, columns))).Q
    right = np.linalg.qr(drawn.standard_normal((columns, columns))).Q
    return (left * np.arange(1, columns + 1) ** -fall) @ right


def test_a_random_projection_keeps_nearly_what_the_best_one_does_and_knows_what_it_lost():
    matrix = matrix_of(300, 200, 5)
    best, found = factorize(matrix, 16), factorize(matrix, 16, exact_side=0, seed=3)
    assert best.exact
    assert not found.exact
    assert best.kept * (1 - 2e-3) < found.kept <= best.kept * (1 + 1e-12)
    missed = np.square(matrix - found.up @ found.down).sum() / found.energy
    assert missed == pytest.approx(1 - found.kept, rel=1e-9)


def test_factors_have_one_sign_and_one_scale_and_are_filled_up_with_zeros():
    matrix = matrix_of(12, 8, 1)
    one, other = factorize(matrix, 20), factorize(-matrix, 20)
    assert one.up.shape == (12, 20)
    assert one.down.shape == (20, 8)
    assert not one.up[:, 8:].any()
    assert not one.down[8:].any()
    np.testing.assert_allclose(one.up, other.up, atol=1e-12)
    np.testing.assert_allclose(one.down, -other.down, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(one.up, axis=0), np.linalg.norm(one.down, axis=1))
    assert factorize(np.zeros((4, 3)), 2).kept is None


@pytest.mark.parametrize(("rank", "served"), [(1, 1), (4, 8), (16, 16), (65, 128), (512, 512), (513, None)])
def test_an_adapter_is_served_under_the_next_rank_that_the_server_knows(rank, served):
    assert served_rank(rank) == served
