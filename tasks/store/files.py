"""Plain work on files that the artifact store needs: listing, hashing, making durable, removing."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest
from pathlib import Path

from tasks.domain.errors import ModelRefused
from tasks.domain.models import FileDigest

HASHERS = 2
"""Threads that hash. One did 0.7-0.9 GB/s with SHA instructions on a busy two-core machine, 2026-11."""


def plain_files(folder: Path) -> list[str]:
    """Paths of all files under ``folder``, sorted; links would let an immutable artifact change, and are refused."""
    found, problems = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            problems.append(f"{name}: a link to {os.readlink(path)}")
        elif path.is_file():
            found.append(name)
        elif not path.is_dir():
            problems.append(f"{name}: neither a file nor a folder")
    if problems:
        raise ModelRefused(f"{folder} holds more than plain files; copy what the links point at", problems=problems)
    return found


def make_durable(folder: Path, paths: list[str]) -> None:
    """Make the files read-only, and wait until they and their folders are on the disk."""
    for name in paths:
        (folder / name).chmod(0o444)
        sync(folder / name)
    for path in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        sync(path)


def hash_all(folder: Path, paths: list[str]) -> tuple[FileDigest, ...]:
    """sha256 and size of every file, in the order of ``paths``."""

    def hashed(name: str) -> FileDigest:
        with (folder / name).open("rb") as file:
            return FileDigest(
                path=name, sha256=file_digest(file, "sha256").hexdigest(), size=os.fstat(file.fileno()).st_size
            )

    with ThreadPoolExecutor(HASHERS) as pool:
        return tuple(pool.map(hashed, paths))


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def drop(path: Path) -> None:
    """Remove a file or a whole folder, read-only parts included."""
    if path.is_dir() and not path.is_symlink():
        for folder in (path, *(p for p in path.rglob("*") if p.is_dir() and not p.is_symlink())):
            folder.chmod(0o755)  # a copy of something read-only cannot be emptied
        shutil.rmtree(path)
    else:
        path.unlink()


def newest_change(path: Path) -> float:
    """When anything at or under ``path`` was written last; what vanishes while we look counts as written now."""
    try:
        return max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    except FileNotFoundError:
        return time.time()
