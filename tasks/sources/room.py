"""One writer for each folder, and room on a disk that downloads and merges share.

Both go by flock: the kernel gives a lock back when its process ends, however it ends, so nothing has to be swept.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.domain.errors import DiskFull

ROOM_PERCENT = 110
"""Free bytes wanted per 100 bytes that are written."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only one in ``folder``, which is made if it is not there; wait for whoever is in it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # whoever was in it has just taken it away
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is(folder, handle):
                continue
            yield
            return
        finally:
            os.close(handle)


@contextmanager
def reserved(room: Path, size: int, folder: Path, what: str) -> Iterator[None]:
    """Keep room for ``size`` more bytes in ``folder`` until the block ends.

    Args:
        room: where all that write to one disk note what they will still write; made if it is not there.
        size: of the files that are still to come; ``ROOM_PERCENT`` of it is asked for.
        folder: what arrives or is made is written here, and counts as written and no more as promised.
        what: as a message should name it.

    Raises:
        DiskFull: the disk has less than that beyond what it was promised to others.
    """
    needed = with_margin(size)
    place = room / uuid.uuid4().hex
    with alone_in(room):
        free, taken = shutil.disk_usage(folder).free, _promised(room)
        if needed > free - taken:
            others = f", of which {taken} are promised to other work" if taken else ""
            raise DiskFull(
                f"{what} needs {needed} bytes ({ROOM_PERCENT} % of its files) but {folder.parent} has {free} free"
                f"{others}. Make room for {needed - free + taken} more; nothing of it was written.",
                needed_bytes=needed,
            )
        handle = os.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, json.dumps({"until": _size_of(folder) + needed, "folder": str(folder)}).encode())
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        os.close(handle)


def with_margin(size: int) -> int:
    """Free bytes that a download of ``size`` bytes asks for."""
    return -(-size * ROOM_PERCENT // 100)  # rounded up


def promised(room: Path) -> int:
    """Bytes that whoever keeps room here will still write to the disk."""
    with alone_in(room):
        return _promised(room)


def _promised(room: Path) -> int:
    """Bytes that others will still write; the notes of processes that ended are taken away."""
    found = 0
    for note in room.iterdir():
        try:
            handle = os.open(note, os.O_RDWR)
        except FileNotFoundError:
            continue  # its download has just ended
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            note.unlink(missing_ok=True)
        except BlockingIOError:
            told = json.loads(os.read(handle, 1 << 16))
            found += max(0, int(told["until"]) - _size_of(Path(told["folder"])))
        finally:
            os.close(handle)
    return found


def _size_of(folder: Path) -> int:
    """Bytes of the files below ``folder`` now; others may be at work in it."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _is(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(handle))
    except FileNotFoundError:
        return False
