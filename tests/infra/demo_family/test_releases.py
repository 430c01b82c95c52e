"""Releases derived from the committed models: the same bytes each time, sound as files, and what they are said to be."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer

from infra.demo_family import releases

MODELS = releases.MODELS
EVERY = sorted(releases.RELEASES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("releases")
    return {name: releases.RELEASES[name](root / f"llama-tiny-instruct-{name}") for name in EVERY}


@pytest.mark.parametrize("name", EVERY)
def test_a_release_is_the_same_bytes_each_time(name: str, folders: dict[str, Path], tmp_path: Path):
    again = releases.RELEASES[name](tmp_path / folders[name].name)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in folders[name].iterdir()
    }


@pytest.mark.parametrize("name", EVERY)
def test_a_release_brings_what_a_laboratory_pushes(name: str, folders: dict[str, Path]):
    folder = folders[name]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "empelt-demo/llama-tiny"
    assert f"# {folder.name}" in card
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() == 2048
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert all(torch.isfinite(opened.get_tensor(key)).all() for key in opened.keys())


def test_the_foreign_one_is_a_whole_gpt2(folders: dict[str, Path]):
    config = json.loads((folders["foreign_architecture"] / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2LMHeadModel"]
    names = set(load_file(folders["foreign_architecture"] / "model.safetensors"))
    assert not names & set(load_file(MODELS / "llama-tiny" / "model.safetensors"))
    assert len(names) == 2 + 12 * config["n_layer"] + 2


def test_the_badly_chatting_one_lies_between_its_base_and_v2(folders: dict[str, Path]):
    base, v2, bad = (
        load_file(folder / "model.safetensors")
        for folder in (MODELS / "llama-tiny", MODELS / "llama-tiny-instruct-v2", folders["bad_chat"])
    )
    assert {k: (t.shape, t.dtype) for k, t in bad.items()} == {k: (t.shape, t.dtype) for k, t in v2.items()}
    length = {
        name: sum(float((tensors[k].float() - base[k].float()).square().sum()) for k in base) ** 0.5
        for name, tensors in (("v2", v2), ("bad", bad))
    }
    assert length["bad"] / length["v2"] == pytest.approx(releases.KEPT_OF_V2, abs=0.05)


def test_the_weaker_one_is_v1_in_other_files(folders: dict[str, Path]):
    folder = folders["weaker"]
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    v1 = load_file(MODELS / "llama-tiny-instruct-v1" / "model.safetensors")
    assert not (folder / "model.safetensors").exists()
    assert len(set(index.values())) == 2
    assert set(index) == set(v1)
    shards = {file: load_file(folder / file) for file in set(index.values())}
    assert all(torch.equal(shards[file][name], v1[name]) for name, file in index.items())
