"""A directory as a source, for labs that no network reaches: ``ROOT/ORG/NAME/`` holds one model each.

What was carried in with ``huggingface_hub``'s ``local_dir`` brings the Hub's commit along, and then has the Hub's
revision. Anything else is given one of its own: sha1 over paths, sizes and times, which changes when the files do. What
the files are is told by their sha256 as everywhere, so a copy with other times is known for what it is.

A folder that is being written changes its revision from poll to poll, and is left alone until it stands still.
"""

import os
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.models import FileDigest, ModelRef
from tasks.sources.calls import Calls
from tasks.sources.cards import CARD, CARD_BYTES, parse_card
from tasks.sources.download import download, hash_file, is_allowed, nowhere
from tasks.sources.headers import MAX_HEADER_BYTES, Header, header_length, parse_header
from tasks.sources.local_files import Snapshot, snapshot
from tasks.sources.protocol import At, RepoState, SourceFile

SCHEME = "file"
HEAD = ("main", "refs/heads/main")
"""What means the state as it is now."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")


class DirectorySource:
    """Models below one directory. It knows no branches, no gates, and no ids that outlive a rename."""

    def __init__(self, root: Path) -> None:
        """Remember where to look.

        Raises:
            InputError: ``root`` is not a directory.
        """
        if not root.is_dir():
            raise InputError(f"{root} is not a directory; expected one that holds ORG/NAME folders of models")
        self.root = root.absolute()
        self.endpoint = self.root.as_uri()
        self.calls = Calls(signed=False)

    @classmethod
    def at(cls, url: str) -> "DirectorySource":
        """The source of a ``file:///srv/models`` address."""
        parts = urlsplit(url)
        if parts.scheme != SCHEME or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InputError(f"{url!r} is no directory; expected such as file:///srv/models")
        return cls(Path(unquote(parts.path)))

    def __repr__(self) -> str:
        return f"DirectorySource({str(self.root)!r})"

    def list_organisation(self, organisation: str) -> list[RepoState]:
        """Every folder of one organisation that has a file in it, sorted by repository id."""
        place = self.root / organisation
        if not NAME.fullmatch(organisation) or not place.is_dir():
            return []
        names = sorted(entry.name for entry in place.iterdir() if NAME.fullmatch(entry.name) and entry.is_dir())
        found = [(f"{organisation}/{name}", snapshot(place / name)) for name in names]
        return [self._state(repo_id, seen) for repo_id, seen in found if seen.files]

    def state(self, repo_id: str) -> RepoState:
        """One repository as it is now."""
        return self._state(repo_id, self._now(repo_id))

    def resolve(self, repo_id: str, revision: str | None = None) -> ModelRef:
        """The exact state now; a directory has no other, whatever its revision."""
        seen = self._now(repo_id)
        if revision is not None and revision not in (*HEAD, seen.revision):
            raise ModelRefused(
                f"{repo_id}@{revision}: {self.root} has no such revision; a directory has one state, and that is "
                f"{seen.revision}"
            )
        return ModelRef(repo_id=repo_id, revision=seen.revision)

    def files(self, ref: ModelRef) -> list[SourceFile]:
        """Every file at that state, sorted by path. Those that a download takes are hashed, once per process."""
        seen = self._at(ref)
        found = []
        for path in sorted(seen.files):
            size, moment = seen.files[path]
            # Files that nobody downloads are not read: a folder may hold pickles of any size.
            sha256, blob = _hashes(seen.folder / path, size, moment) if is_allowed(path) else (None, "0" * 40)
            found.append(SourceFile(path=path, size=size, sha256=sha256, blob_id=blob))
        self._at(ref)  # hashing takes minutes: what changed meanwhile is another state
        return found

    def read_small(self, ref: ModelRef, path: str, max_bytes: int) -> bytes:
        """The whole of one file."""
        place = self._file(ref, path)
        if (size := place.stat().st_size) > max_bytes:
            raise ModelRefused(f"{path} of {ref}: {size} bytes; at most {max_bytes} were expected")
        content = place.read_bytes()
        self.calls.read(len(content))
        return content

    def read_header(self, ref: ModelRef, path: str) -> Header:
        """The header of one safetensors file."""
        place, where = self._file(ref, path), f"{path} of {ref}"
        total = place.stat().st_size
        with place.open("rb") as reader:
            length = header_length(reader.read(8), where)
            if 8 + length > total:
                raise ModelRefused(f"{where}: truncated: {total} bytes, but its header alone has {length}")
            content = reader.read(min(length, MAX_HEADER_BYTES))
        self.calls.read(8 + len(content))
        return parse_header(content, total, path, where)

    def read_range(self, ref: ModelRef, path: str, start: int, count: int) -> bytes:
        """A part of one file."""
        with self._file(ref, path).open("rb") as reader:
            reader.seek(start)
            content = reader.read(count)
        self.calls.read(len(content))
        if len(content) != count:
            raise ModelRefused(f"{path} of {ref}: it has {len(content)} of {count} bytes from byte {start} on")
        return content

    def fetch(
        self,
        ref: ModelRef,
        into: Path,
        *,
        paths: Sequence[str] | None = None,
        at_hand: At = nowhere,
        room: Path | None = None,
    ) -> tuple[FileDigest, ...]:
        """Copy what a model needs into the new folder ``into``; see ``Source.fetch``."""

        def bring(file: SourceFile, folder: Path) -> None:
            half = folder / f".{file.path}.half"
            shutil.copyfile(self._file(ref, file.path), half)
            os.replace(half, folder / file.path)

        return download(self.files(ref), ref, into, bring=bring, paths=paths, at_hand=at_hand, room=room)

    def _now(self, repo_id: str) -> Snapshot:
        parts = repo_id.split("/")
        if len(parts) != 2 or not all(NAME.fullmatch(part) for part in parts):
            raise ModelRefused(f"{repo_id}: not a repository id that {self.root} can have; expected ORG/NAME")
        seen = snapshot(self.root / repo_id)
        if not seen.files:
            raise ModelRefused(f"{repo_id}: {self.root} has no such repository")
        return seen

    def _at(self, ref: ModelRef) -> Snapshot:
        """What is there, if it is still that revision."""
        seen = self._now(ref.repo_id)
        if seen.revision != ref.revision:
            raise ModelRefused(f"{ref}: {self.root} has no such revision any more; it has {seen.revision} now")
        return seen

    def _file(self, ref: ModelRef, path: str) -> Path:
        seen = self._at(ref)
        if path not in seen.files:
            raise ModelRefused(f"{path} of {ref}: {self.root} has no such file")
        return seen.folder / path

    def _state(self, repo_id: str, seen: Snapshot) -> RepoState:
        card = seen.folder / CARD
        text = card.read_bytes()[:CARD_BYTES].decode("utf-8", errors="replace") if CARD in seen.files else ""
        moments = [moment for _, moment in seen.files.values()]
        return RepoState(
            repo_id=repo_id,
            internal_id="",
            sha=seen.revision,
            last_modified=datetime.fromtimestamp(max(moments) / 1e9, UTC),
            created_at=datetime.fromtimestamp(min(moments) / 1e9, UTC),
            private=False,
            gated=False,
            disabled=False,
            tags=tuple(f"base_model:{origin}" for origin in parse_card(text).made_from),
            architectures=(),
            parameters=None,
        )


@lru_cache(maxsize=4096)
def _hashes(path: Path, size: int, moment: int) -> tuple[str, str]:
    """sha256 and git's sha1 of a file, remembered for as long as its size and time are the same."""
    _, sha256, blob = hash_file(path)
    return sha256, blob
