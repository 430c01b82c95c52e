"""One publication: what is still to do is found out from the repository alone, so it may be begun anew at any moment.

    the tag is there                        its commit holds our bytes: adopted, nothing is written
    a commit with our key, without its tag  its bytes are ours: the tag is set, no second commit (a crash in between)
    neither                                 one commit on the head that was seen, then the tag

Each step is followed by another look: what another process has done meanwhile counts as done. Refused, and nothing
written: a repository that is not ours or is of another target, and the same key with other bytes.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from tasks.domain.errors import HubUnavailable, ModelRefused
from tasks.domain.lineage import matters
from tasks.domain.models import FileDigest
from tasks.domain.publication import MARKER, How, Marker, Published
from tasks.publishing.remote import FIRST_FILES, Moved, Repository, State
from tasks.sources.protocol import SourceFile

LOOKS = 12
"""Four are enough; each time that somebody else commits in between costs one more."""


def publish(
    remote: Repository,
    folder: Path,
    marker: Marker,
    *,
    private: bool = True,
    complete: Callable[[Path], None] = lambda _: None,
) -> Published:
    """Bring the files of ``folder`` into ``remote`` as one commit with one tag, or adopt them there.

    Args:
        remote: where to.
        folder: the files as they will stand there, ``empelt.json`` among them.
        marker: what ``empelt.json`` says.
        private: whether a repository that is made here is private; one that is there stays what it is.
        complete: puts what is still missing into the folder; called only where files are to be sent.

    Raises:
        ModelRefused: the repository is not ours, or holds other bytes under this key; both digests are told.
        HubUnavailable: no answer for now. Whatever was reached is found again by the next try.
    """
    began, sent = time.monotonic(), 0
    how: How = "adopted"
    for _ in range(LOOKS):
        state = remote.state()
        if state is None:
            complete(folder)  # what it refuses is refused before there is anything
            remote.create(private=private)
            continue
        if marker.tag in state.tags:
            commit = state.tags[marker.tag]
            _check_bytes(remote, commit, folder, marker)
            return Published(commit, marker.tag, how, sent, time.monotonic() - began)
        made = remote.commit_with(marker.line)
        if made is not None:
            _check_bytes(remote, made, folder, marker)
            remote.tag(marker.tag, made, f"Complete: artifact {marker.artifact}")
            how = "tagged" if how == "adopted" else how
            continue
        _check_ours(remote, state, marker)
        complete(folder)
        try:
            _commit(remote, state, folder, marker)
        except Moved:
            continue
        how, sent = "uploaded", sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    raise HubUnavailable(
        f"{remote.repo_id} at {remote.endpoint} is changed by others all the time: {LOOKS} looks, and {marker.tag} is "
        "not set. It is tried again."
    )


def _commit(remote: Repository, state: State, folder: Path, marker: Marker) -> None:
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    gone = sorted(remote.files(state.head).keys() - set(paths) - FIRST_FILES)
    title = f"{marker.target}: artifact {marker.artifact[:12]}, {marker.tag}"
    more = f"{marker.line}\nempelt-artifact: {marker.artifact}"
    remote.commit(folder, paths, gone, on=state.head, title=title, more=more)


def _check_ours(remote: Repository, state: State, marker: Marker) -> None:
    """Refuse what was not made for this target; an empty repository is free."""
    if not remote.files(state.head).keys() - FIRST_FILES:
        return
    there = remote.marker(state.head)
    where = f"{remote.repo_id} at {remote.endpoint} (head {state.head[:12]})"
    if there is None:
        raise ModelRefused(
            f"{where} holds files and no {MARKER}: it was not made by Empelt and is left alone. Name another repository"
        )
    if (there.family, there.target) != (marker.family, marker.target):
        raise ModelRefused(
            f"{where} holds target {there.target!r} of family {there.family!r}, and not {marker.target!r} of "
            f"{marker.family!r}: each target has a repository of its own. Name another one"
        )


def _check_bytes(remote: Repository, commit: str, folder: Path, marker: Marker) -> None:
    """Refuse a commit that does not hold this artifact: its marker, and every file that its digest is made of."""
    there, ours, theirs = remote.marker(commit), marker.identity, remote.files(commit)
    problems = []
    if there is None:
        problems.append(f"{MARKER}: not there, or not to be read")
    else:
        for name in ("family", "target", "merge_key", "artifact"):
            if getattr(there, name) != getattr(marker, name):
                problems.append(f"{MARKER}: {name} is {getattr(there, name)}, ours is {getattr(marker, name)}")
    for path in sorted(ours.keys() | {path for path in theirs if matters(path)}):
        if path not in theirs:
            problems.append(f"{path}: not there; ours has sha256 {ours[path].sha256}")
        elif path not in ours:
            problems.append(f"{path}: there with {_told(theirs[path])}, and not ours")
        elif not _same(theirs[path], ours[path], folder):
            problems.append(f"{path}: there with {_told(theirs[path])}, ours has sha256 {ours[path].sha256}")
    if problems:
        raise ModelRefused(
            f"{remote.repo_id} at {remote.endpoint} has other bytes under {marker.tag} (commit {commit[:12]}) than "
            f"artifact {marker.artifact}: nothing was written. A key stands for one content: find out who wrote it",
            problems=problems,
        )


def _same(there: SourceFile, ours: FileDigest, folder: Path) -> bool:
    """By sha256 where the Hub tells it, which is for large files; else by git's own hash over our bytes."""
    if there.sha256 is not None:
        return there.sha256 == ours.sha256
    content = (folder / ours.path).read_bytes()
    known = hashlib.sha256(content).hexdigest() == ours.sha256
    return known and there.blob_id == _git_blob(content)


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _told(there: SourceFile) -> str:
    return f"sha256 {there.sha256}" if there.sha256 else f"git blob {there.blob_id}"
