"""What the launcher knows of processes: identity, groups, and dying with the parent. Linux and standard library only.

A pid alone names nobody, since the kernel hands it out again; pid + start time (field 22 of /proc/<pid>/stat, clock
ticks since boot) names one process for as long as the machine is up.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import threading
from pathlib import Path
from typing import NamedTuple

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_RESOURCE_TRACKER = b"multiprocessing.resource_tracker"


class ProcessStat(NamedTuple):
    """A line of /proc/<pid>/stat, in part."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start_time: str


def read_stat(pid: int) -> ProcessStat | None:
    """The few fields of /proc/<pid>/stat that identify a process, or None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command (field 2) is in brackets and may hold spaces and brackets itself, so split after the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), fields[19])


def start_time(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat, or the empty string when there is no such process."""
    stat = read_stat(pid)
    return stat.start_time if stat else ""


def group_members(group: int) -> list[ProcessStat]:
    """The living processes of a process group or session. Zombies are left out: they hold nothing but their number."""
    found = []
    for entry in os.listdir("/proc"):
        stat = read_stat(int(entry)) if entry.isdigit() else None
        if stat and stat.state not in "ZX" and group in (stat.group, stat.session):
            found.append(stat)
    return found


def kill_group(group: int, trackers_too: bool = True) -> list[int]:
    """Send SIGKILL to what is left of a group; return the pids that it was sent to.

    Without `trackers_too`, multiprocessing's resource tracker is spared: when the others are gone it removes the shared
    memory that they could not (two segments of an instance in /dev/shm, which would stay for good) and ends by itself.
    """
    members = group_members(group)
    targets = [member.pid for member in members if trackers_too or not _is_resource_tracker(member.pid)]
    for pid in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return targets


def _is_resource_tracker(pid: int) -> bool:
    try:
        return _RESOURCE_TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def die_with_parent() -> None:
    """Ask the kernel to SIGKILL this process when the thread that made it ends."""
    if _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG) was refused: {os.strerror(number)}")


def orphaned_from(parent: int) -> bool:
    """Whether the process that made this one has ended."""
    return os.getppid() != parent


def die_with_parent_in_every_fork() -> None:
    """Make every later os.fork() of this process, and of its children, die with the process that forked it.

    The kernel clears the setting on fork, so it is made again in each child, and then the parent is looked at once
    more: it may have died in between. The signal follows the parent's *thread*; a fork made by any thread but the main
    one is therefore left alone (its maker may end while all is well), and only the group's killing ends it.
    """
    before: list[int] = []

    def remember() -> None:
        before[:] = [os.getpid()] if threading.current_thread() is threading.main_thread() else []

    def bind() -> None:
        if not before:
            return
        die_with_parent()
        if orphaned_from(before[0]):
            os._exit(1)

    os.register_at_fork(before=remember, after_in_child=bind)


def die_with_parent_in_this_group() -> None:
    """The same for a process that was spawned: its parent must be alive, which shows in its being of our group."""
    die_with_parent()
    stat = read_stat(os.getppid())
    if stat is None or stat.group != os.getpgid(0):
        os._exit(1)


def map_weights(model: Path) -> list[mmap.mmap]:
    """Map every *.safetensors of a folder, read-only, so that /proc/<pid>/maps names the files that are served.

    It is a witness: it proves which files (device and inode) the process had open when it started, and that these
    inodes still exist as long as it lives, even when the folder is replaced under it. It does not prove that vLLM
    computes with them: vLLM reads the same names in another process (the worker), copies, and leaves nothing mapped.
    A forked EngineCore and Worker inherit the maps, spawned ones (plain mode) do not: look at the API process.
    Mapped pages cost no memory until they are read, and nobody reads them.
    """
    maps = []
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    return maps


def mapped_weights(pid: int) -> list[str]:
    """The *.safetensors files that /proc/<pid>/maps names; a file since removed ends in ' (deleted)'."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    names = {line.split(maxsplit=5)[5] for line in lines if ".safetensors" in line}
    return sorted(names)
