"""Download the files of a model, and believe none of them before it is hashed.

The client checks sizes only over plain HTTP, warns rather than stops when the disk is too small, and begins a file
anew that broke off. So: room is reserved before the first byte, every file is hashed against the source's listing,
files that are whole are kept for the next try, and the folder appears under its name when all are. Pickles and code are
never asked for.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from tasks.domain.errors import HubUnavailable, InputError, ModelRefused
from tasks.domain.lineage import MATTERS
from tasks.domain.models import Digest, FileDigest, ModelRef
from tasks.sources.protocol import At, SourceFile
from tasks.sources.room import alone_in, reserved, with_margin

Bring = Callable[[SourceFile, Path], None]
"""Puts one file into a folder."""

ALLOWED = (*MATTERS, "LICENSE*", "NOTICE*", "README.md")
"""What is downloaded, at the top of a repository only. Weights in any other format stay where they are."""
FORBIDDEN_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py", ".so", ".zip")
"""Never downloaded, though a pattern of the allow-list may match (``tokenizer*`` matches ``tokenizer.py``)."""
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
    return with_margin(sum(file.size for file in files))


def nowhere(_sha256: Digest) -> Path | None:
    """No file is at hand."""
    return None


def download(
    listing: Sequence[SourceFile],
    ref: ModelRef,
    into: Path,
    *,
    bring: Bring,
    paths: Sequence[str] | None = None,
    at_hand: At = nowhere,
    room: Path | None = None,
) -> tuple[FileDigest, ...]:
    """Bring files into the new folder ``into``; see ``Source.fetch``.

    Args:
        listing: every file of the model, as its source tells it.
        ref: which model.
        into: must not be there yet. What has arrived of it lies in ``.<name>.partial`` beside it.
        bring: puts one file into a folder.
        paths: only these files.
        at_hand: where a file with this sha256 is on this host already.
        room: where downloads to the same disk note what they will still write; the folder of ``into`` if not given.
    """
    chosen = _chosen(listing, ref, paths)
    partial = into.with_name(f".{into.name}.partial")
    kept = False
    with alone_in(partial):
        try:
            if into.exists():
                raise InputError(f"{into} is there already; a fetch of {ref} wants a new folder")
            missing = [file for file in chosen if not _is_there(file, partial, at_hand)]
            with reserved(room or into.with_name(f".{into.name}.room"), _total(missing), partial, str(ref)):
                _bring_all(missing, partial, bring)
                # A byte may flip on the way: what is not as listed is asked for once more, and then refused.
                again = [file for file in missing if _compared(file, partial)[1]]
                for file in again:
                    (partial / file.path).unlink()
                _bring_all(again, partial, bring)
            # The client's notes on what it downloaded.
            shutil.rmtree(partial / ".cache", ignore_errors=True)
            digests = _verified(chosen, ref, partial)
            os.rename(partial, into)
        except HubUnavailable:
            kept = True  # the next try goes on with the files that are whole
            raise
        finally:
            if not kept:
                shutil.rmtree(partial, ignore_errors=True)
            if room is None:
                shutil.rmtree(into.with_name(f".{into.name}.room"), ignore_errors=True)
    return digests


def _bring_all(files: Sequence[SourceFile], folder: Path, bring: Bring) -> None:
    with ThreadPoolExecutor(STREAMS) as pool:
        waiting = [pool.submit(bring, file, folder) for file in files]
        try:
            for future in waiting:
                future.result()
        finally:
            for future in waiting:
                future.cancel()


def _is_there(file: SourceFile, folder: Path, at_hand: At) -> bool:
    """Whether a file need not be asked for: an earlier try brought it, or the host has one with its sha256."""
    place = folder / file.path
    if not place.exists() and file.sha256 is not None and (known := at_hand(file.sha256)) is not None:
        try:
            os.link(known, place)
        except OSError:
            return False  # another disk, or it has just been removed: ask for it
    if not place.exists():
        return False
    if _compared(file, folder)[1] is None:
        return True
    place.unlink()
    return False


def _total(files: Iterable[SourceFile]) -> int:
    return sum(file.size for file in files)


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


def _verified(chosen: Sequence[SourceFile], ref: ModelRef, folder: Path) -> tuple[FileDigest, ...]:
    """Digests of the files on disk, which are those that the listing promised.

    Raises:
        ModelRefused: naming every file that is not.
    """
    compared = [_compared(file, folder) for file in chosen]
    problems = [problem for _, problem in compared if problem]
    if problems:
        raise ModelRefused(f"{ref}: the downloaded bytes are not those of its listing; none is kept", problems=problems)
    return tuple(digest for digest, _ in compared)


def _compared(file: SourceFile, folder: Path) -> tuple[FileDigest, str | None]:
    """The digest of a file on disk, and in what it is not the one that the source lists."""
    size, sha256, blob_id = hash_file(folder / file.path)
    problem = None
    if size != file.size:
        problem = f"{file.path}: {size} bytes, but the source lists {file.size}"
    elif file.sha256 is not None and sha256 != file.sha256:
        problem = f"{file.path}: sha256 is {sha256}, but the source lists {file.sha256}"
    elif file.sha256 is None and blob_id != file.blob_id:
        problem = f"{file.path}: git sha1 is {blob_id}, but the source lists {file.blob_id}"
    return FileDigest(path=file.path, sha256=sha256, size=size), problem


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
