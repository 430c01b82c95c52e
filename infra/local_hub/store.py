"""What is on the local Hub: repositories, immutable commits and content-addressed blobs, as plain files.

    ROOT/blobs/ab/<sha256>              bytes of one file, written once
    ROOT/repos/ORG/NAME/repo.json       _id, dates and visibility
    ROOT/repos/ORG/NAME/commits/<sha>.json
    ROOT/repos/ORG/NAME/main            the sha that branch main points at

Everything is written beside its place and renamed, ``main`` last. A reader therefore sees a whole commit or none, and a
repository without ``main`` does not exist yet.
"""

import json
import os
import re
import uuid
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

NAME = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}$")
SHA = re.compile(r"^[0-9a-f]{40}$")


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
        return Repo(**json.loads((self._folder(repo_id) / "repo.json").read_bytes()))

    def repo_ids(self) -> list[str]:
        """Ids of all repositories that have a commit, sorted."""
        return sorted("/".join(path.parts[-3:-1]) for path in (self.root / "repos").glob("*/*/main"))

    def head(self, repo_id: str) -> str | None:
        """The sha of branch main."""
        try:
            return (self._folder(repo_id) / "main").read_text().strip()
        except FileNotFoundError:
            return None

    def commit(self, repo_id: str, revision: str) -> Commit | None:
        """The commit that ``main`` or a 40-hex revision means."""
        sha = self.head(repo_id) if revision in ("main", "refs/heads/main") else revision
        if sha is None or not SHA.match(sha):
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

    def add_commit(self, repo: Repo, commit: Commit) -> None:
        """Write the commit, then move main to it. ``repo`` is written only for the first commit."""
        folder = self._folder(repo.repo_id)
        if not (folder / "repo.json").exists():
            write_atomically(folder / "repo.json", json.dumps(asdict(repo), indent=1).encode())
        # default=str: YAML front matter may hold dates, which JSON has no word for.
        body = json.dumps(asdict(commit), indent=1, default=str).encode()
        write_atomically(folder / "commits" / f"{commit.sha}.json", body)
        write_atomically(folder / "main", commit.sha.encode())


def is_repo_id(repo_id: str) -> bool:
    """Whether ``repo_id`` is ORG/NAME; this also keeps ``..`` and absolute paths out of the store."""
    parts = repo_id.split("/")
    return len(parts) == 2 and all(NAME.match(part) and ".." not in part for part in parts)
