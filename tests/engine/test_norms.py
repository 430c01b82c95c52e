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


def test_of_an_adapter_it_is_what_it_adds_to_each_weight(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    down, up, first, second = (rng.standard_normal(s).astype(np.float32) for s in ((4, 30), (20, 4), (4, 50), (30, 4)))
    names = ("q_proj.lora_A.weight", "q_proj.lora_B.weight", "embed.lora_embedding_A", "embed.lora_embedding_B")
    tensors = {f"base_model.model.{name}": one for name, one in zip(names, (down, up, first, second), strict=True)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    assert norms(tmp_path) == {
        "q_proj.weight": pytest.approx(2 * float(np.linalg.norm(up.astype(np.float64) @ down)), rel=1e-9),
        "embed.weight": pytest.approx(2 * float(np.linalg.norm(second.astype(np.float64) @ first)), rel=1e-9),
    }
    save_file(
        {name: one for name, one in tensors.items() if "lora_B" not in name}, tmp_path / "adapter_model.safetensors"
    )
    code, told = run(tmp_path)
    assert code == 2
    assert "missing, or without the other: ['base_model.model.q_proj.lora_B.weight']" in str(told["message"])
