"""Long work in a child process: a deadline that holds, progress by JSON lines, and no way to outlive the flow run.

Prefect's own time-outs cannot interrupt C or CUDA code (PrefectHQ/prefect#15760), and importing torch or lm-eval into a
flow run would keep their memory until it ends. So merges and evaluations are programs of their own that print one JSON
object per line: ``progress`` any number of times, then ``report``/``result``, or ``error`` with a kind and a message.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from tasks.domain import errors
from tasks.domain.errors import InputError, PipelineError, TransientError

Event = dict[str, Any]
logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL: the engine removes its half-written folder in between."""


def run_child(
    module: str,
    arguments: Sequence[str],
    *,
    deadline_seconds: float,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Event:
    """Run ``python -m module arguments`` and return its last event.

    Raises:
        PipelineError: of the kind that the child named; TransientError if it was killed or overran its deadline.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONUNBUFFERED": "1"}
    # In our own process group: Prefect ends a cancelled run's group as a whole, and a child of ours must go with it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    overran = threading.Event()

    def stop() -> None:
        overran.set()
        _end(process)

    timer = threading.Timer(deadline_seconds, stop)
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or []), daemon=True)
    timer.start()
    reader.start()
    last: Event = {}
    try:
        for line in process.stdout or []:
            event = _parse(line)
            if event is not None:
                last = event
                on_event(event)
        code = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            _end(process)
        reader.join(5)
    if last.get("event") == "error":
        raise _as_error(str(last.get("kind", "")), str(last.get("message", "")), code)
    if code == 0 and last.get("event") in ("report", "result"):
        return last
    if overran.is_set():
        raise TransientError(f"{module} did not end within {deadline_seconds:.0f} s and was stopped")
    tail = "".join(errors[-15:]).strip()
    raise TransientError(f"{module} ended with code {code} and no result; it said:\n{tail or '(nothing)'}")


def _end(process: subprocess.Popen[str]) -> None:
    """SIGTERM, then SIGKILL: a child that is deep in C code hears only the second."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _parse(line: str) -> Event | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _as_error(kind: str, message: str, code: int) -> PipelineError:
    ours = getattr(errors, kind, None)
    if isinstance(ours, type) and issubclass(ours, PipelineError):
        return ours(message)
    # The engine has a tree of its own; all of it but a full disk says that the inputs do not fit together.
    return TransientError(f"{kind}: {message}") if code == 3 else InputError(f"{kind}: {message}")
