"""`empelt lineage` and `empelt diff` as a shell sees them, on the demo family's models."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from deployments.command import app
from deployments.diffing import as_map
from deployments.spreading import spread
from tasks.engine.heatmap import Grid

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "infra" / "demo_family" / "models"
BASE, INSTRUCT, TUNED = (str(MODELS / name) for name in ("llama-tiny", "llama-tiny-instruct-v2", "eu_llama-tiny"))
OTHER = str(MODELS / "qwen3-tiny")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run_(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run_


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """In float32: a base, two copies, one with a part that was trained on, and one with broken values."""
    generator = np.random.default_rng(0)
    base = {f"layers.{k}.up.weight": generator.normal(0, 0.02, (64, 64)).astype(np.float32) for k in range(4)}
    tuned = {name: weight + generator.normal(0, 0.001, (64, 64)).astype(np.float32) for name, weight in base.items()}
    broken = {**base, "layers.2.up.weight": np.full((64, 64), np.nan, np.float32)}
    found = {}
    for name, weights in {"base": base, "copy": base, "tuned": tuned, "broken": broken}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        save_file(weights, folder / "model.safetensors")
        found[name] = str(folder)
    return found


# --- lineage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--candidates", INSTRUCT, BASE, "--json"],
        ["--json", "--candidates", INSTRUCT, BASE],
        ["--candidates", INSTRUCT, "--candidates", BASE, "--json"],
        ["--candidates", INSTRUCT, "--json", "--candidates", BASE],
        [f"--candidates={INSTRUCT}", BASE, "--json"],
    ],
)
def test_candidates_may_follow_one_option_or_several(run, options: list[str]):
    done = run("lineage", TUNED, *options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parent"] == BASE
    assert list(found["distances"]) == [BASE, INSTRUCT]
    first, second = found["distances"].values()
    assert found["margin"] == pytest.approx(1 - first / second)
    assert 0.1 < first < second < 0.13
    assert found["sigmas"] > 5


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["m", "--c", "a", "b"], ["m", "--c", "a", "--c", "b"]),
        (["m", "--c", "a", "--json", "b"], ["m", "--c", "a", "--json", "b"]),
        (["m", "--c=a", "b", "--d", "e"], ["m", "--c", "a", "--c", "b", "--d", "e"]),
        (["m", "--c"], ["m", "--c"]),
        (["m", "--c", "--json"], ["m", "--c", "--json"]),
        (["--d", "x", "m"], ["--d", "x", "m"]),
        (["--c", "a", "--", "m", "n"], ["--c", "a", "--", "m", "n"]),
    ],
)
def test_several_values_of_an_option_are_written_out(given: list[str], meant: list[str]):
    assert spread(given, {"--c"}) == meant


def test_people_are_told_the_distances_and_what_they_cannot_say(run):
    done = run("lineage", TUNED, "--candidates", INSTRUCT, BASE, OTHER, "nowhere")
    assert done.exit_code == 0
    assert done.stdout.index("0.114") < done.stdout.index("0.1156")
    assert f"parent: {BASE}, nearer than the next by 1.1%" in done.stdout
    assert "0 of 22 matrices" in done.stdout
    assert "no such folder" in done.stdout
    assert "A distance has no direction" in done.stdout


def test_an_undecided_parent_exits_with_2_and_says_why_on_both_outputs(run, models: dict[str, str]):
    done = run("lineage", models["tuned"], "--candidates", models["base"], models["copy"], "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert (found["parent"], found["margin"]) == (None, 0.0)
    assert found["distances"].keys() == {models["base"], models["copy"]}
    assert "are equal in all" in found["reason"]
    assert found["reason"] in done.stderr


def test_without_a_candidate_that_can_be_read_nothing_is_named(run):
    done = run("lineage", TUNED, "--candidates", OTHER, "nowhere", "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["parent"] is None
    assert found["incomparable"].keys() == {OTHER, "nowhere"}
    assert "no candidate could be compared" in done.stderr
    assert "no such folder" in done.stderr


def test_the_same_folder_twice_is_one_candidate(run):
    twice = f"{BASE}/../llama-tiny"
    done = run("lineage", TUNED, "--candidates", BASE, twice, BASE, INSTRUCT, "--json")
    found = json.loads(done.stdout)
    assert found["parent"] == BASE
    assert found["incomparable"] == {twice: f"the same folder as {BASE}"}


def test_a_candidate_that_is_the_model_itself_is_named_as_the_same(run, models: dict[str, str]):
    found = json.loads(run("lineage", models["copy"], "--candidates", models["tuned"], models["base"], "--json").stdout)
    assert found["same"] == [models["base"]]
    assert "the same model" in found["reason"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--candidates", BASE], "nowhere: no such folder"),
        (["--candidates", BASE, TUNED], "Missing argument"),
        ([TUNED], "Missing option"),
        ([TUNED, "--candidates"], "requires an argument"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_the_real_command(arguments: list[str], told: str):
    done = subprocess.run(
        [sys.executable, "-m", "deployments", "lineage", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert told in done.stderr
    assert "Traceback" not in done.stderr


# --- diff -----------------------------------------------------------------------------------------------------------------


def test_diff_tells_every_tensor_and_all_of_them(run):
    done = run("diff", BASE, INSTRUCT, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["tensors"]) == 29
    assert found["same_tensors"] is True
    embedding = next(tensor for tensor in found["tensors"] if "embed" in tensor["name"])
    a, b = (load_bf16(Path(folder) / "model.safetensors", embedding["name"]) for folder in (BASE, INSTRUCT))
    assert embedding["norm_delta"] == pytest.approx(np.linalg.norm(a - b))
    assert embedding["equal"] == np.mean(a == b)
    assert found["total"]["elements"] == sum(tensor["elements"] for tensor in found["tensors"])


def load_bf16(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.get_tensor(name).double().numpy()


def test_diff_shows_a_table_and_a_map_and_draws_a_picture(run, tmp_path: Path):
    png = tmp_path / "map.png"
    done = run("diff", BASE, TUNED, "--png", png)
    assert done.exit_code == 0, done.stderr
    assert "model.layers.2.self_attn.v_proj.weight" in done.stdout
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows["v_proj"] == ["20", "10", "11"]
    assert rows["embed_tokens"] == ["12"]
    assert str(png) in done.stdout
    assert image.imread(png).shape[0] > 300


def test_values_that_are_not_numbers_are_null_in_json(run, models: dict[str, str]):
    done = run("diff", models["base"], models["broken"], "--json")
    assert "NaN" not in done.stdout
    found = {tensor["name"]: tensor for tensor in json.loads(done.stdout)["tensors"]}
    assert found["layers.2.up.weight"]["norm_delta"] is None
    assert found["layers.1.up.weight"]["norm_delta"] == 0.0
    shown = run("diff", models["base"], models["broken"]).stdout
    assert [line.split()[1:] for line in shown.splitlines() if line.strip().startswith("up")] == [
        ["0", "0", "nan", "0"]
    ]


def test_what_only_one_of_them_has_is_listed(run, models: dict[str, str], tmp_path: Path):
    weights = load_file(Path(models["base"]) / "model.safetensors")
    more = tmp_path / "more"
    more.mkdir()
    (more / "config.json").write_text("{}")
    save_file({"head.weight": weights.pop("layers.0.up.weight"), **weights}, more / "model.safetensors")
    done = run("diff", models["base"], more)
    assert done.exit_code == 0
    assert "only in A: layers.0.up.weight (64, 64)" in done.stdout
    assert "only in B: head.weight (64, 64)" in done.stdout


def test_everything_wrong_is_refused_at_once_by_the_real_command(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "deployments", "diff", BASE, "nowhere", "--png", str(tmp_path / "no" / "x.png")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "x.png: expected a file name that ends in .png, in a folder that exists" in done.stderr
    assert "nowhere: no such folder" in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- the map in the terminal ----------------------------------------------------------------------------------------------


def test_a_wide_model_is_a_map_of_blocks_that_fits_the_terminal():
    rising = tuple(k / 79 for k in range(80))
    grid = Grid(("up", "some"), tuple(range(80)), (rising, (None, *rising[1:])), {"head": 0.5})
    lines = as_map(grid, 100).plain.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].split() == [str(k) for k in range(0, 80, 4)]
    up = next(line for line in lines if line.startswith("  up "))[5:]
    assert (up[0], up[-1]) == ("·", "█")
    assert up == "".join(sorted(up, key="·░▒▓█".index))
    assert next(line for line in lines if line.startswith("some "))[5] == " "
    assert lines[-1].strip() == "the darkest is 100 %"


def test_a_map_wider_than_the_terminal_goes_on_below():
    grid = Grid(("up",), tuple(range(30)), (tuple(0.01 * k for k in range(30)),), {})
    lines = as_map(grid, 23).plain.splitlines()[1:]
    assert max(map(len, lines)) <= 23
    assert [len(line) - 3 for line in lines if line.startswith("up ")] == [20, 10]
    assert as_map(Grid((), (), (), {}), 80).plain == ""
