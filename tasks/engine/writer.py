"""The output folder: it appears whole, with the digest of every file known, or not at all.

Files are written into a hidden sibling, synced, and the folder is renamed. A merge that ends with an error removes the
sibling. One that is killed leaves it, with a journal of how far each file is known to be right; the same merge (same
inputs, same recipe) into the same place goes on from there, any other one removes it. The sibling is held by a
lock that
dies with its process.
"""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from .checkpoint import read_small
from .errors import DiskFull, WriteError

HEADROOM = 1.05
"""Free space asked for, as a multiple of the output: a file system that is exactly full fails its neighbours."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_JOURNAL = "journal.jsonl"
JOURNAL_BYTES = 1 << 28
"""How much of a file is written between two entries of the journal. Each entry waits for the disk."""

Telling = Callable[[], AbstractContextManager[None]]
"""A block in which an OSError becomes an error for people."""


class FileDigest(NamedTuple):
    """What one written file is."""

    sha256: str
    """64 hex digits, computed from the bytes on their way to the file."""
    size: int
    """Bytes."""


class WeightFile:
    """A file of known size: written anywhere by any thread, hashed from front to back by one at a time."""

    def __init__(self, path: Path, size: int, known: int, telling: Telling) -> None:
        """Create it at its full size, or open it with the first ``known`` bytes as they are."""
        self.name, self.size = path.name, size
        self._telling = telling
        self._hash = hashlib.sha256()
        self.hashed = 0
        with telling():
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._prepare(known)
            except OSError:
                os.close(self._handle)
                raise

    def _prepare(self, known: int) -> None:
        """Take the room, or hash what is right already."""
        if os.fstat(self._handle).st_size != self.size:
            os.ftruncate(self._handle, 0)
            _reserve(self._handle, self.size)
            return
        known = known if known <= self.size else 0
        while piece := os.pread(self._handle, min(1 << 20, max(0, known - self.hashed)), self.hashed):
            self.advance(piece)

    def place(self, data: memoryview | bytes, offset: int) -> None:
        """Write bytes where they belong; any thread, any order."""
        view = memoryview(data).cast("B")
        with self._telling():
            while view:
                count = os.pwrite(self._handle, view, offset)
                view, offset = view[count:], offset + count

    def advance(self, data: memoryview | bytes) -> None:
        """Hash the next bytes in order; they have been placed."""
        self._hash.update(data)
        self.hashed += memoryview(data).nbytes

    def sync(self) -> None:
        """Have the system write it out."""
        with self._telling():
            os.fsync(self._handle)

    def close(self) -> None:
        """Close it; nothing is lost."""
        os.close(self._handle)

    def digest(self) -> FileDigest:
        """Of everything hashed so far."""
        return FileDigest(self._hash.hexdigest(), self.hashed)


def _reserve(handle: int, size: int) -> None:
    """Take the room now, so that a full disk is noticed before the work and the file lies in one piece.

    Not in memory (tmpfs), where nothing lies in pieces, and where finding every page beforehand, by one thread, took
    0.5 of the 2.9 s of a merge of three models of 2.5 GB.
    """
    if _in_memory(os.fstat(handle).st_dev):
        os.ftruncate(handle, size)
        return
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in _FULL or error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(handle, size)  # a file system without it


def _in_memory(device: int) -> bool:
    """Whether a device is a tmpfs; false where the system does not tell."""
    mounts = Path("/proc/self/mountinfo")
    number = f"{os.major(device)}:{os.minor(device)}"
    if not mounts.is_file():
        return False
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == number:
            return source.split()[0] in ("tmpfs", "ramfs")
    return False


class OutputFolder:
    """A folder that exists only after `commit`. Leaving its ``with`` by an error removes every trace."""

    def __init__(self, out: Path, needed_bytes: int, identity: str = "", *, journal_bytes: int = JOURNAL_BYTES) -> None:
        """Check the place; nothing is created yet.

        Args:
            out: The folder to be. It must not exist; its parent must.
            needed_bytes: Size of all files together.
            identity: Digest of inputs and recipe. A killed merge is gone on with only under the same one.
            journal_bytes: So much of a file is lost at most when the merge is killed.

        Raises:
            WriteError: ``out`` exists, its parent does not, another process is writing it, or the system refuses.
            DiskFull: Less than 1.05 times the size is free.
        """
        self.out = out.absolute()
        self.files: dict[str, FileDigest] = {}
        """By file name, in the order of writing."""
        self.resumed_bytes = 0
        """Of weight files, taken over from a merge that was killed."""
        self.journal_bytes = journal_bytes
        self._needed = needed_bytes
        self.missing_bytes = needed_bytes
        """Of that, what a killed merge has not taken yet."""
        self._folder = self.out.parent / f"{self._prefix}{identity[:16] or 'merge'}"
        self._entered = False
        self._lock: int | None = None
        self._known: dict[str, int] = {}
        self._open: list[WeightFile] = []
        with self._telling(self.out):
            if os.path.lexists(self.out):
                raise WriteError(f"{out}: exists already; a merge never overwrites. Remove it or name another folder")
            if not self.out.parent.is_dir():
                raise WriteError(f"{out}: its parent folder {self.out.parent} does not exist; create it first")
            self._leftovers(remove=False)
            taken = _size_on_disk(self._folder)
            self.missing_bytes = max(0, needed_bytes - taken)
            free = shutil.disk_usage(self.out.parent).free + taken
        if free < needed_bytes * HEADROOM:
            raise DiskFull(
                f"{out}: needs {int(needed_bytes * HEADROOM)} bytes ({needed_bytes} of files and 5 % headroom), "
                f"{free} are free on {self.out.parent}; make room or name another folder"
            )

    def __enter__(self) -> Self:
        """Create the hidden sibling, or take over what a killed merge of the same left in it."""
        with self._telling(self.out):
            self._leftovers(remove=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._known = _read_journal(self._folder / _JOURNAL)
                for path in self._folder.iterdir():  # small files are written anew
                    if path.name != _JOURNAL and path.name not in self._known:
                        path.unlink()
            except BlockingIOError as error:
                self._unlock()
                raise WriteError(self._busy(self._folder)) from error
            except OSError:
                self._unlock()
                raise
            self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed."""
        for file in self._open:
            file.close()
        self._open.clear()
        if self._entered:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._unlock()

    def weights(self, name: str, header: bytes, size: int) -> WeightFile:
        """One weight file, its header written; what a killed merge had of it is in it, and hashed.

        Raises:
            DiskFull: The file system, or the user's quota, has no room for it.
            WriteError: Anything else that the system refuses.
        """
        file = WeightFile(self._folder / name, size, self._known.get(name, 0), partial(self._telling, self.out / name))
        self._open.append(file)
        self.resumed_bytes += file.hashed
        if file.hashed < len(header):
            file.place(header, 0)
            file.advance(header)
        return file

    def note(self, file: WeightFile) -> None:
        """Put into the journal that the hashed part of a file is on the disk."""
        file.sync()
        self._known[file.name] = file.hashed
        with self._telling(self.out / _JOURNAL), (self._folder / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"file": file.name, "bytes": file.hashed}) + "\n")
            journal.flush()
            os.fsync(journal.fileno())

    def finish(self, file: WeightFile) -> None:
        """A weight file is complete."""
        if self._known.get(file.name) != file.hashed:
            self.note(file)
        self._open.remove(file)
        file.close()
        self.files[file.name] = file.digest()

    def write(self, name: str, content: bytes) -> None:
        """One small file, synced."""
        file = WeightFile(self._folder / name, len(content), 0, partial(self._telling, self.out / name))
        self._open.append(file)
        file.place(content, 0)
        file.advance(content)
        file.sync()
        self._open.remove(file)
        file.close()
        self.files[name] = file.digest()

    def copy(self, source: Path) -> None:
        """One file of a parent, byte for byte.

        Raises:
            CheckpointError: It cannot be read.
        """
        self.write(source.name, read_small(source))

    def check(self) -> None:
        """Look once more whether the place is free.

        Raises:
            WriteError: Somebody else created the folder in the meantime; theirs is untouched.
        """
        if os.path.lexists(self.out):  # rename would replace an empty folder, and fails on a full one
            raise WriteError(f"{self.out}: was created by somebody else during the merge; theirs is untouched")

    def commit(self) -> None:
        """Make the folder appear under its name, in one step.

        Raises:
            WriteError: Somebody else created it in the meantime; theirs is untouched.
        """
        with self._telling(self.out):
            (self._folder / _JOURNAL).unlink(missing_ok=True)
            for path in self._folder.iterdir():
                path.chmod(0o644)
            self._folder.chmod(0o755)
            _sync_folder(self._folder)
            self.check()
            self._folder.rename(self.out)
            self._entered = False
            _sync_folder(self.out.parent)

    @property
    def _prefix(self) -> str:
        return f".{self.out.name}.partial-"

    def _busy(self, folder: Path) -> str:
        return f"{self.out}: another process is writing it (in {folder}); wait for it"

    def _leftovers(self, *, remove: bool) -> None:
        """Refuse what another process is writing; on request remove what killed merges of other recipes left."""
        for leftover in self.out.parent.glob(f"{glob.escape(self._prefix)}*"):
            try:
                lock = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # its own merge has just finished, or removed it
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WriteError(self._busy(leftover)) from error
            else:
                if remove and leftover != self._folder and leftover.exists():  # not renamed since it was opened
                    shutil.rmtree(leftover)
            finally:
                os.close(lock)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def _telling(self, path: Path) -> Iterator[None]:
        """Turn what the system says into what a person can act on."""
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                free = shutil.disk_usage(self.out.parent).free
                raise DiskFull(
                    f"{path}: the file system filled up during the writing ({error.strerror}): the output needs "
                    f"{self._needed} bytes, {free} are free on {self.out.parent}. Nothing was kept; make room"
                ) from error
            raise WriteError(f"{path}: cannot be written: {error.strerror or error}. Nothing was kept") from error


def _read_journal(path: Path) -> dict[str, int]:
    """How far each file is right; nothing without a journal. A line that was cut does not count."""
    known: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return known
    for line in lines:
        try:
            entry = json.loads(line)
            known[str(entry["file"])] = int(entry["bytes"])
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
    return known


def _size_on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir()) if folder.is_dir() else 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
