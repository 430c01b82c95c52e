"""Making commits: the one way in which a push and an upload over HTTP change a repository.

The sha is a sha1 over repository, parent, files, message and date, so that the same commits in the same order have the
same shas on every machine. A commit that changes nothing is not made, as on the real Hub.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from infra.local_hub.describe import read_card, read_config, read_safetensors_totals
from infra.local_hub.store import Commit, Repo, Store, StoredFile

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.model", "*.msgpack", "*.h5")
"""The part of the real Hub's default .gitattributes that model folders meet."""
LFS_BYTES = 10 * 1024 * 1024
"""Larger files go to LFS whatever their name, as on the real Hub."""


def is_lfs(path: str, size: int) -> bool:
    """Whether a file is stored by LFS: told by its name, or by its size."""
    name = path.rpartition("/")[2]
    return size > LFS_BYTES or (size > 0 and any(fnmatchcase(name, pattern) for pattern in LFS_PATTERNS))


def store_file(store: Store, path: str, chunks: Iterable[bytes]) -> StoredFile:
    """Keep the content of one file, and say how a commit names it."""
    with store.new_blob() as blob:
        for chunk in chunks:
            blob.write(chunk)
        blob.keep()
    return named_file(store, path, blob.sha256, blob.size, lfs=is_lfs(path, blob.size))


def named_file(store: Store, path: str, sha256: str, size: int, *, lfs: bool) -> StoredFile:
    """A file of a commit whose bytes are there already."""
    stored = StoredFile(path, size, sha256, "", lfs)
    content = stored.pointer if lfs else store.blob_path(sha256).read_bytes()
    return StoredFile(path, size, sha256, git_blob_sha1(content), lfs)


def git_blob_sha1(content: bytes) -> str:
    """What ``git hash-object`` says."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def new_repo(repo_id: str, date: str, *, private: bool = False) -> Repo:
    """A repository with an ``_id`` of its own; like the Hub's, it begins with the time of its making."""
    stamp = int(datetime.fromisoformat(date).timestamp())
    return Repo(repo_id, f"{stamp & 0xFFFFFFFF:08x}{secrets.token_hex(8)}", date, private=private)


def add_commit(
    store: Store, repo: Repo, files: Iterable[StoredFile], *, message: str, date: str, branch: str = "main"
) -> str:
    """Make ``files`` the content of a branch, as one commit on its head. The caller holds the repository's lock.

    Returns:
        The commit's sha; that of the head if the files are the same as in it.
    """
    listed = tuple(sorted(files, key=lambda file: file.path))
    parent = store.head(repo.repo_id, branch)
    if parent is not None:
        present = store.commit(repo.repo_id, parent)
        if present is not None and present.files == listed:
            return parent
    identity = [repo.repo_id, parent, [[f.path, f.sha256, f.oid] for f in listed], message, date]
    sha = hashlib.sha1(json.dumps(identity, separators=(",", ":")).encode(), usedforsecurity=False).hexdigest()
    blobs = {file.path: store.blob_path(file.sha256) for file in listed}
    commit = Commit(
        sha=sha,
        parent=parent,
        message=message,
        date=date,
        files=listed,
        card=read_card(blobs),
        config=read_config(blobs),
        safetensors=read_safetensors_totals(blobs),
    )
    store.add_commit(repo, commit, branch)
    return sha


def in_utc(moment: datetime) -> str:
    """``moment`` in UTC with milliseconds and a Z, the only form that the client parses."""
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
