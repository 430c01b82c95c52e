"""Long work in a child process: a deadline that holds, progress by JSON lines, and no way to outlive the flow run.

Prefect's own time-outs cannot interrupt C or CUDA code (PrefectHQ/prefect#15760), and importing torch or lm-eval into a
flow run would keep their memory until it ends. So merges and evaluations are programs of their own that print one JSON
object per line: ``progress`` any number of times, then ``report``/``result``, or ``error`` with a kind and a message.

What a child says is its heartbeat. It is tied to the process that started it, written down by pid and start time, and
ended with everything below it: when it is done, overran its deadline, fell silent, or its master is gone.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tasks.domain import errors
from tasks.domain.errors import InputError, PipelineError, TransientError
from tasks.environment import without_secrets
from tasks.guard import Guard
from tasks.processes import MARK, new_mark, recorded
from tasks.store.identity import Identity, start_of

Event = dict[str, Any]
logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL: the engine removes its half-written folder in between."""


def run_child(
    module: str,
    arguments: Sequence[str],
    *,
    deadline_seconds: float,
    silence_seconds: float | None = None,
    records: Path | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
    told: Mapping[str, str] | None = None,
) -> Event:
    """Run ``python -m module arguments`` and return its last event.

    Args:
        module: to be run as ``__main__``.
        arguments: of the module.
        deadline_seconds: after which it is ended, whatever it says.
        silence_seconds: ended as well after saying nothing for so long; None: it may be silent until the deadline.
        records: folder in which it is written down while it runs, for ``tasks.processes.end_orphans``.
        on_event: called with each event.
        told: variables that this child gets; it inherits no secret. Arguments can be read by everybody on the host.

    Raises:
        PipelineError: of the kind that the child named; TransientError if it was killed, overran its deadline or fell
            silent.
    """
    mark = new_mark()
    command = [sys.executable, "-m", "tasks.tether", str(os.getpid()), module, *arguments]
    environment = {"OMP_NUM_THREADS": "1", **without_secrets(os.environ), "PYTHONUNBUFFERED": "1"}
    # In our own process group: Prefect ends a cancelled run's group as a whole, and a child of ours must go with it.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, **(told or {}), MARK: mark},
    )
    guard = Guard(process, mark, deadline_seconds, silence_seconds, grace_seconds=GRACE_SECONDS)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr or []), daemon=True)
    reader.start()
    last: Event = {}
    with ExitStack() as stack:
        started = start_of(process.pid)
        if records is not None and started is not None:
            stack.enter_context(recorded(records, Identity(process.pid, started), mark, module))
        stack.callback(reader.join, 5)
        stack.callback(guard.end)
        for line in process.stdout or []:
            guard.heard()
            event = _parse(line)
            if event is not None:
                last = event
                on_event(event)
        code = process.wait()
    if last.get("event") == "error":
        raise _as_error(str(last.get("kind", "")), str(last.get("message", "")), code)
    if code == 0 and last.get("event") in ("report", "result"):
        return last
    if guard.why:
        raise TransientError(f"{module} {guard.why} and was stopped")
    tail = "".join(said[-15:]).strip()
    raise TransientError(f"{module} ended with code {code} and no result; it said:\n{tail or '(nothing)'}")


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
