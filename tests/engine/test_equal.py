"""Tensors that nobody can add up, and heads that only some exporters write."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.engine.errors import CheckpointError, DtypeMismatch, MissingTensor
from tasks.engine.merge import merge_config, merge_configs
from tests.engine.refusals import SINGLE

POSITIONS = "vision.embeddings.position_ids"
HEAD, ROWS = "lm_head.weight", "model.embed_tokens.weight"
ROLES = ("base", "one", "two")
WHOLE = {
    POSITIONS: torch.arange(70_001),  # more than a block of these tests
    "vision.counted": torch.tensor(7, dtype=torch.int32),
    "vision.masked": torch.tensor([True, False, True]),
    "vision.none": torch.zeros(0, dtype=torch.uint8),
}


def add(folder, tensors):
    """Write more tensors into a checkpoint, or others in the place of its own."""
    save_file({**load_file(folder / SINGLE), **tensors}, folder / SINGLE, {"format": "pt"})


def tie(folder, stated):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": stated}))


@pytest.mark.parametrize("method", ["linear", "ties", "slerp", "passthrough"])
@pytest.mark.parametrize("out_dtype", ["float32", "bfloat16"])
def test_whole_numbers_that_all_models_share_are_copied_with_their_types(place, method, out_dtype):
    for role in ROLES:
        add(place.root / role, WHOLE)
    merge_config(place.recipe(method, out_dtype=out_dtype), place.out)
    written = load_file(place.out / SINGLE)
    for name, expected in WHOLE.items():
        assert written[name].dtype == expected.dtype
        assert torch.equal(written[name], expected)
    assert written[ROWS].dtype == getattr(torch, out_dtype)


def test_outputs_of_one_reading_and_shards_have_them_too(place):
    for role in ROLES:
        add(place.root / role, WHOLE)
    outs = {place.root / f"out-{dtype}": place.recipe("linear", out_dtype=dtype) for dtype in ("float32", "bfloat16")}
    merge_configs(outs, max_shard_bytes=1000)
    for out in outs:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        for name, expected in WHOLE.items():
            assert torch.equal(load_file(out / index["weight_map"][name])[name], expected)


def test_whole_numbers_that_differ_are_refused_by_name_and_file(place):
    for role in ROLES:
        add(place.root / role, WHOLE)
    other = WHOLE[POSITIONS].clone()
    other[-1] = 0
    add(place.two, {POSITIONS: other, "vision.counted": torch.tensor(7.0)})
    error = place.refused(DtypeMismatch, f"{POSITIONS} is stored as I64 in", str(place.two), "the bytes differ")
    assert "vision.counted is stored as F32" in str(error)
    assert "as I32 in instruct" in str(error)


def test_a_type_that_is_neither_is_refused(place):
    for role in ROLES:
        add(place.root / role, {"model.scale": torch.zeros(4, dtype=torch.float8_e4m3fn)})
    place.refused(DtypeMismatch, "model.scale is stored as F8_E4M3 in instruct", "whole numbers that are the same")


@pytest.mark.parametrize(
    ("storing", "stated"),
    [({"base"}, True), ({"one"}, True), ({"base", "two"}, True), ({"base"}, None), ({"base", "two"}, None)],
)
def test_a_head_that_repeats_the_embeddings_is_no_difference(place, storing, stated):
    merge_config(place.recipe("task_arithmetic"), place.out)
    expected = load_file(place.out / SINGLE)
    for role in ROLES:
        tie(place.root / role, stated)
        if role in storing:
            add(place.root / role, {HEAD: load_file(place.root / role / SINGLE)[ROWS].clone()})
    out = place.root / "again"
    warnings = merge_config(place.recipe("task_arithmetic"), out).warnings
    assert sum("lm_head.weight repeats the embeddings" in warning for warning in warnings) == len(storing)
    written = load_file(out / SINGLE)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)


def test_a_head_that_every_model_stores_is_a_tensor_like_any_other(place):
    for role in ROLES:
        tie(place.root / role, True)
        add(place.root / role, {HEAD: load_file(place.root / role / SINGLE)[ROWS].clone()})
    merge_config(place.recipe("task_arithmetic"), place.out)
    assert HEAD in load_file(place.out / SINGLE)


def test_a_donor_that_does_not_say_that_its_head_is_tied_keeps_it(place):
    add(place.one, {HEAD: load_file(place.one / SINGLE)[ROWS].clone()})
    place.refused(CheckpointError, f"{HEAD} (24, 8) is in instruct but not in {place.two}", "tie_word_embeddings")


def test_a_head_of_its_own_in_one_model_only_is_refused(place):
    for role in ROLES:
        tie(place.root / role, True)
    head = load_file(place.two / SINGLE)[ROWS].clone()
    head[3, 2] += 1
    add(place.two, {HEAD: head})
    place.refused(MissingTensor, f"{HEAD} (24, 8) is in", str(place.two), "but not in instruct")
