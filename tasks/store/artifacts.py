"""Artifacts on disk: immutable folders named by their content digest.

    root/artifacts/<digest>/        the folder as it was made; files 0444, folders 0555
    root/manifests/<digest>.json    every file's path, sha256 and size, those outside the digest too
    root/packed/<digest>/           one that is kept as its difference to another instead (packs.py)
    root/scratch/<name>/            half-done work, on the same file system, so that adopting it is one rename
    root/owners/<name>.json         the process that it is of: host, pid, start

The rename is the commit point: what stands under ``artifacts`` is whole.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from tasks.domain.errors import DiskFull, InputError, ModelRefused
from tasks.domain.lineage import content_digest
from tasks.domain.models import Artifact, Digest, FileDigest
from tasks.store.files import drop, hash_all, make_durable, newest_change, plain_files, sync
from tasks.store.garbage import bytes_under
from tasks.store.identity import is_gone, own_identity
from tasks.store.packs import Packs

HEADROOM_BYTES = 256 << 20
"""Kept free by ``reserve``: the ledger and Prefect's database write to the same disk."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class ArtifactStore:
    """The artifacts of one host. Safe to use from several processes at once."""

    def __init__(
        self, root: Path, *, headroom_bytes: int = HEADROOM_BYTES, quota_bytes: int = 0, read_only: bool = False
    ) -> None:
        self.root = root.absolute()
        self.headroom_bytes = headroom_bytes
        self.quota_bytes = quota_bytes
        """What artifacts may take up together; 0 for as much as the disk has."""
        self.packs = Packs(self)
        """Those that are kept as their difference to another one."""
        self.read_only = read_only
        """Nothing is written, not even when an artifact was used last: for a store that is mounted so."""
        if read_only:
            return
        for room in ("artifacts", "packed", "manifests", "scratch", "owners"):
            (self.root / room).mkdir(parents=True, exist_ok=True)
        (self.root / ".lock").touch()

    # --- taking in ---------------------------------------------------------------------------------------------------
    def adopt(self, folder: Path) -> Artifact:
        """Move ``folder`` into the store and make it read-only.

        If the store has these contents already, ``folder`` is dropped and the stored artifact is returned. A folder on
        another file system is copied first, and is removed when the copy is in its place.

        Raises:
            ModelRefused: if it holds no weights, or anything that is not a plain file or folder.
            DiskFull: if there is no room; the store is unchanged, and ``folder`` stays where it is.
        """
        folder = folder.absolute()
        if folder.is_symlink() or not folder.is_dir():
            raise ModelRefused(f"{folder} is not a folder; give the folder that holds the model")
        if self.root / "artifacts" in (folder, *folder.parents):
            raise InputError(f"{folder} is in the store already; use get({folder.name!r})")
        if folder.stat().st_dev != self.root.stat().st_dev:
            return self._adopt_from_elsewhere(folder)
        paths = plain_files(folder)
        make_durable(folder, paths)
        files = hash_all(folder, paths)
        try:
            digest = content_digest(files)
        except ValueError as error:
            raise ModelRefused(f"{folder} cannot be an artifact: {error}") from error
        place = self._place(digest)
        with self.one_at_a_time():
            if not place.is_dir():
                self._write_manifest(digest, files)
                folder.rename(place)
                sync(place.parent)
                sync(folder.parent)
            self.packs.drop(digest)  # what is whole needs none
        for path in (place, *(p for p in place.rglob("*") if p.is_dir())):
            path.chmod(0o555)  # after the rename: moving a read-only folder is refused to all but root
        if folder.exists():
            drop(folder)
        return self.get(digest)

    def scratch(self, name: str, *, outlives: bool = False) -> Path:
        """A folder for half-done work, made if it is not there; the same name gives the same folder, to go on in.

        With `outlives` it stays when its process is gone, for the next one to go on in, until it is old.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} cannot name a scratch folder; use letters, digits and . _ - (200 at most)")
        path = self.root / "scratch" / name
        path.mkdir(exist_ok=True)
        os.utime(path)
        if outlives:
            return path
        owner = [socket.gethostname(), *own_identity()]
        (self.root / "owners" / f"{name}.json").write_text(json.dumps(owner), encoding="utf-8")
        return path

    def drop_orphans(self) -> list[Path]:
        """Remove scratch folders of processes of this host that are gone, by pid and start time; what was removed."""
        orphans = self.orphans()
        for path in orphans:
            drop(path)
        for owner in (self.root / "owners").iterdir():
            if not (self.root / "scratch" / owner.stem).exists():
                owner.unlink(missing_ok=True)
        return orphans

    def orphans(self) -> list[Path]:
        """Scratch folders of processes of this host that are gone."""
        owners = sorted((self.root / "owners").iterdir())
        here = [(self.root / "scratch" / owner.stem, owner) for owner in owners]
        return [path for path, owner in here if path.exists() and _is_gone(owner)]

    def sweep_scratch(self, older_than: timedelta) -> list[Path]:
        """Remove scratch folders in which nothing was written for ``older_than``; what was removed."""
        limit = time.time() - older_than.total_seconds()
        old = [p for p in sorted((self.root / "scratch").iterdir()) if newest_change(p) < limit]
        for path in old:
            drop(path)
        return old

    # --- looking up --------------------------------------------------------------------------------------------------
    def has(self, digest: str) -> bool:
        """Whether the store holds ``digest``, whole or packed; whether it is undamaged says ``verify``."""
        if _DIGEST.fullmatch(digest) is None:
            return False
        return self.is_whole(digest) or (self.manifest_of(digest).exists() and self.packs.has(digest))

    def is_whole(self, digest: str) -> bool:
        """Whether the store holds ``digest`` as the folder that it was made as."""
        return (
            _DIGEST.fullmatch(digest) is not None and self._place(digest).is_dir() and self.manifest_of(digest).exists()
        )

    def use(self, digest: str) -> bool:
        """``has``, for somebody who will need it: if it is there, no collection of garbage takes it away meanwhile."""
        with self.one_at_a_time():
            if not self.has(digest):
                return False
            self._stamp(digest)
            return True

    def glance(self) -> list[Artifact]:
        """All artifacts, without using them; one that is removed meanwhile, or has lost its manifest, is left out."""
        found = []
        for digest in self.digests():
            with suppress(ModelRefused, FileNotFoundError):
                found.append(self.get(digest, use=False))
        return found

    def get(self, digest: str, *, use: bool = True) -> Artifact:
        """The artifact ``digest``; with ``use`` its last use is now. The folder of a packed one is its pack's.

        Raises:
            ModelRefused: if the store does not hold it.
        """
        if not self.has(digest):
            held = len(self.digests())
            raise ModelRefused(f"no artifact {digest!r} in {self.root} (it holds {held}); merge or fetch it again")
        if use:
            self._stamp(digest)
        listed = json.loads(self.manifest_of(digest).read_bytes())
        files = tuple(FileDigest.model_validate(entry) for entry in listed["files"])
        return Artifact(digest=digest, folder=str(self.folder_of(digest)), files=files)

    def folder_of(self, digest: str) -> Path:
        """Where an artifact lies: as it was made, or its pack."""
        return self._place(digest) if self._place(digest).is_dir() else self.packs.place(digest)

    def digests(self) -> list[Digest]:
        """Every artifact in the store, sorted."""
        whole = [path.name for path in (self.root / "artifacts").iterdir() if _DIGEST.fullmatch(path.name)]
        return sorted({*whole, *self.packs.digests()})

    def verify(self, digest: str) -> Artifact:
        """Hash every file again and compare.

        Raises:
            ModelRefused: listing every file that differs, with both hashes, that is missing, or that is new; or it is
                packed, so that there are no such files.
        """
        artifact = self.get(digest)
        if not self.is_whole(digest):
            raise ModelRefused(f"artifact {digest} is packed in {artifact.folder}; unpack it first")
        folder = Path(artifact.folder)
        found = {f.path: f for f in hash_all(folder, plain_files(folder))}
        recorded = {f.path: f for f in artifact.files}
        problems = []
        for path in sorted({*found, *recorded}):
            now, before = found.get(path), recorded.get(path)
            if now is None and before is not None:
                problems.append(f"{path}: missing; recorded with sha256 {before.sha256}, {before.size} bytes")
            elif before is None and now is not None:
                problems.append(f"{path}: not recorded; found with sha256 {now.sha256}, {now.size} bytes")
            elif now is not None and before is not None and now != before:
                problems.append(
                    f"{path}: sha256 is {now.sha256} ({now.size} bytes), recorded {before.sha256} ({before.size} bytes)"
                )
        if not problems and (actual := content_digest(found.values())) != digest:
            problems.append(f"its files have the content digest {actual}: the manifest was changed with them")
        if problems:
            raise ModelRefused(
                f"artifact {digest} in {folder} is not what was stored; do not serve it, make it again",
                problems=problems,
            )
        return artifact

    # --- room --------------------------------------------------------------------------------------------------------
    def free_bytes(self) -> int:
        """Room on the store's file system for this user."""
        return shutil.disk_usage(self.root).free

    def reserve(self, bytes_needed: int, *, arrived: int = 0, promised: int = 0) -> None:
        """Refuse work that would not fit. It looks at the disk and keeps nothing: ask again for each large file.

        Args:
            bytes_needed: what will be taken into the store.
            arrived: so much of it lies half-done on the same disk.
            promised: what others, who are at work, will still write to the disk.

        Raises:
            DiskFull: naming what is needed and what is free, or what the quota is and what is taken up.
        """
        if self.quota_bytes and bytes_needed + (taken := self.taken_bytes()) > self.quota_bytes:
            raise DiskFull(
                f"{self.root} may hold {_mib(self.quota_bytes)} and holds {_mib(taken)}; {_mib(bytes_needed)} more are "
                f"needed. Make room for {_mib(bytes_needed + taken - self.quota_bytes)} (`empelt gc`), or raise "
                "EMPELT_STORE_QUOTA_GIB",
                needed_bytes=bytes_needed,
            )
        free, more = self.free_bytes() - promised, bytes_needed - arrived
        if more + self.headroom_bytes > free:
            others = f" beyond {_mib(promised)} that are promised to others" if promised else ""
            raise DiskFull(
                f"{self.root} has {_mib(free)} free{others}, and {_mib(more)} are needed beside "
                f"{_mib(self.headroom_bytes)} that stay free; make room for "
                f"{_mib(more + self.headroom_bytes - free)} and retry",
                needed_bytes=more,
            )

    def taken_bytes(self) -> int:
        """What all artifacts take up, packed ones included."""
        return bytes_under(self.root / "artifacts") + bytes_under(self.packs.root)

    # --- inside ------------------------------------------------------------------------------------------------------
    def _stamp(self, digest: str) -> None:
        if self.read_only:
            return
        with suppress(PermissionError):  # an agent that runs as another user may read, and says so by its report
            os.utime(self.manifest_of(digest))
            if facts := self.packs.facts(digest):
                os.utime(self.manifest_of(facts.parent))  # which is read with it

    def _place(self, digest: str) -> Path:
        return self.root / "artifacts" / digest

    def manifest_of(self, digest: str) -> Path:
        """The file that lists an artifact's files; its time stamp is when the artifact was used last."""
        return self.root / "manifests" / f"{digest}.json"

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Between looking whether a digest is there and the rename no other process may act."""
        with (self.root / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back by the kernel, whatever happens to us
            yield

    def _write_manifest(self, digest: str, files: tuple[FileDigest, ...]) -> None:
        body = json.dumps({"digest": digest, "files": [f.model_dump() for f in files]}, indent=1).encode()
        half = self.root / "scratch" / f"manifest-{digest}"
        try:
            with half.open("wb") as out:
                out.write(body)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            half.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._no_room(len(body)) from error
        half.chmod(0o444)
        half.rename(self.manifest_of(digest))
        sync(self.root / "manifests")

    def _adopt_from_elsewhere(self, folder: Path) -> Artifact:
        needed = sum((folder / path).stat().st_size for path in plain_files(folder))
        self.reserve(needed)
        copy = self.scratch(f"copy-{os.getpid()}-{time.monotonic_ns()}")
        try:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            artifact = self.adopt(copy)
        except shutil.Error as error:  # copytree collects what went wrong as (from, to, text)
            if not any(os.strerror(errno.ENOSPC) in text for *_, text in error.args[0]):
                raise
            raise self._no_room(needed) from error
        finally:
            if copy.exists():
                drop(copy)
        drop(folder)
        return artifact

    def _no_room(self, needed: int) -> DiskFull:
        return DiskFull(
            f"{self.root} has no room: {_mib(needed)} were needed and {_mib(self.free_bytes())} are free; "
            "make room and retry",
            needed_bytes=needed,
        )


def _is_gone(owner: Path) -> bool:
    """Whether the process that a scratch folder belongs to has ended; False where that cannot be told."""
    try:
        host, pid, started = json.loads(owner.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return host == socket.gethostname() and is_gone(pid, started)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
