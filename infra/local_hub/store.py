"""What is on the local Hub: repositories, immutable commits and content-addressed blobs, as plain files.

    ROOT/blobs/ab/<sha256>              bytes of one file, written once
    ROOT/repos/ORG/NAME/repo.json       _id, dates and visibility
    ROOT/repos/ORG/NAME/commits/<sha>.json
    ROOT/repos/ORG/NAME/main            the sha that branch main points at
    ROOT/repos/ORG/NAME/refs.json       other branches, and tags
    ROOT/moved.json                     old id -> new id of renamed repositories
    ROOT/locks/ORG/NAME                 writers of one repository take turns; locks/.moved: those of moved.json

Everything is written beside its place and renamed, ``main`` last. A reader therefore sees a whole commit or none, and a
repository without ``main`` does not exist yet.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
SHA = re.compile(r"[0-9a-f]{40}")
MOVES = ".moved"
"""The lock of moved.json; no organisation can be called so."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit."""

    path: str
    size: int
    sha256: str
    oid: str
    """git's sha1 of the blob; for a large file of its LFS pointer, as the real Hub has it."""
    lfs: bool

    @property
    def pointer(self) -> bytes:
        """The text that git would hold in place of a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()


@dataclass(frozen=True)
class Commit:
    """One immutable state of a repository, with what listings tell of it, read once when it was pushed."""

    sha: str
    parent: str | None
    message: str
    date: str
    files: tuple[StoredFile, ...]
    card: dict[str, Any]
    config: dict[str, Any]
    safetensors: dict[str, Any] | None

    def file(self, path: str) -> StoredFile | None:
        """The file at exactly ``path``."""
        return next((f for f in self.files if f.path == path), None)


@dataclass(frozen=True)
class Repo:
    """A repository. ``private``, ``gated`` and ``disabled`` are read by the server on each request."""

    repo_id: str
    internal_id: str
    """24 hex digits like the Hub's object id: kept over renames, new when a name is used again."""
    created_at: str
    private: bool = False
    gated: str | bool = False
    disabled: bool = False
    readers: tuple[str, ...] = ()
    """Users who were let in by hand where ``gated`` is "manual"."""


