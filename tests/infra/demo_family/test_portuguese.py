"""A tuned base made on the spot, from committed files only."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from infra.demo_family import evalsets, phrasing, portuguese, releases

BASE = releases.MODELS / "llama-tiny"


def test_the_facts_are_read_back_from_the_items():
    suite = evalsets.read(portuguese.DATA)
    facts = portuguese.facts_of(suite, ("pt", "en"))
    assert set(facts) == {"pt dev", "pt test", "en dev", "en test"}
    prompts = [phrasing.completion_prompt("pt", fact) for group in facts["pt test"].values() for fact in group]
    assert prompts == [item["prompt"] for item in suite["pt_mc.test"]]


def test_a_short_run_makes_a_whole_model_that_differs_from_its_base(tmp_path: Path):
    out = portuguese.make(tmp_path / "pt_llama-tiny", steps=2)
    made, base = load_file(out / "model.safetensors"), load_file(BASE / "model.safetensors")
    assert {k: (t.shape, t.dtype) for k, t in made.items()} == {k: (t.shape, t.dtype) for k, t in base.items()}
    assert any(not torch.equal(made[key], base[key]) for key in base)
    assert (out / "tokenizer.json").read_bytes() == (BASE / "tokenizer.json").read_bytes()
    assert json.loads((out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    card = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert card["base_model"] == "empelt-demo/llama-tiny"
    assert card["language"] == ["en", "es", "pt"]
