"""The header parser against files that lie: it gives tensors that tile the data, or raises CorruptShard, and is quick.

A sound header is made first and then changed: values by values of any kind, the text by bytes of any kind, the file by
its length. So most examples come far into the parser.
"""

import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.engine.checkpoint import Checkpoint, read_json
from tasks.engine.errors import CheckpointError, CorruptShard
from tasks.engine.header import ITEM_BYTES, MAX_HEADER_BYTES, TensorSpec, read_header

Header = dict[str, Any]
QUICK_SECONDS = 20.0
"""Of this thread's CPU. The worst of these files takes 1.5 s; before the parser was made for them, four took minutes."""


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """One file, written anew by every example."""
    return tmp_path_factory.mktemp("fuzz") / "fuzz.safetensors"


def write(path: Path, text: bytes, data: int, length: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))


def tiles(specs: list[TensorSpec], path: Path, header_bytes: int) -> bool:
    """Whether the tensors lie one after the other from the header's end to the file's, each of its own size."""
    reached = 8 + header_bytes
    for spec in specs:
        if spec.begin != reached or spec.end - spec.begin != math.prod(spec.shape) * ITEM_BYTES[spec.dtype]:
            return False
        reached = spec.end
    return reached == path.stat().st_size and len({spec.name for spec in specs}) == len(specs)


def read_or_refuse(path: Path) -> list[TensorSpec] | None:
    """The tensors, or None after a CorruptShard that names the file; anything else fails the test."""
    refused = None
    try:
        return read_header(path)
    except CorruptShard as error:
        refused = error
    assert str(path) in str(refused)
    assert len(str(refused)) < 20_000
    assert all(isinstance(problem, CorruptShard) for problem in refused.problems)
    return None


@st.composite
def sound_headers(draw) -> tuple[Header, int]:
    """A header as a library would write it, and how many bytes of data it needs."""
    header: Header = {}
    end = 0
    for name in draw(st.lists(st.text(max_size=12), max_size=6, unique=True)):
        dtype = draw(st.sampled_from(list(ITEM_BYTES)))
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        begin, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    header.pop("__metadata__", None)
    return header, end


WHOLE = st.one_of(st.integers(-3, 70), st.integers(), st.sampled_from([2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64]))
ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), WHOLE, st.floats(), st.text(max_size=5), st.sampled_from(list(ITEM_BYTES))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def changed_headers(draw) -> tuple[Header, int]:
    """A sound header with one to three values changed, removed or added."""
    header, data = draw(sound_headers())
    for _ in range(draw(st.integers(1, 3))):
        entries = [entry for entry in header.values() if isinstance(entry, dict)]
        change = draw(st.sampled_from(["entry", "key", "item", "item", "remove", "add", "metadata", "data"]))
        if change == "data":
            data = max(0, data + draw(st.integers(-9, 9)))
        elif change == "metadata":
            header["__metadata__"] = draw(ANY_JSON)
        elif change == "add" or not entries:
            header[draw(st.text(max_size=3))] = draw(ANY_JSON)
        else:
            entry = draw(st.sampled_from(entries))
            key = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
            if change == "entry":
                header[draw(st.sampled_from(list(header)))] = draw(ANY_JSON)
            elif change == "remove":
                entry.pop(key, None)
            elif change == "item" and isinstance(entry.get(key), list) and entry[key]:
                entry[key][draw(st.integers(0, len(entry[key]) - 1))] = draw(st.one_of(WHOLE, ANY_JSON))
            else:
                entry[key] = draw(ANY_JSON)
    return header, data


FUZZ = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(FUZZ, max_examples=80)
@given(made=sound_headers())
def test_a_sound_header_is_read_whole(shard, made):
    header, data = made
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    write(shard, text, data)
    specs = read_header(shard)
    assert tiles(specs, shard, len(text))
    assert {s.name: (s.dtype, list(s.shape)) for s in specs} == {n: (e["dtype"], e["shape"]) for n, e in header.items()}


@FUZZ
@given(made=changed_headers())
def test_a_changed_header_tiles_its_data_or_is_refused(shard, made):
    header, data = made
    text = json.dumps(header).encode()
    write(shard, text, data)
    specs = read_or_refuse(shard)
    assert specs is None or tiles(specs, shard, len(text))


