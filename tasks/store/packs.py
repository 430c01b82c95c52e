"""Artifacts that are kept as their difference to another one: ``root/packed/<digest>/`` in the place of the folder.

    weights.lbd      the weights, as the engine packs them
    weights.parent   where the parent is, from there: ``../../artifacts/<digest of the parent>``
    pack.json        what was measured
    all other files  as they were

The manifest is that of the whole artifact: its digest, and the files that come back. It is in the store for as long as
its parent is, whole.
"""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tasks.domain.models import Digest, Noun
from tasks.store.files import drop, make_durable, plain_files, sync
from tasks.store.garbage import last_used

if TYPE_CHECKING:
    from tasks.store.artifacts import ArtifactStore

FACTS, PARENT = "pack.json", "weights.parent"


class PackFacts(Noun):
    """What was measured when an artifact was packed."""

    parent: Digest
    raw_bytes: int
    """Of its weight files."""
    packed_bytes: int
    """Of what holds the same."""
    seconds: float
    proof_seconds: float
    """Of expanding it again, every file held against its sha256."""

    @property
    def ratio(self) -> float:
        """Packed bytes for each original one."""
        return self.packed_bytes / self.raw_bytes


class Packs:
    """The packed artifacts of a store."""

    def __init__(self, store: "ArtifactStore") -> None:
        self._store = store
        self.root = store.root / "packed"

    def place(self, digest: str) -> Path:
        """Where the pack of an artifact is, or would be."""
        return self.root / digest

    def digests(self) -> list[Digest]:
        """Every artifact that has a pack."""
        return sorted(path.name for path in self.root.iterdir() if (path / FACTS).is_file())

    def facts(self, digest: str) -> PackFacts | None:
        """What was measured of a packed artifact; None of one that is whole, or not there."""
        if self._store.is_whole(digest):
            return None
        try:
            told: Any = json.loads((self.place(digest) / FACTS).read_bytes())
        except FileNotFoundError:
            return None
        return PackFacts.model_validate(told)

    def has(self, digest: str) -> bool:
        """Whether a pack is there with its parent, so that it can be read."""
        facts = self.facts(digest)
        return facts is not None and self._store.is_whole(facts.parent)

    def children(self, parent: str) -> list[Digest]:
        """What is packed against an artifact."""
        packed = {digest: self.facts(digest) for digest in self.digests()}
        return [digest for digest, facts in packed.items() if facts is not None and facts.parent == parent]

    def adopt(self, digest: Digest, folder: Path, facts: PackFacts, unused_since: datetime) -> bool:
        """Put a pack in the place of an artifact; False, and the artifact stays, if that was used meanwhile.

        Args:
            digest: of the artifact, which is in the store.
            folder: the pack, on the store's disk; it is moved, or dropped.
            facts: what was measured.
            unused_since: when it was made sure that nobody reads the artifact.
        """
        (folder / FACTS).write_text(facts.model_dump_json(), encoding="utf-8")
        parent = os.path.relpath(self._store.root / "artifacts" / facts.parent, self.place(digest))
        (folder / PARENT).write_text(parent + "\n", encoding="utf-8")
        make_durable(folder, plain_files(folder))
        store, gone = self._store, self._store.scratch(f"packed-{digest[:12]}-{uuid4().hex[:8]}")
        with store.one_at_a_time():
            usable = store.is_whole(digest) and store.is_whole(facts.parent) and not self.children(digest)
            if usable and last_used(store, digest) <= unused_since:
                self.drop(digest)
                folder.rename(self.place(digest))
                sync(self.root)
                whole = store.root / "artifacts" / digest
                whole.chmod(0o755)  # moving a read-only folder is refused to all but root
                whole.rename(gone / "model")
                sync(whole.parent)
        kept = (gone / "model").exists()
        for left in (gone, folder):
            if left.exists():
                drop(left)
        return kept

    def drop(self, digest: Digest) -> None:
        """Remove a pack, if there is one."""
        if self.place(digest).is_dir():
            gone = self._store.scratch(f"unpacked-{digest[:12]}-{uuid4().hex[:8]}")
            self.place(digest).rename(gone / "model")  # at once: half a pack would never be found again
            drop(gone)
