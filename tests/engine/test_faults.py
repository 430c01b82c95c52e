"""Bad inputs and bad places: each is one error that names file, tensor and values, and nothing is left half-written."""

import json
import os
import resource
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tasks.engine.errors import (
    CheckpointError,
    ConfigMismatch,
    CorruptShard,
    DiskFull,
    DtypeMismatch,
    MergeError,
    MissingTensor,
    ShapeMismatch,
    WriteError,
)
from tasks.engine.merge import merge_config, merge_configs
from tasks.engine.methods.operation import BLOCK_ELEMENTS
from tasks.engine.methods.table import TABLE
from tests.engine.folders import end_of, in_child, model_count, plain, recipe_for, scratch, tensors, write_folder

SHAPES = {
    "model.embed_tokens.weight": (24, 8),
    "model.layers.0.mlp.up_proj.weight": (3 * BLOCK_ELEMENTS // 64 + 5, 64),
    "model.layers.1.mlp.up_proj.weight": (3 * BLOCK_ELEMENTS // 64 + 5, 64),
    "model.norm.weight": (8,),
}
LAST = "model.layers.1.mlp.up_proj.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NOBODY = 65534


class Place:
    """Three models in a folder of their own, and what a refused merge of them must not have changed."""

    def __init__(self, root, dtype="BF16", shards=1):
        self.root, self.out = root, root / "out"
        self.base, self.one, self.two = (
            write_folder(root / role, tensors(seed, SHAPES), dtype, shards=shards)
            for seed, role in enumerate(("base", "one", "two"))
        )

    def recipe(self, method="task_arithmetic", **more):
        spec = TABLE[method]
        models = [self.one, self.two][: model_count(spec)]
        parameters = {name: plain(parameter) for name, parameter in spec.parameters.items()}
        # layer_swap and language_graft: base, instruct and language.
        apart = (self.one, [self.two][: model_count(spec)] or [self.two]) if spec.instruct_apart else (self.one, models)
        return recipe_for(spec, self.base, apart[0], apart[1], {**parameters, **more.pop("parameters", {})}, **more)

    def files(self):
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}

    def refused(self, kind, *words, config=None, **options):
        """Merge; it must be refused with this class and these words, and leave all as it was."""
        before = self.files()
        with pytest.raises(MergeError) as told:
            merge_config(config or self.recipe(), self.out, **options)
        assert type(told.value) is kind, told.value
        for word in words:
            assert str(word) in str(told.value)
        assert self.files() == before
        return told.value


@pytest.fixture
def root():
    with scratch() as folder:
        yield folder


@pytest.fixture
def place(root):
    return Place(root)


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


# Numbers


METHODS = [
    "task_arithmetic",
    "linear",
    "ties",
    "dare_linear",
    "della",
    "slerp",
    "model_stock",
    "nearswap",
    "layer_swap",
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "BF16"), (np.inf, "F32"), (-np.inf, "F16"), (np.nan, "F64")])
def test_what_is_not_finite_is_told_with_file_tensor_and_element(root, method, value, dtype):
    place = Place(root, dtype)
    wrong = tensors(1, SHAPES)
    element = 2 * BLOCK_ELEMENTS + 4321
    wrong[LAST].reshape(-1)[element] = value
    shutil.rmtree(place.one)
    write_folder(place.one, wrong, dtype)
    config = place.recipe(method, parameters={"bottom": 0, "top": 0} if method == "layer_swap" else {})
    place.refused(CheckpointError, place.one / SINGLE, f"{LAST} has {value} at element {element}", config=config)


def test_what_is_not_finite_is_seen_in_rows_and_tensors_that_are_copied(place):
    wrong = tensors(1, SHAPES)
    wrong["model.embed_tokens.weight"][20, 3] = np.nan
    shutil.rmtree(place.one)
    write_folder(place.one, wrong, "BF16")
    for folder in (place.base, place.one, place.two):  # rows 20 to 23 have no token
        vocab = {f"w{number}": number for number in range(20)}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": []}))
    (place.one / "chat_template.jinja").write_text("{{ messages }}")
    # The embeddings are the language model's; only the copied rows come from the instruct model.
    config = place.recipe("layer_swap", special_rows="instruct")
    place.refused(
        CheckpointError, place.one / SINGLE, "model.embed_tokens.weight has nan at element 163", config=config
    )


def test_what_is_not_finite_is_told_with_its_element_by_the_check_of_parents_too(place):
    wrong = tensors(1, SHAPES)
    wrong[LAST][:] = np.inf
    shutil.rmtree(place.one)
    write_folder(place.one, wrong, "BF16")
    config = place.recipe(allow_foreign_parent=False)
    place.refused(CheckpointError, place.one / SINGLE, f"{LAST} has inf at element", config=config)


def test_a_number_beyond_float32_is_told_as_such(root):
    place = Place(root, "F64")
    wrong = {name: tensor.astype(np.float64) for name, tensor in tensors(1, SHAPES).items()}
    wrong[LAST].reshape(-1)[5] = -1e300
    shutil.rmtree(place.one)
    write_folder(place.one, wrong, "F64")
    place.refused(CheckpointError, f"{LAST} has -inf at element 5", "beyond float32")