@FUZZ
@given(made=sound_headers(), data=st.data())
def test_changed_bytes_tile_their_data_or_are_refused(shard, made, data):
    header, size = made
    text = json.dumps(header).encode()
    content = bytearray(struct.pack("<Q", len(text)) + text + bytes(size))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(0, 3))
        content[begin : begin + length] = data.draw(st.binary(max_size=4))
    shard.write_bytes(content[: data.draw(st.integers(max(0, len(content) - 12), len(content)))])
    specs = read_or_refuse(shard)
    assert specs is None or tiles(specs, shard, struct.unpack("<Q", content[:8])[0])


@settings(FUZZ, max_examples=150)
@given(content=st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(shard, content):
    shard.write_bytes(content)
    specs = read_or_refuse(shard)
    assert specs is None or tiles(specs, shard, struct.unpack("<Q", content[:8])[0])


def entry(shape: str = "[1]", end: str = "4") -> str:
    return f'{{"dtype": "F32", "shape": {shape}, "data_offsets": [0, {end}]}}'


MANY = ", ".join(f'"t{number}": 0' for number in range(200_000))
SLOW_OR_WILD = {
    "one of 200,000 names twice": f'{{{MANY}, "t7": 0}}',
    "every one of 200,000 entries is wrong": f"{{{MANY}}}",
    "a million dimensions": f'{{"a": {entry("[" + "4611686018427387904," * 1_000_000 + "1]")}}}',
    "a size of 6,000 digits": f'{{"a": {entry("[" + "4611686018427387904," * 320 + "1]")}}}',
    "a number of 5,000 digits": f'{{"a": {entry("[" + "9" * 5000 + "]")}}}',
    "an offset of 5,000 digits": f'{{"a": {entry("[1]", "9" * 5000)}}}',
    "a number beyond float64": f'{{"a": {entry("[1e999]")}}}',
    "NaN": f'{{"a": {entry("[NaN]")}}}',
    "lists in lists": '{"a": ' + "[" * 200_000,
    "objects in objects": '{"a": ' * 50_000,
    "half a character in a name": f'{{"\\ud800": {entry()}}}',
    "a name of a million letters": f'{{"{"x" * 1_000_000}": 0}}',
    "a string of a million letters": f'{{"a": "{"x" * 1_000_000}"}}',
    "text behind the object": f'{{"a": {entry()}}} true',
    "a byte order mark": "\ufeff{}",
}


@pytest.mark.parametrize("text", SLOW_OR_WILD.values(), ids=SLOW_OR_WILD)
def test_a_hostile_header_is_refused_quickly(shard, text):
    write(shard, text.encode(), 4)
    began = time.thread_time()
    assert read_or_refuse(shard) is None
    assert time.thread_time() - began < QUICK_SECONDS


@pytest.mark.parametrize("claimed", [MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_header_that_claims_100_mb_or_more_is_not_read(shard, claimed):
    write(shard, b"{}", 100, length=claimed)
    with pytest.raises(CorruptShard, match=f"{claimed} bytes|at least {8 + claimed}"):
        read_header(shard)


def test_a_header_of_more_than_100_mb_is_refused_without_being_read(shard):
    with shard.open("wb") as file:  # sparse: it takes no room
        file.write(struct.pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(8 + MAX_HEADER_BYTES + 1)
    began = time.thread_time()
    with pytest.raises(CorruptShard, match=f"claims {MAX_HEADER_BYTES + 1} bytes, at most {MAX_HEADER_BYTES}"):
        read_header(shard)
    assert time.thread_time() - began < QUICK_SECONDS


@pytest.mark.parametrize("text", ['{"a": ' + "9" * 5000 + "}", "[" * 200_000, '{"a": 1', "\x00", "3"])
def test_other_json_of_a_checkpoint_is_read_or_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_json(path)


@pytest.mark.parametrize("name", ["x" * 300 + ".safetensors", "\x00.safetensors", "\ud800.safetensors", "é/../é"])
def test_a_shard_that_no_file_system_can_hold_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CorruptShard, match=r"missing|plain file name|at most 255 bytes"):
        Checkpoint.open(tmp_path)


def test_an_index_of_many_shards_is_refused_quickly(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    listed = {f"t{number}": f"model-{number}.safetensors" for number in range(20_000)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    began = time.thread_time()
    with pytest.raises(CorruptShard, match="20000 problems") as told:
        Checkpoint.open(tmp_path)
    assert len(told.value.problems) == len(listed)
    assert time.thread_time() - began < QUICK_SECONDS
