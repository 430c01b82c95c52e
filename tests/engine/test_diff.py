"""Two checkpoints compared: every figure against plain numpy, whatever the blocks; and the pictures of it."""

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image
from safetensors.torch import save_file

from tasks.engine import diff as diff_module
from tasks.engine import sums as sums_module
from tasks.engine.checkpoint import Checkpoint
from tasks.engine.diff import Diff, TensorDiff, diff
from tasks.engine.errors import CorruptShard, WriteError
from tasks.engine.heatmap import Grid, draw_png, grid_of, percent, shade_of

ROOT = Path(__file__).parents[2]
Open = Callable[..., Checkpoint]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_(name: str, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        save_file(dict(tensors), folder / "model.safetensors")
        return Checkpoint.open(folder)

    return open_


def numbers(seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.02, shape)).to(dtype)


def pair(dtype: torch.dtype, other: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A few tensors, the second model near the first, some elements equal."""
    shapes = {"layers.0.up.weight": (70, 130), "layers.1.up.weight": (70, 130), "norm.weight": (33,), "scalar": ()}
    one = {name: numbers(k, *shape, dtype=dtype) for k, (name, shape) in enumerate(shapes.items())}
    two = {
        name: (
            t.double()
            + numbers(9, *t.shape, dtype=torch.float64) * 0.1 * (torch.arange(t.numel()).reshape(t.shape) % 3)
        )
        for name, t in one.items()
    }
    return one, {name: t.to(other) for name, t in two.items()}


@pytest.mark.parametrize(
    ("dtype", "other"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.float32),
    ],
)
@pytest.mark.parametrize("block", [1 << 20, 1000])
def test_every_figure_is_that_of_plain_numpy(
    opened: Open, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, other: torch.dtype, block: int
):
    monkeypatch.setattr(diff_module, "BLOCK", block)
    if block == 1000:
        monkeypatch.setattr(sums_module, "PIECE", 256)
        monkeypatch.setattr(sums_module, "ROW", 64)
    one, two = pair(dtype, other)
    found = diff(opened("a", one), opened("b", two))
    assert {tensor.name for tensor in found.tensors} == set(one)
    for tensor in (*found.tensors, found.total):
        names = list(one) if tensor.name == "all" else [tensor.name]
        a, b = (np.concatenate([m[name].double().numpy().ravel() for name in names]) for m in (one, two))
        assert tensor.elements == len(a)
        assert tensor.norm_a == pytest.approx(np.linalg.norm(a), rel=1e-13)
        assert tensor.norm_b == pytest.approx(np.linalg.norm(b), rel=1e-13)
        assert tensor.norm_delta == pytest.approx(np.linalg.norm(a - b), rel=1e-13)
        assert tensor.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-13)
        assert tensor.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-13)
        assert tensor.equal == np.mean(a == b)
        assert tensor.max_abs == np.abs(a - b).max()
    assert (found.tensors[0].dtype_a, found.tensors[0].dtype_b) == tuple(
        {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32", torch.float64: "F64"}[t]
        for t in (dtype, other)
    )


def test_the_number_of_threads_changes_no_bit(opened: Open, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diff_module, "BLOCK", 500)
    one, two = pair(torch.bfloat16, torch.bfloat16)
    a, b = opened("a", one), opened("b", two)
    assert diff(a, b, threads=1) == diff(a, b, threads=2) == diff(a, b, threads=7)


def test_a_small_difference_between_large_numbers_is_not_lost(opened: Open):
    large = torch.full((40_000,), 2.0**20)
    near = large.clone()
    near[123] += 0.125
    (found,) = diff(opened("a", {"t": large}), opened("b", {"t": near})).tensors
    assert found.norm_delta == 0.125
    assert found.max_abs == 0.125
    assert found.equal == 39_999 / 40_000


def test_equal_models_differ_in_nothing(opened: Open):
    one, _ = pair(torch.bfloat16, torch.bfloat16)
    found = diff(opened("a", one), opened("b", one))
    assert found.same_tensors
    for tensor in (*found.tensors, found.total):
        assert (tensor.relative, tensor.cosine, tensor.equal, tensor.max_abs) == (0.0, pytest.approx(1.0), 1.0, 0.0)
        assert tensor.cosine is not None
        assert tensor.cosine <= 1


def test_a_tensor_of_zeros_has_no_ratio_and_an_empty_one_is_equal(opened: Open):
    a = {"zero": torch.zeros(5), "empty": torch.zeros(0, 4)}
    found = {tensor.name: tensor for tensor in diff(opened("a", a), opened("b", {**a, "zero": torch.ones(5)})).tensors}
    assert (found["zero"].relative, found["zero"].cosine, found["zero"].equal) == (None, None, 0.0)
    assert (found["empty"].relative, found["empty"].equal, found["empty"].elements) == (None, 1.0, 0)


def test_what_is_not_in_both_or_not_alike_is_listed(opened: Open):
    shared = {"same": numbers(0, 4, 4), "ids": torch.arange(6), "masks": torch.tensor([True, False])}
    a = {**shared, "gone": numbers(1, 3), "wide": numbers(2, 4, 8), "cast": numbers(3, 5), "odd": torch.arange(3)}
    b = {
        **shared,
        "ids": torch.arange(6) + 1,
        "new": numbers(1, 2),
        "wide": numbers(2, 4, 4),
        "cast": a["cast"].float(),
        "odd": numbers(0, 3),
    }
    found = diff(opened("a", a), opened("b", b))
    assert found.only_a == {"gone": (3,)}
    assert found.only_b == {"new": (2,)}
    assert found.shapes == {"wide": ((4, 8), (4, 4))}
    assert found.dtypes == {"cast": ("BF16", "F32"), "odd": ("I64", "BF16")}
    assert {tensor.name for tensor in found.tensors} == {"cast", "same"}
    assert next(tensor for tensor in found.tensors if tensor.name == "cast").equal == 1.0
    assert found.opaque.keys() == {"ids", "masks", "odd"}
    assert found.opaque["ids"].endswith("the bytes differ")
    assert found.opaque["masks"].endswith("the bytes are equal")
    assert "I64 and BF16" in found.opaque["odd"]
    assert not found.same_tensors


def test_values_that_are_not_numbers_show_and_hide_nothing_else(opened: Open):
    one, two = pair(torch.bfloat16, torch.bfloat16)
    two["layers.0.up.weight"][3, 3] = torch.nan
    two["norm.weight"][0], two["norm.weight"][1] = torch.inf, -torch.inf
    found = {tensor.name: tensor for tensor in diff(opened("a", one), opened("b", two)).tensors}
    assert math.isnan(found["layers.0.up.weight"].norm_delta)
    assert math.isnan(found["layers.0.up.weight"].max_abs)
    assert math.isinf(found["norm.weight"].norm_delta)
    assert math.isfinite(found["layers.1.up.weight"].norm_delta)


def test_progress_counts_every_byte_of_both(opened: Open, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diff_module, "BLOCK", 4000)
    one, two = pair(torch.bfloat16, torch.float32)
    told: list[tuple[int, int]] = []
    diff(opened("a", one), opened("b", two), on_read=lambda done, total: told.append((done, total)))
    size = sum(6 * tensor.numel() for tensor in one.values())
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_what_progress_raises_ends_the_comparison(opened: Open, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diff_module, "BLOCK", 100)
    one, two = pair(torch.bfloat16, torch.bfloat16)
    calls = []

    def enough(done: int, total: int) -> None:
        calls.append(done)
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError):
        diff(opened("a", one), opened("b", two), on_read=enough)
    assert len(calls) <= 2, "each of the two threads stops at its next block"


def test_a_file_that_was_cut_after_it_was_opened_is_an_error(opened: Open):
    one, two = pair(torch.bfloat16, torch.bfloat16)
    a, b = opened("a", one), opened("b", two)
    with (b.path / "model.safetensors").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(CorruptShard, match=r"b/model\.safetensors: .* ends \d+ bytes early"):
        diff(a, b)


PEAK = """
import sys
from pathlib import Path
from tasks.engine.checkpoint import Checkpoint
from tasks.engine.diff import diff
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
small, large = ([Checkpoint.open(Path(p)) for p in sys.argv[k : k + 2]] for k in (1, 3))
diff(*small)
before = peak()
diff(*large)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_model(tmp_path: Path):
    def sparse(name: str, elements: int) -> str:
        header = json.dumps({"t": {"dtype": "BF16", "shape": [elements], "data_offsets": [0, 2 * elements]}}).encode()
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 2 * elements)
        return str(folder)

    paths = [sparse(f"{size}-{k}", size) for size in (1 << 22, 1 << 26) for k in range(2)]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    # Two models of 128 MB more each; kilobytes.
    assert int(done.stdout) < 10_000