@pytest.mark.parametrize(
    ("dtype", "value", "weight", "result"), [("F16", 60000.0, 2.0, 120000.0), ("BF16", 3e38, 3.0, np.inf)]
)
def test_a_result_that_its_type_cannot_hold_is_told_with_element_and_value(root, dtype, value, weight, result):
    place = Place(root, "F32")
    large = {name: np.zeros_like(tensor) for name, tensor in tensors(0, SHAPES).items()}
    shutil.rmtree(place.base)
    write_folder(place.base, large, "F32")
    large[LAST].reshape(-1)[BLOCK_ELEMENTS + 7] = value
    shutil.rmtree(place.one)
    write_folder(place.one, large, "F32")
    out_dtype = {"F16": "float16", "BF16": "bfloat16"}[dtype]
    config = place.recipe(out_dtype=out_dtype, parameters={"weights": [weight, 0.0]})
    words = f"{LAST}: the merged value at element {BLOCK_ELEMENTS + 7} is {result}, expected a finite {dtype}"
    place.refused(CheckpointError, words, config=config)


# Places


def mounted(folder, size):
    """Whether a file system of this size could be put there."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and not subprocess.run(command, capture_output=True, check=False).returncode


@pytest.fixture
def small_disk(root):
    """A file system with room for one merge and little more."""
    folder = root / "disk"
    folder.mkdir()
    if not mounted(folder, "1500k"):
        pytest.skip("mounting a tmpfs takes rights that this user lacks; a limit on file size stands in below")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_during_the_merge_leaves_nothing(place, small_disk):
    def fill(progress):
        with (small_disk / "ballast").open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass

    with pytest.raises(DiskFull, match=r"model\.safetensors\.index\.json: the file system filled up"):
        merge_config(place.recipe(), small_disk / "out", max_shard_bytes=300_000, on_progress=fill)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_disk_that_is_too_small_for_two_outputs_leaves_neither(place, small_disk):
    configs = {small_disk / "out-1": place.recipe(), small_disk / "out-2": place.recipe("ties")}
    with pytest.raises(DiskFull, match=r"out-2.*bytes"):
        merge_configs(configs)
    assert list(small_disk.iterdir()) == []


def test_a_limit_on_file_size_ends_the_merge_and_leaves_nothing(place):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        with pytest.raises(WriteError, match=r"out/model\.safetensors: cannot be written: File too large"):
            merge_config(place.recipe(), place.out)

    before = place.files()
    assert end_of(in_child(limited)) == 0
    assert place.files() == before


def test_an_output_that_exists_in_any_form_is_not_touched(place):
    for make in (Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")):
        make(place.out)
        place.refused(WriteError, f"{place.out}: exists already", "never overwrites")
        place.out.rmdir() if place.out.is_dir() else place.out.unlink()


def test_an_output_whose_parent_is_missing_or_no_folder_is_refused(place):
    (place.root / "file").touch()
    for parent in (place.root / "none" / "at" / "all", place.root / "file"):
        with pytest.raises(WriteError, match=f"{parent / 'out'}: its parent folder {parent} does not exist"):
            merge_config(place.recipe(), parent / "out")


def as_nobody(work):
    """Do this as a user without rights: root is stopped by no mode."""

    def with_less():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work()

    return end_of(in_child(with_less))


@pytest.fixture
def open_place(place):
    """Others may read it."""
    for path in [place.root, *place.root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return place


def test_an_output_folder_that_may_not_be_written_is_refused(open_place):
    (open_place.root / "closed").mkdir(mode=0o555)

    def refused():
        with pytest.raises(WriteError, match=r"closed/out: cannot be written: Permission denied"):
            merge_config(open_place.recipe(), open_place.root / "closed" / "out")

    assert as_nobody(refused) == 0
    assert list((open_place.root / "closed").iterdir()) == []


@pytest.mark.parametrize("name", [SINGLE, "config.json", "generation_config.json", "tokenizer.json"])
def test_an_input_that_may_not_be_read_is_refused(open_place, name):
    (open_place.root / "writable").mkdir()
    (open_place.root / "writable").chmod(0o777)
    path = open_place.one / name
    path.write_text("{}") if not path.exists() else None
    path.chmod(0)

    def refused():
        with pytest.raises(CheckpointError, match=f"one/{name}: cannot be read: Permission denied"):
            merge_config(open_place.recipe(), open_place.root / "writable" / "out")

    assert as_nobody(refused) == 0
    assert list((open_place.root / "writable").iterdir()) == []


def test_of_several_outputs_none_appears_when_one_place_is_taken(place):
    configs = {place.root / f"out-{number}": place.recipe() for number in (1, 2)}
    (place.root / "out-2").mkdir()
    with pytest.raises(WriteError, match="out-2: exists already"):
        merge_configs(configs)
    assert not (place.root / "out-1").exists()
    (place.root / "out-2").rmdir()
    with pytest.raises(WriteError, match="out-2: was created by somebody else"):
        merge_configs(configs, on_progress=lambda progress: (place.root / "out-2").mkdir(exist_ok=True))
    assert sorted(path.name for path in place.root.glob("*out*")) == ["out-2"]
    assert list((place.root / "out-2").iterdir()) == []
