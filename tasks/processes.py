"""Processes by their recorded identity (``tasks.store.identity``), since pids are used again. No Prefect here.

What a process starts inherits its environment, so one variable with a value of its own marks everything below it, also
what has lost its parent meanwhile. Children of flow runs are written down in a folder, one file each, with the process
that they work for; whoever comes later ends those whose master is gone.
"""

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tasks.store.identity import Identity, Started, is_gone, is_same, own_identity

MARK = "EMPELT_CHILD"
"""In the environment of a child and of everything below it: an id of its own."""


def same_process(pid: int, started: Started) -> psutil.Process | None:
    """The process with this pid if it is for certain still the one that started then."""
    try:
        return psutil.Process(pid) if is_same(pid, started) else None
    except psutil.NoSuchProcess:  # it has just ended
        return None


def marked_processes(value: str, variable: str = MARK) -> list[psutil.Process]:
    """Every other process of this user in whose environment ``variable`` is ``value``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and process.pid != os.getpid():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def end_processes(processes: Sequence[psutil.Process], grace_seconds: float) -> None:
    """SIGTERM, wait, then SIGKILL what is left."""
    alive = list(processes)
    for signal_number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        for process in alive:
            try:
                process.send_signal(signal_number)
            except psutil.NoSuchProcess:
                continue
        # Not psutil.wait_procs: it would take the exit codes of our children, and wait for zombies of others.
        deadline = time.monotonic() + seconds
        while (alive := [p for p in alive if _runs(p)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not alive:
            return


def end_marked(value: str, grace_seconds: float) -> list[int]:
    """End everything that carries the mark ``value``; the pids. Twice over: what ends may start something first."""
    ended: list[int] = []
    for _ in range(2):
        left = marked_processes(value)
        ended += [process.pid for process in left]
        end_processes(left, grace_seconds)
    return ended


@contextmanager
def recorded(folder: Path, child: Identity, mark: str, what: str) -> Iterator[None]:
    """Keep a record of ``child`` in ``folder`` for as long as the block lasts: it works for this process."""
    folder.mkdir(parents=True, exist_ok=True)
    path, half = folder / f"{mark}.json", folder / f".{mark}.half"
    told = {"what": what, "mark": mark, "child": list(child), "master": list(own_identity())}
    half.write_text(json.dumps(told), encoding="utf-8")
    half.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def end_orphans(folder: Path, grace_seconds: float = 2.0) -> list[str]:
    """End every recorded child whose master is gone, with everything below it; what was ended, for people."""
    ended: list[str] = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # its master has just taken it away
            continue
        except ValueError:  # a power cut left it empty: what it named ended with the machine
            path.unlink(missing_ok=True)
            continue
        if not is_gone(*told["master"]):
            continue
        child = same_process(*told["child"])
        below = {p.pid: p for p in (*([child] if child else []), *marked_processes(told["mark"]))}
        end_processes(list(below.values()), grace_seconds)
        ended += [f"{told['what']} (pid {pid})" for pid in below]
        path.unlink(missing_ok=True)
    for half in folder.glob(".*.half") if folder.is_dir() else ():  # of a master killed between two lines
        if half.stat().st_mtime < time.time() - 60:
            half.unlink(missing_ok=True)
    return ended


def new_mark() -> str:
    """A value for ``MARK`` that nothing else has."""
    return uuid.uuid4().hex


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
