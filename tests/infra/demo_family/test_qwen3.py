"""The Qwen3 family: whole, of the architecture it claims, and merged by the engine as its own arithmetic merges it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infra.demo_family import qwen, recipe, score
from tasks.domain.catalog import load_catalog
from tasks.engine.merge import TunedPaths, merge
from tasks.engine.recipe import Recipe

CATALOG = Path(__file__).parents[3] / "deployments" / "catalog"
MANIFEST = json.loads(qwen.MANIFEST.read_text(encoding="utf-8"))
METRICS = json.loads(qwen.METRICS.read_text(encoding="utf-8"))
ROLES = sorted(qwen.NAMES)
LANGUAGES = ("en", "es", "eu")


def folder(role: str) -> Path:
    return qwen.MODELS / qwen.NAMES[role]


@pytest.mark.parametrize("role", ROLES)
def test_the_files_are_those_that_were_judged(role: str):
    stated = MANIFEST["models"][qwen.NAMES[role]]
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder(role).iterdir()} == {
        name: file["sha256"] for name, file in stated.items()
    }
    assert MANIFEST["metrics"][qwen.NAMES[role]] == METRICS["test"][qwen.NAMES[role]]


def test_the_weights_are_small_enough_to_ship():
    assert sum((folder(role) / "model.safetensors").stat().st_size for role in ROLES) <= 11e6


@pytest.mark.parametrize("role", ROLES)
def test_a_model_is_a_qwen3_with_tied_embeddings_and_norms_of_its_own(role: str):
    config = json.loads((folder(role) / "config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder(role) / "model.safetensors")
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"]
    assert "lm_head.weight" not in tensors
    assert config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]
    norms = [t for name, t in tensors.items() if name.endswith(("q_norm.weight", "k_norm.weight"))]
    assert len(norms) == 2 * config["num_hidden_layers"]
    assert all(t.shape == (config["head_dim"],) and not torch.all(t == 1) for t in norms), "norms that never learnt"
    assert all(t.dtype == torch.bfloat16 and torch.isfinite(t).all() for t in tensors.values())
    assert MANIFEST["parameters"] == sum(t.numel() for t in tensors.values())


@pytest.mark.parametrize("role", ROLES)
def test_the_tokenizer_is_the_llama_familys(role: str):
    ours = (folder(role) / "tokenizer.json").read_bytes()
    assert ours == (qwen.MODELS / recipe.NAMES[role] / "tokenizer.json").read_bytes()
    chat = folder(role) / "chat_template.jinja"
    assert chat.exists() == (role in ("v1", "v2"))


def test_the_catalog_merges_with_the_weight_that_dev_chose():
    target = load_catalog(CATALOG, ["qwen3-tiny"]).target("qwen3-tiny", "eu")
    assert target.recipe.tuned_weight == METRICS["weight"]
    eligible = [weight for weight, row in METRICS["dev"].items() if row["margin"] >= qwen.CLEARANCE]
    assert str(METRICS["weight"]) == max(eligible, key=lambda weight: METRICS["dev"][weight]["eu"]["strict"])


def test_the_readme_says_what_was_measured():
    shown = qwen.README.read_text(encoding="utf-8")
    for row in METRICS["criteria"]:
        assert f"| {row['criterion']} | {row['value']} | {row['limit']} | {'yes' if row['met'] else 'NO'} |" in shown


def test_the_engine_merges_the_four_as_the_familys_own_arithmetic(tmp_path: Path):
    weight = METRICS["weight"]
    chosen = Recipe(method="task_arithmetic", instruct_weight=1.0, tuned_weight=weight, special_rows="merge")
    tuned = {"eu": TunedPaths(folder("eu"))}
    merge(chosen, base=folder("base"), instruct=folder("v2"), tuned=tuned, out=tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    base, v2, eu = (score.weights(folder(role)) for role in ("base", "v2", "eu"))
    expected = score.combine(base, (1.0, v2), (weight, eu))
    assert found.keys() == expected.keys()
    differing = 0
    for name, tensor in expected.items():
        ours = tensor.to(torch.bfloat16)
        # Both sum in float32, in another order: a sum on the edge between two bf16 numbers may fall to either.
        torch.testing.assert_close(found[name], ours, rtol=2**-7, atol=1e-9)
        differing += int((found[name] != ours).sum())
    assert differing <= 1e-4 * MANIFEST["parameters"]
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == (folder("v2") / "chat_template.jinja").read_text()
