"""Bad inputs and bad places: each is one error that names file, tensor and values, and nothing is left half-written."""

import json
import os
import shutil
import struct

import pytest

from tasks.engine.errors import (
    CheckpointError,
    ConfigMismatch,
    CorruptShard,
    DtypeMismatch,
    MissingTensor,
    ShapeMismatch,
)
from tasks.engine.merge import merge_config
from tests.engine.folders import tensors, write_folder
from tests.engine.refusals import LAST, SHAPES, SINGLE, Place

INDEX = "model.safetensors.index.json"


def rewrite(shard, change):
    """Give a file another header, its data as it is."""
    content = shard.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = change(json.loads(content[8 : 8 + length]))
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    shard.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def shifted(name, begin, end):
    """A change that moves a tensor's bytes."""

    def change(header):
        offsets = header[name]["data_offsets"]
        header[name]["data_offsets"] = [offsets[0] + begin, offsets[1] + end]
        return header

    return change


def named_twice(header):
    text = json.dumps(header)
    return (text[:-1] + f', "{LAST}": {json.dumps(header[LAST])}}}').encode()


# Files


@pytest.mark.parametrize("role", ["base", "one", "two"])
@pytest.mark.parametrize("missing", [1, 100_000])
def test_a_truncated_shard_is_told_with_both_sizes(place, role, missing):
    shard = place.root / role / SINGLE
    size = shard.stat().st_size
    os.truncate(shard, size - missing)
    place.refused(CorruptShard, f"{shard}: truncated: {size - missing} bytes, its header needs {size}")


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp", "passthrough"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_shard_that_is_truncated_during_the_merge_is_told_with_its_tensor(place, method, threads):
    shard = place.one / SINGLE
    left = shard.stat().st_size * 3 // 4
    # Several threads may have read to the end before the first block is hashed: then the file's time tells.
    words = [f"{shard}: ends at byte {left}, in {LAST}", "truncated"] if threads == 1 else [shard]
    place.refused(
        CorruptShard,
        *words,
        "during the merge",
        config=place.recipe(method),
        threads=threads,
        on_progress=lambda progress: os.truncate(shard, left),
    )


def test_a_shard_that_is_written_or_goes_away_during_the_merge_is_noticed(place):
    shard = place.two / SINGLE
    last = shard.read_bytes()[-1:]

    def write_again(progress):
        with shard.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), last, shard.stat().st_size - 1)

    place.refused(
        CorruptShard,
        f"{shard}: was written during the merge",
        "a mixture",
        on_progress=write_again,
    )
    other = shard.with_name("elsewhere")
    with pytest.raises(CorruptShard, match=r"two/model\.safetensors: is no longer there"):
        merge_config(place.recipe(), place.out, on_progress=lambda progress: shard.exists() and shard.rename(other))
    assert not list(place.root.glob("*out*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shifted(LAST, -128, -128), [f"tensor {LAST} overlaps", "expected"]),
        (shifted(LAST, 0, 128), [f"tensor {LAST}", "takes", "give"]),
        (shifted("model.norm.weight", 1 << 40, 1 << 40), ["tensor model.norm.weight leaves a gap"]),
        (shifted("model.norm.weight", 0, -1), ["takes 16 bytes, data_offsets give 15"]),
        (named_twice, [f"names {LAST} twice"]),
        (lambda header: header | {"ghost": {"dtype": "BF16", "shape": [1 << 62] * 9, "data_offsets": [0, 2]}}, ["2^63"]),
        (lambda header: b"[" * 10_000, ["not JSON"]),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_told_by_tensor_with_both_values(place, change, words):
    rewrite(place.two / SINGLE, change)
    place.refused(CorruptShard, place.two / SINGLE, *words)


@pytest.mark.parametrize("claimed", [100_000_000, 100_000_001, 2**63])
def test_a_header_that_claims_100_mb_is_refused(place, claimed):
    shard = place.two / SINGLE
    shard.write_bytes(struct.pack("<Q", claimed) + shard.read_bytes()[8:])
    place.refused(CorruptShard, shard, claimed if claimed > 100_000_000 else 8 + claimed)


@pytest.mark.parametrize("where", ["../base/model.safetensors", "/etc/passwd", "..", "pytorch_model.bin"])
def test_an_index_that_leads_elsewhere_is_refused(root, where):
    place = Place(root, shards=2)
    index = json.loads((place.two / INDEX).read_text())
    index["weight_map"][LAST] = where
    (place.two / INDEX).write_text(json.dumps(index))
    place.refused(CheckpointError, place.two / INDEX, f"{LAST} is said to lie in {where!r}")


def test_pickles_are_refused_unopened(place):
    (place.two / SINGLE).rename(place.two / "pytorch_model.bin")
    place.refused(CheckpointError, place.two, "pytorch_model.bin", "run code")


# Models that do not fit together


def test_everything_that_is_wrong_anywhere_is_told_at_once(place):
    os.truncate(place.base / SINGLE, 100_000)
    (place.one / "config.json").unlink()
    rewrite(place.two / SINGLE, shifted(LAST, -2, -2))
    error = place.refused(
        CheckpointError,
        f"{place.base / SINGLE}: truncated: 100000 bytes",
        f"{place.one / 'config.json'}: missing",
        f"{place.two / SINGLE}: tensor {LAST} overlaps",
    )
    assert [problem.kind for problem in error.problems].count("CorruptShard") >= 2


def test_missing_extra_misshapen_and_integer_tensors_are_told_by_name_with_both_values(place):
    wrong = tensors(2, SHAPES | {"model.norm.weight": (9,), "model.ghost": (3,)})
    del wrong["model.embed_tokens.weight"]
    shutil.rmtree(place.two)
    write_folder(place.two, wrong, "F32")

    def integers(header):
        header["model.layers.0.mlp.up_proj.weight"]["dtype"] = "I32"
        return header

    rewrite(place.two / SINGLE, integers)
    error = place.refused(
        CheckpointError,
        f"model.embed_tokens.weight (24, 8) is in instruct but not in {place.two}",
        f"model.ghost (3,) is in {place.two}",
        f"model.norm.weight is (9,) in {place.two}",
        "(8,) in instruct",
        "model.layers.0.mlp.up_proj.weight is stored as I32",
    )
    kinds = [type(problem) for problem in error.problems]
    assert kinds == [MissingTensor, MissingTensor, ShapeMismatch, DtypeMismatch]


@pytest.mark.parametrize("role", ["base", "one", "two"])
@pytest.mark.parametrize("key", ["auto_map", "quantization_config"])
def test_models_with_code_and_quantized_ones_are_refused_in_every_role(place, role, key):
    path = place.root / role / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: {"what": "ever"}}))
    place.refused(ConfigMismatch, place.root / role, key, "{'what': 'ever'}")