def write_atomically(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` so that a reader sees the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@lru_cache(maxsize=4096)
def _read_commit(path: Path) -> Commit:
    """Commits never change, so each is parsed once per process."""
    raw = json.loads(path.read_bytes())
    raw["files"] = tuple(StoredFile(**entry) for entry in raw["files"])
    return Commit(**raw)


class Store:
    """Reading and writing of one ROOT folder. Holds no state: several processes may use one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _folder(self, repo_id: str) -> Path:
        return self.root / "repos" / repo_id

    def blob_path(self, sha256: str) -> Path:
        """Where the bytes with this digest are, or will be."""
        return self.root / "blobs" / sha256[:2] / sha256

    def repo(self, repo_id: str) -> Repo | None:
        """The repository, or None when there is none or nothing was pushed to it yet."""
        if not is_repo_id(repo_id) or self.head(repo_id) is None:
            return None
        told = json.loads((self._folder(repo_id) / "repo.json").read_bytes())
        # The folder says what it is called: between the two steps of a rename the file may not know yet.
        return Repo(**told | {"repo_id": repo_id, "readers": tuple(told.get("readers", ()))})

    def repo_ids(self) -> list[str]:
        """Ids of all repositories that have a commit, sorted."""
        return sorted("/".join(path.parts[-3:-1]) for path in (self.root / "repos").glob("*/*/main"))

    def head(self, repo_id: str, branch: str = "main") -> str | None:
        """The sha that a branch points at."""
        if branch != "main":
            return self.refs(repo_id)["branches"].get(branch)
        try:
            return (self._folder(repo_id) / "main").read_text().strip()
        except FileNotFoundError:
            return None

    def refs(self, repo_id: str) -> dict[str, dict[str, str]]:
        """``branches`` other than main, and ``tags``: name -> sha."""
        refs: dict[str, dict[str, str]] = {"branches": {}, "tags": {}}
        try:
            refs |= json.loads((self._folder(repo_id) / "refs.json").read_bytes())
        except FileNotFoundError:
            pass  # most repositories have main alone
        return refs

    def set_ref(self, repo_id: str, kind: str, name: str, sha: str | None) -> None:
        """Point a tag or branch (``kind`` "tags" or "branches") at ``sha``, or take it away; main only moves."""
        if (kind, name) == ("branches", "main"):
            assert sha is not None
            write_atomically(self._folder(repo_id) / "main", sha.encode())
            return
        refs = self.refs(repo_id)
        refs[kind].pop(name, None)
        refs[kind] |= {name: sha} if sha is not None else {}
        write_atomically(self._folder(repo_id) / "refs.json", json.dumps(refs, indent=1).encode())

    def commit(self, repo_id: str, revision: str) -> Commit | None:
        """The commit that a branch, a tag or a 40-hex revision means."""
        name = revision.removeprefix("refs/heads/")
        sha = self.head(repo_id, name) or self.refs(repo_id)["tags"].get(name) or revision
        if not SHA.fullmatch(sha):
            return None
        try:
            return _read_commit(self._folder(repo_id) / "commits" / f"{sha}.json")
        except FileNotFoundError:
            return None

    def history(self, repo_id: str, revision: str) -> list[Commit]:
        """The commit and its ancestors, newest first."""
        found: list[Commit] = []
        commit = self.commit(repo_id, revision)
        while commit is not None:
            found.append(commit)
            commit = self.commit(repo_id, commit.parent) if commit.parent else None
        return found

    def add_commit(self, repo: Repo, commit: Commit, branch: str = "main") -> None:
        """Write the commit, then move the branch to it. ``repo`` is written only for the first commit."""
        folder = self._folder(repo.repo_id)
        if not (folder / "repo.json").exists():
            self.write_repo(repo)
        # default=str: YAML front matter may hold dates, which JSON has no word for.
        body = json.dumps(asdict(commit), indent=1, default=str).encode()
        write_atomically(folder / "commits" / f"{commit.sha}.json", body)
        self.set_ref(repo.repo_id, "branches", branch, commit.sha)

    def write_repo(self, repo: Repo) -> None:
        """Record what is told of a repository: dates, visibility, who was let in."""
        write_atomically(self._folder(repo.repo_id) / "repo.json", json.dumps(asdict(repo), indent=1).encode())

    def moved_to(self, repo_id: str) -> str | None:
        """What a renamed repository is called now; None if it was never renamed, or its old name is in use again."""
        moved, seen = self._moved(), {repo_id}
        while (repo_id := moved.get(repo_id, "")) not in seen | {""}:
            if self.repo(repo_id) is not None:
                return repo_id
            seen.add(repo_id)
        return None

    def move(self, repo: Repo, new_id: str) -> None:
        """Rename: same ``_id``, same history; the old name leads to the new one."""
        with self.locked(MOVES):
            target = self._folder(new_id)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self._folder(repo.repo_id), target)
            told = json.loads((target / "repo.json").read_bytes())
            write_atomically(target / "repo.json", json.dumps(told | {"repo_id": new_id}, indent=1).encode())
            moved = {old: new for old, new in self._moved().items() if old != new_id} | {repo.repo_id: new_id}
            write_atomically(self.root / "moved.json", json.dumps(moved, indent=1).encode())

    def delete(self, repo_id: str) -> None:
        """Take a repository away at one moment. Blobs stay, since others may have the same files."""
        gone = self.root / "deleted" / uuid.uuid4().hex
        gone.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self._folder(repo_id), gone)
        shutil.rmtree(gone)

    def _moved(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads((self.root / "moved.json").read_bytes())
        except FileNotFoundError:
            return {}
        return found

    @contextmanager
    def new_blob(self) -> Iterator["BlobWriter"]:
        """A blob in the making; what was not kept when the block ends is gone."""
        landing = self.root / "blobs" / f".{uuid.uuid4().hex}"
        landing.parent.mkdir(parents=True, exist_ok=True)
        try:
            with landing.open("wb") as handle:
                yield BlobWriter(self, landing, handle)
        finally:
            landing.unlink(missing_ok=True)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Writers of one repository take turns, also over processes, so that none loses another's commit.

        Raises:
            ValueError: ``name`` is neither a repository id nor ``MOVES``, so its lock could lie anywhere.
        """
        if name != MOVES and not is_repo_id(name):
            raise ValueError(f"{name!r} is not ORG/NAME: there is no lock of that name")
        path = self.root / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


class BlobWriter:
    """Hashes the bytes that it writes: the source of a push may change under us."""

    def __init__(self, store: Store, landing: Path, handle: BinaryIO) -> None:
        self._store, self._landing, self._handle = store, landing, handle
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Append."""
        self._sha256.update(chunk)
        self.size += len(chunk)
        self._handle.write(chunk)

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._sha256.hexdigest()

    def keep(self) -> None:
        """Put the blob in its place."""
        self._handle.flush()
        blob = self._store.blob_path(self.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        self._landing.chmod(0o444)
        os.replace(self._landing, blob)


def is_repo_id(repo_id: str) -> bool:
    """Whether ``repo_id`` is ORG/NAME; this also keeps ``..`` and absolute paths out of the store."""
    parts = repo_id.split("/")
    return len(parts) == 2 and all(NAME.fullmatch(part) and ".." not in part for part in parts)
