"""``python -m tasks.harness`` as flows start it: events, exit codes, signals, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tasks.domain.errors import EndpointUnavailable, UnknownBenchmark
from tasks.harness.child import measure, read_result, write_result
from tasks.harness.suite import cost_of

ROOT = Path(__file__).parents[2]
Stub = Callable[..., AbstractContextManager[tuple[str, "subprocess.Popen[bytes]"]]]


@pytest.fixture(autouse=True)
def _from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The child finds the code and the data without the working directory's help."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_measurement_in_a_child_gives_scores_and_progress(
    stub_server: Stub, model_folder: Path, tmp_path: Path
) -> None:
    heard: list[tuple[str, int, int]] = []
    with stub_server() as (url, _):
        measured = measure(
            base_url=url,
            model="stub",
            folder=model_folder,
            benchmarks=["eu_chat"],
            out=tmp_path / "result.json",
            on_progress=lambda *event: heard.append(event),
        )
    assert [s.metric for s in measured.scores] == ["strict", "lenient"]
    assert set(measured.seconds) == {"import", "measure"}
    assert measured.sent == {"eu_chat": cost_of("eu_chat")}
    assert heard[-1] == ("eu_chat", measured.scores[0].n, measured.scores[0].n)
    assert read_result(tmp_path / "result.json") == measured
    assert [path.name for path in tmp_path.glob("*.json*")] == ["result.json"]


def test_an_error_of_the_child_is_an_error_of_the_same_type_here(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    with pytest.raises(EndpointUnavailable, match=r"127\.0\.0\.1:9"):
        measure(base_url="http://127.0.0.1:9/v1", model="m", folder=model_folder, benchmarks=["eu_chat"], out=out)
    with pytest.raises(UnknownBenchmark, match="oc_mc"):
        measure(base_url="http://127.0.0.1:9/v1", model="m", folder=model_folder, benchmarks=["oc_mc"], out=out)
    assert not out.exists()


def test_sigterm_ends_a_measurement_and_leaves_no_file(stub_server: Stub, model_folder: Path, tmp_path: Path) -> None:
    with stub_server("dying") as (url, _):
        command = [sys.executable, "-m", "tasks.harness", "--json-lines", "--base-url", url, "--model", "stub"]
        command += ["--folder", str(model_folder), "--benchmarks", "eu_mc", "--out", str(tmp_path / "result.json")]
        command += ["--batch-size", "1", "--concurrency", "1"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["event"] == "progress"
        os.kill(child.pid, signal.SIGTERM)
        last = child.stdout.read().splitlines()[-1]
        assert child.wait(10) == 143
    assert json.loads(last)["kind"] == "Terminated"
    assert list(tmp_path.glob("*result*")) == []


def test_a_result_that_cannot_be_written_whole_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path / "result.json", [], {"measure": float("nan")}, {})
    assert list(tmp_path.iterdir()) == []
