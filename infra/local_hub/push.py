"""Push a folder as one commit, the way a lab's upload ends: visible whole, at one moment.

The sha is a sha1 over repository, parent, files, message and date, so that the same pushes in the same order give the
same shas on every machine. Pushing what is there already makes no commit, as on the real Hub.
"""

import fcntl
import hashlib
import json
import os
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from infra.local_hub.describe import read_card, read_config, read_safetensors_totals
from infra.local_hub.store import Commit, Repo, Store, StoredFile, is_repo_id

LFS_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.model", "*.msgpack", "*.h5")
"""The part of the real Hub's default .gitattributes that model folders meet."""
LFS_BYTES = 10 * 1024 * 1024
"""Larger files go to LFS whatever their name, as on the real Hub."""
IGNORED_FOLDERS = (".git", ".cache", "__pycache__")


class PushRefused(Exception):
    """The folder or the repository id cannot be pushed. Nothing was written."""


def push_folder(root: Path, repo_id: str, folder: Path, message: str = "Upload model", when: str | None = None) -> str:
    """Push every file of ``folder`` to ``repo_id`` as one commit; files that are not in ``folder`` are gone in it.

    Args:
        root: the store of the Hub; made if it is not there.
        repo_id: ORG/NAME; made if it is not there.
        folder: what to push. ``.git``, ``.cache`` and ``__pycache__`` are left out.
        message: the commit's message.
        when: ISO 8601 with a time zone; now if not given.

    Returns:
        The commit's sha; the present one if the files are the same as in it.

    Raises:
        PushRefused: no such folder, no files in it, or not ORG/NAME.
    """
    if not is_repo_id(repo_id):
        raise PushRefused(f"{repo_id!r} is not a repository id; expected ORG/NAME, such as demo-lab/llama-tiny")
    paths = _files_of(folder)
    date = _canonical_date(when)
    store = Store(root)
    with _locked(root, repo_id):
        files = tuple(_ingest(store, folder, path) for path in paths)
        parent = store.head(repo_id)
        if parent is not None:
            present = store.commit(repo_id, parent)
            if present is not None and present.files == files:
                return parent
        identity = [repo_id, parent, [[f.path, f.sha256, f.oid] for f in files], message, date]
        sha = hashlib.sha1(json.dumps(identity, separators=(",", ":")).encode(), usedforsecurity=False).hexdigest()
        commit = Commit(
            sha=sha,
            parent=parent,
            message=message,
            date=date,
            files=files,
            card=read_card(folder),
            config=read_config(folder),
            safetensors=read_safetensors_totals(folder),
        )
        stamp = int(datetime.fromisoformat(date).timestamp())
        store.add_commit(Repo(repo_id, f"{stamp & 0xFFFFFFFF:08x}{secrets.token_hex(8)}", date), commit)
    return sha


def _files_of(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise PushRefused(f"{folder} is not a folder; expected the folder of a model")
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        found += [Path(place, name).relative_to(folder).as_posix() for name in names]
    if not found:
        raise PushRefused(f"{folder} holds no files; expected a model (config.json, *.safetensors, tokenizer)")
    return sorted(found)


def _canonical_date(when: str | None) -> str:
    """``when`` in UTC with milliseconds and a Z, the only form that the client parses."""
    try:
        moment = datetime.now(UTC) if when is None else datetime.fromisoformat(when)
    except ValueError as error:
        raise PushRefused(f"date {when!r} is not ISO 8601; expected such as 2026-11-20T09:00:00Z") from error
    if moment.tzinfo is None:
        raise PushRefused(f"date {when!r} has no time zone; expected such as 2026-11-20T09:00:00Z")
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _ingest(store: Store, folder: Path, path: str) -> StoredFile:
    """Copy one file into the blobs, hashing the bytes that are copied (the source may change under us)."""
    source = folder / path
    landing = store.root / "blobs" / f".{uuid.uuid4().hex}"
    landing.parent.mkdir(parents=True, exist_ok=True)
    sha256, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as reader, landing.open("wb") as writer:
            while chunk := reader.read(1 << 20):
                sha256.update(chunk)
                size += len(chunk)
                writer.write(chunk)
        lfs = size > LFS_BYTES or any(fnmatchcase(source.name, pattern) for pattern in LFS_PATTERNS)
        stored = StoredFile(path, size, sha256.hexdigest(), "", lfs)
        oid = git_blob_sha1(stored.pointer if lfs else landing.read_bytes())
        blob = store.blob_path(stored.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        landing.chmod(0o444)
        os.replace(landing, blob)
    finally:
        landing.unlink(missing_ok=True)
    return StoredFile(path, size, stored.sha256, oid, lfs)


def git_blob_sha1(content: bytes) -> str:
    """What ``git hash-object`` says."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def _locked(root: Path, repo_id: str) -> Iterator[None]:
    """Two pushes to one repository take turns, so that neither loses the other's commit."""
    folder = root / "repos" / repo_id
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
