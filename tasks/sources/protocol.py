"""What every source of models can do, and what it tells.

A source hands out exact states only: whatever is read is read at a ModelRef, never at a branch.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tasks.domain.models import Digest, FileDigest, ModelRef, Noun, RepoId, Revision
from tasks.sources.headers import Header

At = Callable[[Digest], Path | None]
"""Where a file with this sha256 is on this host, or None."""


class RepoState(Noun):
    """One repository as a source's listing tells of it."""

    repo_id: RepoId
    internal_id: str
    """The source's own id: the same after a rename, another when a deleted name is registered again."""
    sha: Revision
    last_modified: datetime
    created_at: datetime
    """Of the repository. A private one that is opened later keeps its old date, so new is not "created since"."""
    private: bool
    gated: bool
    disabled: bool
    tags: tuple[str, ...]
    architectures: tuple[str, ...]
    parameters: int | None
    """Of all safetensors files, if the source has counted them."""

    @property
    def ref(self) -> ModelRef:
        """This state, pinned."""
        return ModelRef(repo_id=self.repo_id, revision=self.sha)


class SourceFile(Noun):
    """One file of a repository at a revision."""

    path: str
    size: int
    """Bytes."""
    sha256: Digest | None
    """Known for large files (LFS) only."""
    blob_id: str
    """git's sha1 of the file's blob; for a large file of its pointer."""


class Source(Protocol):
    """Where models come from.

    Every method raises ModelRefused when the answer is no (not there, not allowed, not sound), HubUnavailable when
    there is no answer for now.
    """

    def list_organisation(self, organisation: str) -> list[RepoState]:
        """Every model of one organisation: the full set, since a watermark misses what was private before."""
        ...

    def state(self, repo_id: str) -> RepoState:
        """One repository as it is now."""
        ...

    def resolve(self, repo_id: str, revision: str | None = None) -> ModelRef:
        """The exact state that a branch or tag means now; ``main`` if none is given."""
        ...

    def files(self, ref: ModelRef) -> list[SourceFile]:
        """Every file at that state, sorted by path."""
        ...

    def read_small(self, ref: ModelRef, path: str, max_bytes: int) -> bytes:
        """The whole of one file, refused if it is larger than ``max_bytes``."""
        ...

    def read_header(self, ref: ModelRef, path: str) -> Header:
        """The header of one safetensors file, without its tensors."""
        ...

    def read_range(self, ref: ModelRef, path: str, start: int, count: int) -> bytes:
        """Exactly ``count`` bytes of one file from byte ``start`` on; a source that cannot is refused."""
        ...

    def fetch(
        self,
        ref: ModelRef,
        into: Path,
        *,
        paths: Sequence[str] | None = None,
        at_hand: At = ...,
        room: Path | None = None,
    ) -> tuple[FileDigest, ...]:
        """Bring what a model needs into the new folder ``into``, every byte verified; all of it or nothing.

        Where the source fails half-way, the files that had arrived are kept beside ``into`` for the next try.

        Args:
            ref: which model.
            into: must not be there yet.
            paths: only these files; by default all that the allow-list of ``tasks.sources.download`` names.
            at_hand: where a file with this sha256 is on this host already; it is linked and not asked for.
            room: where downloads to the same disk note what they will still write; shared by all of them.

        Raises:
            ModelRefused: nothing to fetch, a file that may not be fetched, or bytes that are not those listed.
            DiskFull: not enough room, found out before the first byte is asked for.
            HubUnavailable: the source did not answer.
        """
        ...
