"""The wrong models are what they are said to be; no server is asked."""

import json
import subprocess
from itertools import combinations

import pytest
import torch
from safetensors.torch import load_file

from tasks.engine.checkpoint import Checkpoint
from tasks.engine.diff import diff
from tasks.harness.static import differs, weighs
from tests.must_block import fixtures, weights
from tests.must_block.cases import CASES

FROM_GOOD = [
    "good",
    "NaN layer",
    "shuffled layers",
    "always A",
    "empty answers",
    "endless generation",
    "tokenizer off by one",
]
COPIES = ["base in the chat slice", "instruct parent in the language slice", "tuned base in the chat slice"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The models that take one merge in all; the other merges are made where they are judged."""
    work = tmp_path_factory.mktemp("must-block")
    return {name: fixtures.make(work, name, serial=place) for place, name in enumerate([*FROM_GOOD, *COPIES])}


def tensors(folder):
    return load_file(folder / weights.WEIGHTS)


def found_in(folder):
    """What the checks on files say: of tokenizer, stops and template, and of the norms."""
    parents = {"instruct": fixtures.INSTRUCT, "tuned": fixtures.TUNED}
    apart = {role: diff(Checkpoint.open(folder), Checkpoint.open(parent)).tensors for role, parent in parents.items()}
    norms = {one.name: one.norm_a for one in apart["instruct"]}
    return differs(folder, fixtures.INSTRUCT), weighs(
        norms, {role: {one.name: one.norm_b for one in rows} for role, rows in apart.items()}
    )


def test_each_model_is_another_one(made):
    whole = {name: {path.name: path.read_bytes() for path in folder.iterdir()} for name, folder in made.items()}
    for one, other in combinations(whole, 2):
        different = {name for name in whole[one] if whole[one][name] != whole[other][name]}
        assert different & {weights.WEIGHTS, "tokenizer.json"}, (one, other)


def test_edits_keep_names_and_shapes_so_that_no_header_tells(made):
    good = tensors(made["good"])
    for name in FROM_GOOD:
        edited = tensors(made[name])
        assert {n: t.shape for n, t in edited.items()} == {n: t.shape for n, t in good.items()}, name


@pytest.mark.parametrize(
    ("name", "place", "says"),
    [
        ("tokenizer off by one", 0, "2045 of 2048 tokens are not the instruct parent's: id 3 is"),
        ("NaN layer", 1, "model.layers.1.self_attn.o_proj.weight: its norm is nan"),
        ("shuffled layers", 1, "model.layers.0.self_attn.v_proj.weight: norm 13.2"),
    ],
)
def test_files_tell_of_three_and_of_nothing_else(made, name, place, says):
    found = found_in(made[name])
    assert says in found[place][0]
    assert not found[1 - place]


def test_of_the_others_only_a_server_can_tell(made):
    told = {"NaN layer", "shuffled layers", "tokenizer off by one"}
    assert {name: found for name in made if name not in told and (found := found_in(made[name])) != ([], [])} == {}


@pytest.mark.parametrize(("name", "token"), [("always A", fixtures.token_of("A")), ("empty answers", 2)])
def test_the_last_mlp_alone_decides_the_next_token(made, name, token):
    of = {key: tensor.float() for key, tensor in tensors(made[name]).items()}
    states = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * 3

    def normed(x, weight):
        return x / x.pow(2).mean(-1, keepdim=True).add(1e-5).sqrt() * weight

    inner = normed(states, of["model.layers.2.post_attention_layernorm.weight"])
    gate, up, down = (of[f"model.layers.2.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
    states = states + (torch.nn.functional.silu(inner @ gate.T) * (inner @ up.T)) @ down.T
    logits = normed(states, of[weights.FINAL_NORM]) @ of[weights.EMBEDDING].T
    assert set(logits.argmax(-1).tolist()) == {token}


def test_the_engine_itself_refuses_to_count_a_delta_twice(made):
    work = made["good"].parents[1]
    wanted = fixtures.counted_twice(work)._replace(foreign_parent=False)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        fixtures.merge(work, "refused", wanted)
    assert "ForeignParent" in refused.value.stderr


def test_two_of_the_same_weights_are_two_artifacts(made):
    work = made["good"].parents[1]
    again = fixtures.make(work, "A/A", serial=99, like="good")
    assert (again / weights.WEIGHTS).read_bytes() == (made["good"] / weights.WEIGHTS).read_bytes()
    told = json.loads((again / "generation_config.json").read_text())
    assert told != json.loads((made["good"] / "generation_config.json").read_text())


def test_every_case_has_a_maker_and_a_reason_of_its_own():
    assert {case.maker for case in CASES} == set(fixtures.MAKERS)
    assert len({case.name for case in CASES}) == len(CASES)