# --- the map --------------------------------------------------------------------------------------------------------------


def tensor(name: str, relative: float, length: float = 1.0, shape: tuple[int, ...] = (2, 2)) -> TensorDiff:
    values = {"norm_a": length, "norm_b": length, "norm_delta": relative * length, "relative": relative}
    return TensorDiff(name, shape, "BF16", "BF16", 4, cosine=1.0, equal=0.0, max_abs=0.0, **values)


def compared(*tensors: TensorDiff) -> Diff:
    return Diff(tensors, tensors[0], {}, {}, {}, {}, {})


def test_the_map_has_a_row_for_each_kind_and_a_column_for_each_layer():
    grid = grid_of(
        compared(
            tensor("model.embed_tokens.weight", 0.5),
            *(tensor(f"model.layers.{k}.self_attn.q_proj.weight", 0.01 * k) for k in (0, 1, 2, 10)),
            *(tensor(f"model.layers.{k}.norm.weight", 0.001, shape=(2,)) for k in (0, 1, 2, 10)),
            tensor("model.layers.10.mlp.up_proj.weight", 0.3),
            tensor("lm_head.weight", 0.7),
        )
    )
    assert grid.kinds == ("up_proj", "q_proj", "norm")
    assert grid.layers == (0, 1, 2, 10)
    assert grid.cells[0] == (None, None, None, 0.3)
    assert grid.cells[1] == pytest.approx((0.0, 0.01, 0.02, 0.1))
    assert grid.outside == {"embed_tokens": 0.5, "lm_head": 0.7}
    assert grid.largest == 0.7


