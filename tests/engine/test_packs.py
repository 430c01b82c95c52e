"""Packed checkpoints: every byte comes back, merges give the same bytes, and damage is named by file, tensor and frame."""

import json
import os
import shutil
import signal
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.engine.checkpoint import Checkpoint
from tasks.engine.diff import diff
from tasks.engine.errors import CheckpointError, CorruptShard, MergeError, WriteError
from tasks.engine.header import ITEM_BYTES
from tasks.engine.merge import merge_config
from tasks.engine.methods.table import TABLE
from tasks.engine.packs.codec import codec_of, join, split
from tasks.engine.packs.form import MAGIC, PACK, PARENT, read_head
from tasks.engine.packs.reading import BITS
from tasks.engine.packs.writing import pack, unpack
from tasks.engine.reading import ShardFiles
from tests.engine.folders import end_of, in_child, numbers, recipe_for, stated, tensors, write_folder

DIGEST = "d" * 64
METHODS = ("linear", "task_arithmetic", "ties", "dare_linear", "della", "slerp", "model_stock", "breadcrumbs")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def raw_folder(folder: Path, entries: dict[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    """One file of tensors of any type, written by hand: name -> (dtype, shape, bytes)."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, data = 0, b""
    for name, (dtype, shape, content) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(content)]}
        at, data = at + len(content), data + content
    told = json.dumps(header).encode() + b"   "
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(told)) + told + data)
    return folder


# --- the codec --------------------------------------------------------------------------------------------------------
@settings(deadline=None)
@given(data=st.data(), size=st.sampled_from([1, 2, 4, 8]), count=st.integers(0, 70))
def test_a_block_comes_back_by_every_codec(data: st.DataObject, size: int, count: int):
    ours, parent = (
        np.frombuffer(data.draw(st.binary(min_size=size * count, max_size=size * count)), BITS[size]).copy()
        for _ in "ab"
    )
    for codec, other in (("ulp", parent), ("xor", parent), ("planes", None)):
        planes = split(codec, ours, other)
        assert planes.nbytes == ours.nbytes
        out = np.empty_like(ours)
        join(codec, planes, other, out)
        assert (out == ours).all()


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_next_number_is_one_step_away_across_zero_and_both_signs(size: int):
    top = 1 << (8 * size - 1)
    order = np.array([top + 2, top + 1, top, 0, 1, 2], BITS[size])  # -2 steps, -1 step, -0, +0, 1 step, 2 steps
    planes = split("ulp", order[1:].copy(), order[:-1].copy())
    assert planes.tolist() == [2] * 5 + [0] * 5 * (size - 1)  # +1, with the sign in the lowest bit


# --- whole checkpoints ------------------------------------------------------------------------------------------------
DTYPES = sorted(ITEM_BYTES)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Child and parent: tensors of any type and shape, some of them only in one, or of more rows, or another type."""
    child, parent = {}, {}
    for number in range(draw(st.integers(1, 4))):
        dtype, name = draw(st.sampled_from(DTYPES)), f"t{number}"
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        size = int(np.prod(shape)) * ITEM_BYTES[dtype]
        child[name] = dtype, shape, draw(st.binary(min_size=size, max_size=size))
        how = draw(st.sampled_from(["alike", "absent", "fewer rows", "more rows", "another type"]))
        if how == "absent":
            continue
        theirs = shape
        if shape and how != "alike":
            theirs = (max(0, shape[0] + (-1 if how == "fewer rows" else 1 if how == "more rows" else 0)), *shape[1:])
        type_of = "I64" if how == "another type" and dtype != "I64" else dtype
        count = int(np.prod(theirs)) * ITEM_BYTES[type_of]
        parent[name] = type_of, theirs, draw(st.binary(min_size=count, max_size=count))
    return child, parent or {"other": ("U8", (1,), b"x")}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pair=pairs())
def test_any_tensors_come_back_byte_for_byte(pair: tuple[dict[str, Any], dict[str, Any]]):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        child, parent = raw_folder(root / "child", pair[0]), raw_folder(root / "parent", pair[1])
        report = pack(child, parent, root / "packed", digest=DIGEST)
        assert read_head(root / "packed" / PACK).parent == DIGEST
        assert report.raw_bytes == (child / "model.safetensors").stat().st_size
        unpack(root / "packed", root / "again", threads=2)
        assert contents(root / "again") == contents(child)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Base, instruct model, two tuned bases in shards with files beside them, and both packed."""
    root = tmp_path_factory.mktemp("packs")
    base = tensors(1)
    found = {"base": write_folder(root / "base", base, "BF16", shards=2)}
    for place, name in enumerate(("instruct", "eu", "ca")):
        moved = {
            key: value + 0.02 * numbers(value.shape, 50 * place + k) for k, (key, value) in enumerate(base.items())
        }
        found[name] = write_folder(root / name, moved, "BF16", shards=2)
    (found["eu"] / "deeper").mkdir()
    (found["eu"] / "deeper" / "note.txt").write_text("ñ")
    for name in ("eu", "ca"):
        pack(found[name], found["base"], root / f"{name}-packed", digest=DIGEST, threads=2)
        found[f"{name}-packed"] = root / f"{name}-packed"
    return found


def test_the_files_beside_the_weights_and_all_shards_come_back(models: dict[str, Path], tmp_path: Path):
    packed = contents(models["eu-packed"])
    assert {name for name in packed if name.endswith(".safetensors")} == set()
    assert packed["deeper/note.txt"] == "ñ".encode()
    unpack(models["eu-packed"], tmp_path / "again")
    assert contents(tmp_path / "again") == contents(models["eu"])


def test_a_packed_checkpoint_reads_as_the_raw_one(models: dict[str, Path]):
    raw, packed = Checkpoint.open(models["eu"]), Checkpoint.open(models["eu-packed"])
    assert [(s.name, s.dtype, s.shape) for s in raw.tensors.values()] == [
        (s.name, s.dtype, s.shape) for s in packed.tensors.values()
    ]
    with ShardFiles() as files:
        for name, spec in raw.tensors.items():
            for start in range(0, spec.elements, max(1, spec.elements // 3)):
                stop = min(spec.elements, start + max(1, spec.elements // 2))
                ours, theirs = (files.bytes_of(one.tensors[name], start, stop) for one in (packed, raw))
                assert ours == theirs, (name, start, stop)
    assert {one.equal for one in diff(raw, packed, threads=2).tensors} == {1.0}


@pytest.mark.parametrize("method", [name for name in METHODS if name in TABLE])
def test_a_merge_of_packed_bases_has_the_same_bytes(models: dict[str, Path], tmp_path: Path, method: str):
    spec = TABLE[method]
    count = 1 if spec.most == 1 else max(spec.fewest, 2)
    outs = {}
    for kind in ("", "-packed"):
        tuned = [models[f"{name}{kind}"] for name in ("eu", "ca")][:count]
        config = recipe_for(spec, models["base"], models["instruct"], tuned, stated(spec, busy=True))
        outs[kind] = merge_config(config, tmp_path / f"out{kind}", threads=2).files
    assert outs[""] == outs["-packed"]


def test_a_merge_of_packed_bases_that_was_killed_is_gone_on_with(models: dict[str, Path], tmp_path: Path):
    spec = TABLE["ties"]

    def config(kind: str) -> Any:
        tuned = [models[f"{name}{kind}"] for name in ("eu", "ca")]
        return recipe_for(spec, models["base"], models["instruct"], tuned, {"weight": 0.6, "density": 0.4})

    options = {"journal_bytes": 1 << 16, "max_shard_bytes": 200_000, "threads": 1}
    expected = merge_config(config(""), tmp_path / "raw", **options).files

    def die(progress: Any) -> None:
        if progress.done_bytes >= 0.6 * progress.total_bytes:
            os.kill(os.getpid(), signal.SIGKILL)

    out = tmp_path / "out"
    assert end_of(in_child(lambda: merge_config(config("-packed"), out, on_progress=die, **options))) == -signal.SIGKILL
    assert not out.exists()
    report = merge_config(config("-packed"), out, **options)
    assert report.files == expected
    assert report.resumed_bytes > 0


# --- refusals ---------------------------------------------------------------------------------------------------------
def whole_again(folder: Path, out: Path) -> dict[str, bytes]:
    unpack(folder, out)
    return contents(out)


@settings(max_examples=40, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_by_name(models: dict[str, Path], where: float, bit: int):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "packed"
        shutil.copytree(models["eu-packed"], folder)
        (folder / PARENT).write_text(str(models["base"]))
        content = bytearray((folder / PACK).read_bytes())
        content[int(where * len(content))] ^= 1 << bit
        (folder / PACK).write_bytes(content)
        with pytest.raises(CorruptShard, match=r"weights\.lbd|model-0000"):
            unpack(folder, Path(place) / "out")
        assert not (Path(place) / "out").exists()


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_pack_that_was_cut_is_refused(models: dict[str, Path], share: float):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "packed"
        shutil.copytree(models["eu-packed"], folder)
        (folder / PARENT).write_text(str(models["base"]))
        os.truncate(folder / PACK, int(share * (folder / PACK).stat().st_size))
        with pytest.raises(CorruptShard, match=r"weights\.lbd: (cut|\d+ bytes)"):
            Checkpoint.open(folder)


@pytest.fixture
def packed(models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy with a copy of the parent."""
    shutil.copytree(models["base"], tmp_path / "base")
    shutil.copytree(models["eu-packed"], tmp_path / "packed")
    (tmp_path / "packed" / PARENT).write_text("../base\n")
    return tmp_path / "packed"


def test_a_damaged_frame_is_named_with_its_tensor_and_a_merge_leaves_nothing(
    packed: Path, models: dict[str, Path], tmp_path: Path
):
    head = read_head(packed / PACK)
    name = "model.rows.long"
    frame = head.tensors[name].frames[1]
    content = bytearray((packed / PACK).read_bytes())
    content[(frame.begin + frame.end) // 2] ^= 0x10
    (packed / PACK).write_bytes(content)
    config = recipe_for(TABLE["linear"], models["base"], models["instruct"], [packed], {"weight": 0.5})
    with pytest.raises(CorruptShard) as refusal:
        merge_config(config, tmp_path / "out")
    for words in (PACK, name, f"frame 1, elements {frame.first} to {frame.stop}", "damaged"):
        assert words in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_another_parent_of_the_same_shape_is_noticed(packed: Path, models: dict[str, Path], tmp_path: Path):
    for shard in models["instruct"].glob("*.safetensors"):
        shutil.copyfile(shard, tmp_path / "base" / shard.name)
    with pytest.raises(CorruptShard, match=r"frame 0, .*its parent .*model-0000.* is not as it was: CRC-32"):
        unpack(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_parent_that_lacks_a_tensor_or_is_not_there_is_named(packed: Path, tmp_path: Path):
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(CheckpointError, match="base: no such folder"):
        Checkpoint.open(packed)
    write_folder(tmp_path / "base", {"model.norm.weight": numbers((24,), 1)}, "BF16")
    with pytest.raises(CorruptShard, match=r"model\.rows\.cube .*the parent has no such tensor"):
        Checkpoint.open(packed)
    (packed / PARENT).unlink()
    with pytest.raises(CheckpointError, match=rf"{PARENT}: cannot be read"):
        Checkpoint.open(packed)


def test_what_is_packed_is_not_packed_again_nor_packed_against(models: dict[str, Path], tmp_path: Path):
    for folder, parent in (("eu-packed", "base"), ("ca", "eu-packed")):
        with pytest.raises(CheckpointError, match="is packed already"):
            pack(models[folder], models[parent], tmp_path / "out", digest=DIGEST)
    (tmp_path / "out").mkdir()
    with pytest.raises(WriteError, match="cannot be made"):
        pack(models["eu"], models["base"], tmp_path / "out", digest=DIGEST)
    with pytest.raises(CheckpointError, match="nothing to unpack"):
        unpack(models["eu"], tmp_path / "other")


def test_a_folder_with_both_forms_is_refused(packed: Path, models: dict[str, Path]):
    shard = next(models["eu"].glob("*.safetensors"))
    shutil.copyfile(shard, packed / shard.name)
    with pytest.raises(CheckpointError, match=rf"has both {PACK} and {shard.name}"):
        Checkpoint.open(packed)


def test_a_file_beside_the_weights_that_was_changed_is_refused(packed: Path, tmp_path: Path):
    (packed / "config.json").write_text("{}")
    with pytest.raises(MergeError, match=r"config\.json: sha256"):
        unpack(packed, tmp_path / "out")


def test_the_form_is_what_it_says(models: dict[str, Path]):
    content = (models["eu-packed"] / PACK).read_bytes()
    assert content[:16] == content[-16:] == MAGIC
    head = read_head(models["eu-packed"] / PACK)
    assert {codec_of("BF16"), codec_of("F8_E4M3")} == {"ulp", "xor"}
    assert head.tensors["model.norm.weight"].common == 24
    stops = [frame.stop for frame in head.tensors["model.rows.long"].frames]
    assert len(stops) == 3
