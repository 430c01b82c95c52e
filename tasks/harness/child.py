"""Starting ``python -m tasks.harness`` and reading what it says: how flows measure without importing lm-eval.

A process of its own, so that a hang ends by a signal, memory is given back, and a cancelled flow run leaves nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from tasks.domain import errors
from tasks.domain.models import Score
from tasks.harness.suite import Cost

_SCORES = TypeAdapter(tuple[Score, ...])
_END_SECONDS = 5.0


class Measured(NamedTuple):
    """What one measurement found, and what it took."""

    scores: tuple[Score, ...]
    seconds: Mapping[str, float]
    """``import`` and ``measure``."""
    sent: Mapping[str, Cost]
    """What each benchmark cost."""


def write_result(path: Path, scores: Sequence[Score], seconds: Mapping[str, float], sent: Mapping[str, Cost]) -> None:
    """Write scores with their items; the file is there whole or not at all."""
    whole = {"scores": [s.model_dump(mode="json") for s in scores], "seconds": dict(seconds), "sent": dict(sent)}
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as half:
        try:
            json.dump(whole, half, ensure_ascii=False, allow_nan=False)
            half.close()
            os.replace(half.name, path)
        except BaseException:
            os.unlink(half.name)
            raise


def read_result(path: Path) -> Measured:
    """What ``write_result`` wrote."""
    found = json.loads(path.read_text("utf-8"))
    sent = {name: Cost(*cost) for name, cost in found["sent"].items()}
    return Measured(_SCORES.validate_python(found["scores"]), found["seconds"], sent)


def arguments(base_url: str, model: str, folder: Path, benchmarks: Sequence[str], out: Path) -> list[str]:
    """What ``python -m tasks.harness`` is told, for whoever starts it; the same as ``measure`` takes."""
    asked = ["--json-lines", "--base-url", base_url, "--model", model, "--folder", str(folder)]
    return [*asked, "--benchmarks", ",".join(benchmarks), "--out", str(out)]


def measure(
    *,
    base_url: str,
    model: str,
    folder: Path,
    benchmarks: Sequence[str],
    out: Path,
    options: Sequence[str] = (),
    api_key: str | None = None,
    deadline_seconds: float = 14400.0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Measured:
    """``tasks.harness.run.evaluate`` in a child process.

    Args:
        base_url: as for ``evaluate``; so are ``model``, ``folder``, ``benchmarks``.
        model: see there.
        folder: see there.
        benchmarks: see there.
        out: where the result is written, and stays.
        options: further arguments of ``python -m tasks.harness``, such as ``--wait-seconds 60``.
        api_key: handed over in the child's environment.
        deadline_seconds: after which the child is stopped.
        on_progress: called with benchmark, prompts done, and prompts in all.

    Raises:
        PipelineError: of the same type as in the child; TransientError if it ended without saying why.
    """
    command = [sys.executable, "-m", "tasks.harness", *arguments(base_url, model, folder, benchmarks, out), *options]
    environment = {**os.environ, **({"EMPELT_API_KEY": api_key} if api_key else {})}
    with tempfile.TemporaryFile("w+") as noise:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=noise, stdin=subprocess.DEVNULL, text=True, env=environment
        )
        overran = threading.Event()
        timer = threading.Timer(deadline_seconds, _stop, [child, overran])
        timer.start()
        try:
            last = _follow(child, on_progress)
            code = child.wait()
        finally:
            timer.cancel()
            _end(child)
        noise.seek(0)
        tail = noise.read()[-2000:]
    if overran.is_set():
        raise errors.TransientError(f"the measurement of {model} took over {deadline_seconds:.0f} s and was stopped")
    if code == 0:
        return read_result(out)
    kind = getattr(errors, str(last.get("kind")), None)
    if isinstance(kind, type) and issubclass(kind, errors.PipelineError):
        raise kind(str(last["message"]))
    raise errors.TransientError(
        f"the measurement of {model} ended with exit code {code} and no reason; it said:\n{tail}"
    )


def _stop(child: "subprocess.Popen[str]", overran: threading.Event) -> None:
    overran.set()
    child.terminate()


def _follow(child: "subprocess.Popen[str]", on_progress: Callable[[str, int, int], None] | None) -> dict[str, Any]:
    """The child's last event; progress is passed on."""
    last: dict[str, Any] = {}
    for line in child.stdout or ():
        try:
            event = json.loads(line)
        except ValueError:  # a library that prints; not for us
            continue
        if isinstance(event, dict) and "event" in event:
            last = event
            if event["event"] == "progress" and on_progress is not None:
                on_progress(str(event["benchmark"]), int(event["done"]), int(event["total"]))
    return last


def _end(child: "subprocess.Popen[str]") -> None:
    """Make sure that the child is gone, whatever ended us: it runs on past a cancelled parent otherwise."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout:
        child.stdout.close()