def test_experts_are_one_cell_weighted_by_their_lengths():
    grid = grid_of(
        compared(
            tensor("layers.0.experts.0.up.weight", 0.3, length=1.0),
            tensor("layers.0.experts.1.up.weight", 0.1, length=3.0),
        )
    )
    assert grid.cells == ((pytest.approx(math.sqrt(0.09 + 0.09) / math.sqrt(10)),),)


def test_names_are_as_short_as_they_can_be_told_apart():
    grid = grid_of(
        compared(
            *(
                tensor(f"model.layers.0.{name}", 0.1)
                for name in (
                    "self_attn.q_proj.weight",
                    "cross_attn.q_proj.weight",
                    "mlp.up_proj.weight",
                    "mlp.up_proj.bias",
                )
            )
        )
    )
    assert set(grid.kinds) == {"self_attn.q_proj", "cross_attn.q_proj", "up_proj", "up_proj.bias"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.00001, "tiny"), (0.0003, "0.03"), (0.0099, "0.99"), (0.0312, "3.1"), (0.12, "12"), (1.41, "141"),
     (math.nan, "nan"), (math.inf, "inf"), (123.0, "much")],
)  # fmt: skip
def test_a_cell_has_four_characters(value: float, shown: str):
    assert percent(value) == shown


def test_shades_go_from_none_to_the_largest():
    assert [shade_of(value, 0.5) for value in (0.0, 0.125, 0.5)] == [0.0, 0.5, 1.0]
    assert shade_of(0.0, 0.0) == 0.0


GRID = Grid(("q_proj", "norm"), (0, 1, 2), ((0.0, 0.1, 0.4), (0.01, None, math.nan)), {"embed_tokens": 0.2})


@pytest.mark.parametrize("layers", [3, 80])
def test_the_picture_is_darker_where_models_differ_more(tmp_path: Path, layers: int):
    rising = tuple(k / (layers - 1) for k in range(layers))
    draw_png(Grid(("q_proj",), tuple(range(layers)), (rising,), {}), tmp_path / "map.png", "a and b")
    pixels = image.imread(tmp_path / "map.png")[:, :, :3]
    # The row of cells: those pixel rows in which the most pixels are blue.
    blue = (pixels[:, :, 2] - pixels[:, :, 0] > 0.02).sum(axis=1)
    band = np.flatnonzero(blue == blue.max())
    row = pixels[band[len(band) // 4]]
    inside = np.flatnonzero(row[:, 2] - row[:, 0] > 0.02)
    dark = row.sum(axis=1)
    quarters = [dark[inside[int(len(inside) * share)]] for share in (0.08, 0.5, 0.95)]
    assert quarters == sorted(quarters, reverse=True)
    assert quarters[0] - quarters[-1] > 1


def test_the_same_comparison_gives_the_same_picture_and_leaves_nothing_else(tmp_path: Path):
    for name in ("one.png", "two.png"):
        draw_png(GRID, tmp_path / name, "a and b", "told")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_a_picture_without_layers_is_drawn_too(tmp_path: Path):
    draw_png(Grid((), (), (), {"w": 0.0}), tmp_path / "map.png", "a and b")
    assert image.imread(tmp_path / "map.png").shape[2] == 4


def test_a_picture_that_has_no_place_is_refused(tmp_path: Path):
    with pytest.raises(WriteError, match=r"nowhere/map\.png: the picture cannot be written: No such file"):
        draw_png(GRID, tmp_path / "nowhere" / "map.png", "a and b")
    assert list(tmp_path.iterdir()) == []
