"""Push a folder as one commit, the way a lab's upload ends: visible whole, at one moment. Needs no running server."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from infra.local_hub.commits import add_commit, in_utc, new_repo, store_file
from infra.local_hub.store import Store, is_repo_id

IGNORED_FOLDERS = (".git", ".cache", "__pycache__")


class PushRefused(Exception):
    """The folder or the repository id cannot be pushed. Nothing was written."""


def push_folder(root: Path, repo_id: str, folder: Path, message: str = "Upload model", when: str | None = None) -> str:
    """Push every file of ``folder`` to ``repo_id`` as one commit; files that are not in ``folder`` are gone in it.

    Args:
        root: the store of the Hub; made if it is not there.
        repo_id: ORG/NAME; made if it is not there.
        folder: what to push. ``.git``, ``.cache`` and ``__pycache__`` are left out.
        message: the commit's message.
        when: ISO 8601 with a time zone; now if not given.

    Returns:
        The commit's sha; the present one if the files are the same as in it.

    Raises:
        PushRefused: no such folder, no files in it, or not ORG/NAME.
    """
    if not is_repo_id(repo_id):
        raise PushRefused(f"{repo_id!r} is not a repository id; expected ORG/NAME, such as demo-lab/llama-tiny")
    paths = _files_of(folder)
    date = _canonical_date(when)
    store = Store(root)
    with store.locked(repo_id):
        files = [store_file(store, path, _chunks(folder / path)) for path in paths]
        return add_commit(store, store.repo(repo_id) or new_repo(repo_id, date), files, message=message, date=date)


def _files_of(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise PushRefused(f"{folder} is not a folder; expected the folder of a model")
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in IGNORED_FOLDERS]
        found += [Path(place, name).relative_to(folder).as_posix() for name in names]
    if not found:
        raise PushRefused(f"{folder} holds no files; expected a model (config.json, *.safetensors, tokenizer)")
    return sorted(found)


def _canonical_date(when: str | None) -> str:
    try:
        moment = datetime.now(UTC) if when is None else datetime.fromisoformat(when)
    except ValueError as error:
        raise PushRefused(f"date {when!r} is not ISO 8601; expected such as 2026-11-20T09:00:00Z") from error
    if moment.tzinfo is None:
        raise PushRefused(f"date {when!r} has no time zone; expected such as 2026-11-20T09:00:00Z")
    return in_utc(moment)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as reader:
        while chunk := reader.read(1 << 20):
            yield chunk
