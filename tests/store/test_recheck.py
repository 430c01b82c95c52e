"""One artifact hashed again by a process of its own, in a store that it cannot write."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.domain.models import Artifact
from tasks.store.artifacts import ArtifactStore
from tasks.store.recheck import REFUSED_CODE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stored(tmp_path: Path) -> Artifact:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    (folder / "config.json").write_text(json.dumps({"a": 1}))
    return ArtifactStore(tmp_path / "store").adopt(folder)


def recheck(root: Path, digest: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tasks.store.recheck", str(root), digest]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def state(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_mode) for p in root.rglob("*")}


def test_what_is_as_it_was_stored_passes_and_nothing_is_written(stored: Artifact, tmp_path: Path) -> None:
    before = state(tmp_path / "store")
    done = recheck(tmp_path / "store", stored.digest)
    assert (done.returncode, done.stderr) == (0, "")
    assert stored.digest in done.stdout
    assert state(tmp_path / "store") == before


def test_every_file_that_differs_is_told_with_a_code_of_its_own(stored: Artifact, tmp_path: Path) -> None:
    weights = Path(stored.folder) / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"x" * 100)
    done = recheck(tmp_path / "store", stored.digest)
    assert done.returncode == REFUSED_CODE
    recorded = next(one.sha256 for one in stored.files if one.path == "model.safetensors")
    assert "model.safetensors" in done.stdout
    assert recorded in done.stdout


def test_an_artifact_that_is_not_there_is_refused(tmp_path: Path, stored: Artifact) -> None:
    done = recheck(tmp_path / "store", "0" * 64)
    assert done.returncode == REFUSED_CODE
    assert "0" * 64 in done.stdout


def test_a_store_that_is_read_only_is_not_made(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "nowhere", read_only=True)
    assert not store.has("0" * 64)
    assert not (tmp_path / "nowhere").exists()
