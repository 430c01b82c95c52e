"""Taking artifacts out of the store, and what the store takes up. What may go is decided in ``tasks/garbage.py``.

An artifact carries the moment of its last use: the time stamp of its manifest. Whoever reads it renews that, and so
does every collection for what is still referred to: what was not used for a week was not referred to for a week.
"""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tasks.domain.models import Digest
from tasks.store.files import drop, sync

if TYPE_CHECKING:
    from tasks.store.artifacts import ArtifactStore


def last_used(store: "ArtifactStore", digest: Digest) -> datetime:
    """When the artifact was read, referred to or taken in last."""
    return datetime.fromtimestamp(store.manifest_of(digest).stat().st_mtime, UTC)


def keep(store: "ArtifactStore", digests: Iterable[Digest]) -> None:
    """Renew the last use of what is referred to; what is not in the store is passed over."""
    for digest in digests:
        store.use(digest)


def remove(store: "ArtifactStore", digest: Digest, unused_since: datetime) -> bool:
    """Take an artifact out, unless it was used after ``unused_since``; whether it was.

    The rename is the commit point: from then on the store has not got it. A process that asks with ``use`` either asks
    before, and the artifact stays, or is told that it is not there. What is left after a kill lies in scratch.
    """
    with store.one_at_a_time():
        if not is_removable(store, digest) or last_used(store, digest) > unused_since:
            return False
        place, gone = store.folder_of(digest), store.scratch(f"removed-{digest[:12]}-{uuid4().hex[:8]}")
        place.chmod(0o755)  # moving a read-only folder is refused to all but root
        place.rename(gone / "model")
        store.manifest_of(digest).unlink()
        sync(place.parent)
        store.packs.drop(digest)
    drop(gone)
    return True


def is_removable(store: "ArtifactStore", digest: Digest) -> bool:
    """Whether it is in the store, or is a pack whose parent went before it, so that nobody can read it."""
    return store.has(digest) or (store.packs.facts(digest) is not None and store.manifest_of(digest).exists())


def drop_lone_manifests(store: "ArtifactStore") -> None:
    """Remove manifests whose artifact is not there, and packs of what is whole: what kills in the middle leave."""
    with store.one_at_a_time():
        for digest in store.packs.digests():
            if store.is_whole(digest):
                store.packs.drop(digest)
        there = set(store.digests())
        for manifest in sorted((store.root / "manifests").glob("*.json")):
            if manifest.stem not in there:
                manifest.unlink()


def bytes_under(folder: Path) -> int:
    """What the files below ``folder`` take up; a file with several names counts once. Others may be at work there."""
    seen: set[int] = set()
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            if found.st_ino not in seen:
                seen.add(found.st_ino)
                total += found.st_size
    return total
