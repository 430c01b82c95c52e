"""Norms of a checkpoint, in a process of their own: every element counts, and a broken one shows."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.engine.norms import norms

VALUES = np.random.default_rng(1).standard_normal((700, 1500)).astype(np.float32)
"""More than one block of elements."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    small = np.array([3.0, 4.0], np.float16)
    save_file({"large": VALUES, "small": small}, tmp_path / "model.safetensors")
    return tmp_path


def run(*folders: Path) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "tasks.engine.norms", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_the_norm_is_that_of_all_elements(folder: Path) -> None:
    found = norms(folder)
    assert found["small"] == 5.0
    assert found["large"] == pytest.approx(float(np.linalg.norm(VALUES.astype(np.float64))), rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_element_shows(folder: Path, bad: float) -> None:
    broken = VALUES.copy()
    broken[-1, -1] = bad
    save_file({"large": broken, "small": VALUES[0]}, folder / "model.safetensors")
    code, told = run(folder)
    assert code == 0
    large = told["norms"][str(folder)]["large"]  # type: ignore[index]
    assert not math.isfinite(large)


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    code, told = run(tmp_path / "none")
    assert (code, told["event"]) == (2, "error")
    assert str(tmp_path / "none") in str(told["message"])
