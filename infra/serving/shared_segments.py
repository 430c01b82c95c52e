"""Shared memory of instances under names of their own, so that what a kill leaves of it can be found and removed.

vLLM's processes pass messages through two segments of an instance in /dev/shm, 400 MB of room. multiprocessing names
them psm_<random>, and its resource tracker removes them when their owner has died; where everything is killed at once,
the tracker too, they stay until the machine is started again, and nobody can tell whose they were.
"""

from __future__ import annotations

import hashlib
import multiprocessing.shared_memory
import os
from pathlib import Path

FOLDER = Path("/dev/shm")
LONGEST_NAME = 64
"""multiprocessing keeps to 14 characters for the sake of other systems; Linux takes 255."""


def prefix_of(socket: Path, pid: int | None = None) -> str:
    """What the segments of a launcher's instances begin with, or those of its instance with this first process."""
    launcher = hashlib.sha256(os.fsencode(socket.absolute())).hexdigest()[:12]
    return f"empelt-{launcher}-" + (f"{pid}-" if pid is not None else "")


def name_segments(prefix: str) -> None:
    """From now on this process, and what is forked from it, names its segments so.

    multiprocessing has no public way to do this; where its constants are gone, the names stay as they were.
    """
    module = multiprocessing.shared_memory
    if hasattr(module, "_SHM_NAME_PREFIX") and hasattr(module, "_SHM_SAFE_NAME_LENGTH"):
        module._SHM_NAME_PREFIX = "/" + prefix
        module._SHM_SAFE_NAME_LENGTH = LONGEST_NAME


def remove_segments(prefix: str) -> list[str]:
    """Remove the segments of processes that are gone; their names."""
    found = sorted(path for path in FOLDER.glob(f"{prefix}*") if path.is_file())
    for path in found:
        path.unlink(missing_ok=True)
    return [path.name for path in found]
