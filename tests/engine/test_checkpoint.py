"""Checkpoint folders, sound and hostile. Each attack is a file that lies in one way."""

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.engine.checkpoint import Checkpoint
from tasks.engine.errors import CheckpointError, CorruptShard, MissingTensor
from tasks.engine.header import read_header
from tasks.engine.reading import BlockReader, ShardFiles

INDEX = "model.safetensors.index.json"


def shard(path, header, data=b"", length=None):
    """Write a safetensors file whose header says whatever we like."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(begin, end, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("shards", [1, 3])
def test_every_element_reads_as_it_was_written(tmp_path, checkpoint_writer, make_model, shards):
    tensors = make_model(0)
    checkpoint = Checkpoint.open(checkpoint_writer(tmp_path / "m", tensors, shards=shards))
    assert checkpoint.names == sorted(tensors)
    with ShardFiles() as files:
        reader = BlockReader(files, 1, 4)
        for name, tensor in tensors.items():
            spec, flat = checkpoint.tensors[name], tensor.float().flatten()
            assert spec.shape == tuple(tensor.shape)
            assert torch.equal(torch.from_numpy(reader.floats([spec], 0, spec.elements)[0]), flat)
            assert torch.equal(torch.from_numpy(reader.floats([spec], 3, 11)[0]), flat[3:11])
            assert reader.floats([spec], 5, 5).size == 0


def test_a_header_of_odd_length_is_read_all_the_same(tmp_path, checkpoint_writer, make_model):
    folder = checkpoint_writer(tmp_path / "m", make_model(0))
    values = torch.arange(6, dtype=torch.float32)
    raw = json.dumps({"w": entry(0, 24)}).encode()
    shard(folder / "model.safetensors", raw + b" " * (1 - len(raw) % 2), values.numpy().tobytes())
    spec = Checkpoint.open(folder).tensors["w"]
    with ShardFiles() as files:
        assert torch.equal(torch.from_numpy(BlockReader(files, 1, 6).floats([spec], 1, 4)[0]), values[1:4])


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, ["tensor b overlaps a", "byte", "expected"]),
        ({"a": entry(0, 8), "b": entry(12, 16)}, 16, ["tensor b leaves a gap after a"]),
        ({"a": entry(4, 8)}, 8, ["tensor a leaves a gap after the header"]),
        ({"a": entry(0, 8)}, 4, ["truncated"]),
        ({"a": entry(0, 8)}, 12, ["accounts for"]),
        ({"a": entry(0, 8, [3])}, 8, ["tensor a", "takes 12 bytes", "give 8"]),
        ({"a": entry(0, 8, [-2])}, 8, ["tensor a", "[-2]"]),
        ({"a": entry(0, 8, [True, 2])}, 8, ["tensor a", "[True, 2]"]),
        ({"a": entry(8, 0, [0])}, 8, ["tensor a", "[8, 0]"]),
        ({"a": entry(0, 8, [2**40, 2**40])}, 8, ["tensor a", "give 8"]),
        ({"a": entry(0, 8, dtype="PICKLE")}, 8, ["tensor a", "'PICKLE'", "BF16"]),
        ({"a": {"dtype": "F32"}}, 0, ["tensor a", "data_offsets"]),
        ({"a": 3}, 0, ["tensor a", "found 3"]),
        (b'{"a": 1, "a": 2}', 0, ["names a twice"]),
        (b'{"a": ', 0, ["not JSON"]),
        (b"\xff\xfe", 0, ["not JSON"]),
        (b"[" * 100_000, 0, ["not JSON"]),
        (b"[1]", 0, ["list", "object"]),
    ],
)
def test_a_header_that_lies_is_refused_by_file_and_tensor(tmp_path, header, size, words):
    path = shard(tmp_path / "bad.safetensors", header, bytes(size))
    with pytest.raises(CorruptShard) as told:
        read_header(path)
    for word in ["bad.safetensors", *words]:
        assert word in str(told.value)


@pytest.mark.parametrize(
    ("length", "words"), [(200_000_000, "claims 200000000"), (2**63, "at most"), (1000, "inside its header")]
)
def test_a_header_length_that_lies_is_refused_before_anything_is_read(tmp_path, length, words):
    with pytest.raises(CorruptShard, match=words):
        read_header(shard(tmp_path / "bad.safetensors", {"a": entry(0, 8)}, bytes(8), length=length))


def test_all_contradictions_of_a_header_are_told(tmp_path):
    with pytest.raises(CorruptShard, match=r"tensor a(?s:.)*tensor c") as told:
        read_header(shard(tmp_path / "bad.safetensors", {"a": 1, "b": entry(0, 8), "c": 2}, bytes(8)))
    assert len(told.value.problems) == 2


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_do_more_than_be_refused(tmp_path, data):
    sound = json.dumps({"a": entry(0, 8), "b": entry(8, 12)}).encode()
    content = bytearray(struct.pack("<Q", len(sound)) + sound + bytes(12))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        specs = read_header(path)
    except CorruptShard:
        return
    assert all(0 < spec.begin <= spec.end <= len(content) for spec in specs)


def test_a_missing_and_a_truncated_shard_are_told_together(tmp_path, checkpoint_writer, make_model):
    folder = checkpoint_writer(tmp_path / "m", make_model(0), shards=3)
    (folder / "model-00001-of-00003.safetensors").unlink()
    second = folder / "model-00002-of-00003.safetensors"
    size = second.stat().st_size
    second.write_bytes(second.read_bytes()[:-100])
    with pytest.raises(CorruptShard) as told:
        Checkpoint.open(folder)
    text = str(told.value)
    assert "model-00001-of-00003.safetensors: missing" in text
    assert f"model-00002-of-00003.safetensors: truncated: {size - 100} bytes, its header needs {size}" in text


@pytest.mark.parametrize(
    "where",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b.safetensors", "model.bin", "x.txt"],
)
def test_an_index_cannot_lead_out_of_its_folder_or_to_a_pickle(tmp_path, checkpoint_writer, make_model, where):
    folder = checkpoint_writer(tmp_path / "m", make_model(0), shards=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = where
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as told:
        Checkpoint.open(folder)
    assert f"model.norm.weight is said to lie in {where!r}" in str(told.value)


def test_index_and_shards_must_list_the_same_tensors(tmp_path, checkpoint_writer, make_model):
    folder = checkpoint_writer(tmp_path / "m", make_model(0), shards=2)
    index = json.loads((folder / INDEX).read_text())
    first = index["weight_map"].pop("model.norm.weight")
    index["weight_map"]["model.ghost.weight"] = first
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(MissingTensor) as told:
        Checkpoint.open(folder)
    assert "lacks model.ghost.weight" in str(told.value)
    assert "holds model.norm.weight" in str(told.value)


def test_pickles_are_refused_unopened(tmp_path, checkpoint_writer, make_model):
    folder = checkpoint_writer(tmp_path / "m", make_model(0))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*run code.*convert"):
        Checkpoint.open(folder)


def test_a_folder_without_weights_config_or_existence_is_refused(tmp_path, checkpoint_writer, make_model):
    folder = checkpoint_writer(tmp_path / "m", make_model(0), shards=2)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="both"):
        Checkpoint.open(folder)
    for file in folder.glob("model*"):
        file.unlink()
    with pytest.raises(CheckpointError, match="neither"):
        Checkpoint.open(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config\.json: a JSON list"):
        Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match="no such folder"):
        Checkpoint.open(tmp_path / "nowhere")
