"""The operations of one commit, applied to the files that are there: all of them, or none."""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any

from infra.local_hub.commits import LFS_BYTES, named_file, store_file
from infra.local_hub.store import Commit, Store, StoredFile

DIGEST = re.compile(r"[0-9a-f]{64}")


class CommitRefused(Exception):
    """An operation that cannot be done; the commit is not made."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        self.missing = missing
        """Whether something that should be deleted is not there."""
        super().__init__(message)


def apply_operations(store: Store, present: Commit, operations: Iterable[dict[str, Any]]) -> list[StoredFile]:
    """The files after ``operations``, in the form of the client's ndjson.

    Raises:
        CommitRefused: a path outside the repository, a large file whose bytes are not there, nothing to delete.
    """
    files = {file.path: file for file in present.files}
    for operation in operations:
        kind, value = operation.get("key"), operation.get("value", {})
        path = str(value.get("path", ""))
        if kind == "file":
            files[_inside(path)] = _regular(store, path, value)
        elif kind == "lfsFile":
            files[_inside(path)] = _large(store, path, value)
        elif kind in ("deletedFile", "deletedFolder"):
            gone = [p for p in files if p == path or (kind == "deletedFolder" and p.startswith(f"{path.rstrip('/')}/"))]
            if not gone:
                raise CommitRefused(f"A file with this name doesn't exist: {path}", missing=True)
            for name in gone:
                del files[name]
        else:
            raise CommitRefused(f"operation {kind!r} is none of file, lfsFile, deletedFile, deletedFolder")
    return list(files.values())


def _inside(path: str) -> str:
    """``path``, which must lie in the repository."""
    parts = path.split("/")
    if not path or "\0" in path or any(part in ("", ".", "..", ".git") for part in parts):
        raise CommitRefused(f"{path!r} is not a path inside a repository")
    return path


def _regular(store: Store, path: str, value: dict[str, Any]) -> StoredFile:
    try:
        content = base64.b64decode(value["content"], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise CommitRefused(f"{path}: its content is not base64: {error}") from error
    if len(content) > LFS_BYTES:
        raise CommitRefused(f"{path}: {len(content)} bytes; files over {LFS_BYTES} go by LFS")
    stored = store_file(store, path, [content])
    return named_file(store, path, stored.sha256, stored.size, lfs=False)


def _large(store: Store, path: str, value: dict[str, Any]) -> StoredFile:
    sha256 = str(value.get("oid"))
    blob = store.blob_path(sha256)
    if not DIGEST.fullmatch(sha256) or not blob.exists():
        raise CommitRefused(f"{path}: LFS object {sha256} was not uploaded")
    size = blob.stat().st_size
    if value.get("size", size) != size:
        raise CommitRefused(f"{path}: LFS object {sha256} has {size} bytes, not {value['size']}")
    return named_file(store, path, sha256, size, lfs=True)
