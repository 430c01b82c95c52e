"""What stands in one model's folder now, and by which revision it is known. No file's content is read."""

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tasks.domain.errors import InputError
from tasks.sources.download import is_allowed

NOTES = Path(".cache", "huggingface", "download")
"""Where ``huggingface_hub`` notes for each file of a ``local_dir`` the commit, the etag and when it looked."""
COMMIT = re.compile(r"[0-9a-f]{40}")
LEFT_OUT = (".cache", ".git", "__pycache__")


class Snapshot(NamedTuple):
    """A model's folder at one moment."""

    folder: Path
    files: Mapping[str, tuple[int, int]]
    """Path -> size in bytes, and time of the last change in ns. Empty where there is no such folder."""
    revision: str
    """40 hex digits: the Hub's commit if it is known, else sha1 over ``files``."""


def snapshot(folder: Path) -> Snapshot:
    """Look at the files below ``folder``; links are not followed out of it.

    Raises:
        InputError: the folder cannot be read.
    """
    files: dict[str, tuple[int, int]] = {}
    try:
        for place, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
            for name in names:
                path = Path(place, name)
                told = path.lstat()
                if stat.S_ISREG(told.st_mode):
                    files[path.relative_to(folder).as_posix()] = told.st_size, told.st_mtime_ns
    except FileNotFoundError:
        # It goes, or comes, while we look: the next poll sees what became of it.
        files = {}
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); give this user the right to") from error
    return Snapshot(folder, files, _commit_of(folder, files) or _sha1_over(files))


def _commit_of(folder: Path, files: Mapping[str, tuple[int, int]]) -> str | None:
    """The Hub's commit, if the notes name one for every file that counts, and none was changed after its note."""
    commits = set()
    for path, (_, moment) in files.items():
        if not is_allowed(path):
            continue
        try:
            commit, _, noted = (folder / NOTES / f"{path}.metadata").read_text().splitlines()[:3]
            # As the client itself does: a second of leeway for file systems that round.
            if moment > (float(noted) + 1) * 1e9:
                return None
        except (OSError, ValueError):
            return None
        commits.add(commit)
    found = commits.pop() if len(commits) == 1 else ""
    return found if COMMIT.fullmatch(found) else None


def _sha1_over(files: Mapping[str, tuple[int, int]]) -> str:
    """A name for this state. It guards nothing."""
    lines = "".join(f"{path}\0{size}\0{moment}\n" for path, (size, moment) in sorted(files.items()))
    return hashlib.sha1(lines.encode(), usedforsecurity=False).hexdigest()


def _raise(error: OSError) -> None:
    raise error
