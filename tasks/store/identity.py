"""Names one process for good: its pid, and when it started by a count that no clock setting moves.

A pid alone names nobody, since the kernel hands it out again. The wall clock is no help either: where psutil tells a
start time it adds the time of boot, which moves with every step of the system clock, and a process that lives on would
look like another one. What is kept is therefore ``<boot id>:<clock ticks since boot>``. Records of earlier versions
hold psutil's seconds since the epoch: such a process is believed gone only when nothing has its pid any more.
"""

import os
from pathlib import Path
from typing import NamedTuple

import psutil

PROC = Path("/proc")
Started = str | float
"""``<boot id>:<ticks>`` on Linux; seconds since the epoch elsewhere, and in records of earlier versions."""


class Identity(NamedTuple):
    """Names one process for good."""

    pid: int
    started: Started


def own_identity() -> Identity:
    """Of the process that asks."""
    return Identity(os.getpid(), start_of(os.getpid()) or "")


def start_of(pid: int) -> Started | None:
    """What names the start of the process with this pid; None if there is none, or a zombie that nobody waited for."""
    try:
        line = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None if (PROC / "self" / "stat").exists() else _by_psutil(pid)
    # The command (field 2) is in brackets and may hold spaces and brackets itself, so split after the last one.
    state, *fields = line[line.rindex(")") + 2 :].split()
    return None if state in "ZX" else f"{_boot_id()}:{fields[18]}"  # field 22 of proc_pid_stat(5)


def is_same(pid: int, started: Started) -> bool:
    """Whether the process with this pid is for certain the one that was recorded."""
    now = start_of(pid)
    if isinstance(now, str) and isinstance(started, int | float):
        return started == _by_psutil(pid)
    return now is not None and now == started


def is_gone(pid: int, started: Started) -> bool:
    """Whether the process that was recorded has ended for certain; False where that cannot be told."""
    now = start_of(pid)
    return now is None or (type(now) is type(started) and now != started)


def _by_psutil(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _boot_id() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # a sandbox without it
        return ""
