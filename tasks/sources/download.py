"""Download the files of a model, and believe none of them before it is hashed.

The client checks sizes only over plain HTTP, and warns rather than stops when the disk is too small. So: room is
checked before the first byte, every file is hashed against the source's listing, and the folder appears under its name
when it is whole. Pickles and code are never asked for.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import hf_hub_download

from tasks.domain.errors import DiskFull, InputError, ModelRefused
from tasks.domain.lineage import MATTERS
from tasks.domain.models import FileDigest, ModelRef
from tasks.sources.failures import translated, with_retries
from tasks.sources.protocol import SourceFile

ALLOWED = (*MATTERS, "LICENSE*", "NOTICE*", "README.md")
"""What is downloaded, at the top of a repository only. Weights in any other format stay where they are."""
FORBIDDEN_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".so", ".zip")
"""Never downloaded, though a pattern of the allow-list may match (``tokenizer*`` matches ``tokenizer.py``)."""
ROOM_PERCENT = 110
"""Free bytes wanted per 100 bytes of download."""
STREAMS = 4
"""Files at a time; a model has a handful of large ones."""


def is_allowed(path: str) -> bool:
    """Whether the file at ``path`` may be downloaded."""
    if "/" in path or path.endswith(FORBIDDEN_SUFFIXES):
        return False
    return any(fnmatchcase(path, pattern) for pattern in ALLOWED)


def wanted(files: Iterable[SourceFile]) -> list[SourceFile]:
    """The files of a repository that a download takes."""
    return [file for file in files if is_allowed(file.path)]


def needed_bytes(files: Iterable[SourceFile]) -> int:
    """Free bytes that a download of ``files`` asks for."""
    return -(-sum(file.size for file in files) * ROOM_PERCENT // 100)  # rounded up


def download(
    listing: Sequence[SourceFile],
    ref: ModelRef,
    into: Path,
    *,
    endpoint: str,
    token: str | bool,
    paths: Sequence[str] | None = None,
) -> tuple[FileDigest, ...]:
    """Download into the new folder ``into``; see ``HubSource.fetch``."""
    chosen = _chosen(listing, ref, paths)
    if into.exists():
        raise InputError(f"{into} is there already; a fetch of {ref} wants a new folder")
    into.parent.mkdir(parents=True, exist_ok=True)
    _check_room(chosen, ref, into.parent)
    partial = into.with_name(f".{into.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir()
        with ThreadPoolExecutor(STREAMS) as pool:
            waiting = [pool.submit(_download_one, file, ref, partial, endpoint, token) for file in chosen]
            try:
                for future in waiting:
                    future.result()
            finally:
                for future in waiting:
                    future.cancel()
        # The client's notes on what it downloaded.
        shutil.rmtree(partial / ".cache", ignore_errors=True)
        digests = _verified(chosen, ref, partial)
        os.rename(partial, into)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return digests


def _chosen(listing: Sequence[SourceFile], ref: ModelRef, paths: Sequence[str] | None) -> list[SourceFile]:
    by_path = {file.path: file for file in listing}
    chosen = wanted(listing) if paths is None else [by_path[p] for p in dict.fromkeys(paths) if p in by_path]
    problems = [f"{path}: not among its files" for path in paths or () if path not in by_path]
    problems += [
        f"{file.path}: only {', '.join(ALLOWED)} are downloaded" for file in chosen if not is_allowed(file.path)
    ]
    problems += [
        f"{file.path}: no sha256 in the listing, so its bytes cannot be verified"
        for file in chosen
        if file.path.endswith(".safetensors") and file.sha256 is None
    ]
    if paths is None and not any(file.path.endswith(".safetensors") for file in chosen):
        others = [file.path for file in listing if file.path.endswith(FORBIDDEN_SUFFIXES)]
        problems.append(f"no *.safetensors at its top; it has {', '.join(others) or 'no weights'}, which are not read")
    if problems:
        raise ModelRefused(f"{ref} is not downloaded", problems=problems)
    return chosen


def _check_room(chosen: Sequence[SourceFile], ref: ModelRef, place: Path) -> None:
    needed, free = needed_bytes(chosen), shutil.disk_usage(place).free
    if needed > free:
        raise DiskFull(
            f"{ref} needs {needed} bytes ({ROOM_PERCENT} % of its files) but {place} has {free} free. "
            f"Make room for {needed - free} more; nothing was downloaded."
        )


def _download_one(file: SourceFile, ref: ModelRef, folder: Path, endpoint: str, token: str | bool) -> None:
    def ask() -> None:
        with translated(f"{file.path} of {ref}", endpoint):
            hf_hub_download(
                ref.repo_id, file.path, revision=ref.revision, local_dir=folder, endpoint=endpoint, token=token
            )

    with_retries(ask)


def _verified(chosen: Sequence[SourceFile], ref: ModelRef, folder: Path) -> tuple[FileDigest, ...]:
    """Digests of the files on disk, which are those that the listing promised.

    Raises:
        ModelRefused: naming every file that is not.
    """
    digests: list[FileDigest] = []
    problems: list[str] = []
    for file in chosen:
        size, sha256, blob_id = hash_file(folder / file.path)
        if size != file.size:
            problems.append(f"{file.path}: {size} bytes, but the source lists {file.size}")
        elif file.sha256 is not None and sha256 != file.sha256:
            problems.append(f"{file.path}: sha256 is {sha256}, but the source lists {file.sha256}")
        elif file.sha256 is None and blob_id != file.blob_id:
            problems.append(f"{file.path}: git sha1 is {blob_id}, but the source lists {file.blob_id}")
        digests.append(FileDigest(path=file.path, sha256=sha256, size=size))
    if problems:
        raise ModelRefused(f"{ref}: the downloaded bytes are not those of its listing; none is kept", problems=problems)
    return tuple(digests)


def hash_file(path: Path) -> tuple[int, str, str]:
    """Size, sha256 and git's blob sha1 of a file, in one pass."""
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), git_blob_sha1(size)
    with path.open("rb") as reader:
        while chunk := reader.read(1 << 20):
            sha256.update(chunk)
            blob.update(chunk)
    return size, sha256.hexdigest(), blob.hexdigest()


def git_blob_sha1(size: int) -> "hashlib._Hash":
    """Git's hash of a blob, ready to take its ``size`` bytes. It names content here and guards nothing."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
