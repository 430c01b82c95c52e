"""The output folder: it appears whole, with the digest of every file known, or not at all.

Files are written into a hidden sibling, synced, and the folder is renamed. The sibling is held by a lock that dies with
its process, so what a killed merge left behind is recognised and removed by the next one for the same output.
"""

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from .errors import DiskFull, WriteError

_HEADROOM = 1.05
"""Free space asked for, as a multiple of the output: a file system that is exactly full fails its neighbours."""

_FULL = {errno.ENOSPC, errno.EDQUOT}

Telling = Callable[[], AbstractContextManager[None]]
"""A block in which an OSError becomes an error for people."""


class FileDigest(NamedTuple):
    """What one written file is."""

    sha256: str
    """64 hex digits, computed from the bytes on their way to the file."""
    size: int
    """Bytes."""


class HashedFile:
    """A file written from front to back, hashed on the way."""

    def __init__(self, file: BinaryIO, telling: Telling) -> None:
        """Wrap an unbuffered file; ``telling`` explains what the system refuses."""
        self._file = file
        self._telling = telling
        self._hash = hashlib.sha256()
        self._size = 0

    def append(self, data: bytes | memoryview) -> None:
        """Write all of ``data``; a raw file may take a part of it per call."""
        view = memoryview(data)
        self._hash.update(view)
        self._size += view.nbytes
        with self._telling():
            while view:
                view = view[self._file.write(view) :]

    def digest(self) -> FileDigest:
        """Of everything appended so far."""
        return FileDigest(self._hash.hexdigest(), self._size)


class OutputFolder:
    """A folder that exists only after `commit`. Leaving its ``with`` earlier removes every trace."""

    def __init__(self, out: Path, needed_bytes: int) -> None:
        """Check the place; nothing is created yet.

        Args:
            out: The folder to be. It must not exist; its parent must.
            needed_bytes: Size of all files together.

        Raises:
            WriteError: ``out`` exists, its parent does not, or another process is writing it.
            DiskFull: Less than 1.05 times the size is free.
        """
        self.out = out.absolute()
        self.files: dict[str, FileDigest] = {}
        """By file name, in the order of writing."""
        self._needed = needed_bytes
        self._folder: Path | None = None
        self._lock: int | None = None
        if os.path.lexists(self.out):
            raise WriteError(f"{out}: exists already; a merge never overwrites. Remove it or name another folder")
        if not self.out.parent.is_dir():
            raise WriteError(f"{out}: its parent folder {self.out.parent} does not exist; create it first")
        self._remove_leftovers()
        free = shutil.disk_usage(self.out.parent).free
        if free < needed_bytes * _HEADROOM:
            raise DiskFull(
                f"{out}: needs {int(needed_bytes * _HEADROOM)} bytes ({needed_bytes} of files and 5 % headroom), "
                f"{free} are free on {self.out.parent}; make room or name another folder"
            )

    def __enter__(self) -> Self:
        """Create the hidden sibling."""
        with self._telling(self.out):
            self._folder = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self.out.parent))
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._unlock()

    @contextmanager
    def create(self, name: str) -> Iterator[HashedFile]:
        """One new file; synced, recorded in `files` and readable by all when the block ends well.

        Raises:
            DiskFull: The file system, or the user's quota, filled up.
            WriteError: Anything else that the system refuses.
        """
        assert self._folder is not None, "create() belongs inside the with"
        telling = partial(self._telling, self.out / name)
        with telling():
            raw = (self._folder / name).open("xb", buffering=0)
        with raw:
            file = HashedFile(raw, telling)
            yield file
            with telling():
                os.fchmod(raw.fileno(), 0o644)
                os.fsync(raw.fileno())
        self.files[name] = file.digest()

    def write(self, name: str, content: bytes) -> None:
        """One small file."""
        with self.create(name) as file:
            file.append(content)

    def copy(self, source: Path) -> None:
        """One file of a parent, byte for byte."""
        with source.open("rb") as donor, self.create(source.name) as file:
            while block := donor.read(1 << 20):
                file.append(block)

    def commit(self) -> None:
        """Make the folder appear under its name, in one step.

        Raises:
            WriteError: Somebody else created it in the meantime; theirs is untouched.
        """
        assert self._folder is not None, "commit() belongs inside the with"
        with self._telling(self.out):
            self._folder.chmod(0o755)
            _sync_folder(self._folder)
            if os.path.lexists(self.out):  # rename would replace an empty folder, and fails on a full one
                raise WriteError(f"{self.out}: was created by somebody else during the merge; theirs is untouched")
            self._folder.rename(self.out)
            self._folder = None
            _sync_folder(self.out.parent)

    @property
    def _prefix(self) -> str:
        return f".{self.out.name}.partial-"

    def _remove_leftovers(self) -> None:
        for leftover in self.out.parent.glob(f"{glob.escape(self._prefix)}*"):
            lock = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WriteError(f"{self.out}: another process is writing it (in {leftover}); wait for it") from error
            else:
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


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
