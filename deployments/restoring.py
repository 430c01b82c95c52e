"""`empelt restore`: an empty home becomes what a backup was made of. All is checked before anything is put in place.

The ledger comes last, and a failure takes back what was put in place before it; models stay, each whole at its digest.
"""

import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from deployments.backing_up import FORMAT, sha256
from deployments.showing import human_bytes
from deployments.supervisor import Lock
from tasks.domain.errors import DiskFull, InputError
from tasks.doors import forget, open_ledger, open_store
from tasks.settings import Settings
from tasks.settings_sources import FILE
from tasks.store.files import drop, hash_all, plain_files
from tasks.store.snapshot import check_snapshot, kind_of, put_back, schemas, what_is_at

OF_THE_HOME = ("catalog", "reports")
PARTS = ("ledger", "settings.toml", "artifacts", *OF_THE_HOME)


def restore(settings: Settings, file: Path) -> dict[str, Any]:
    """Fill the home of ``settings`` from ``file``; what is there now.

    Raises:
        InputError: if the home or its database is in use, or the file is no whole backup: with every problem. Nothing
            but models, each whole and under its digest, was put in place.
        DiskFull: with what is needed and what is free.
    """
    index = read_index(file)
    (settings.home / "run").mkdir(parents=True, exist_ok=True)
    lock = Lock(settings.home / "run" / "up.lock", settings.home)
    try:
        _require_possible(settings, index)
        if (free := shutil.disk_usage(settings.home).free) < 2 * file.stat().st_size:
            needed = human_bytes(2 * file.stat().st_size)
            raise DiskFull(f"{settings.home} has {human_bytes(free)} free; restoring takes up to {needed}")
        with _unpacked(settings, file) as folder:
            check_parts(folder, index)
            store = open_store()
            for digest in index["artifacts"]:
                store.adopt(folder / "artifacts" / digest)
            with _put_in_place(settings.home, folder):
                put_back(settings.ledger, folder / "ledger")
    finally:
        lock.close()
    forget()
    serving = {state.channel: state.artifact_digest for state in open_ledger().channels()}
    lacking = {channel: digest for channel, digest in serving.items() if not open_store().has(digest)}
    return {
        "home": str(settings.home),
        "of": index["at"],
        "artifacts": sorted(index["artifacts"]),
        "channels": serving,
        "lacking": lacking,
    }


def as_text(report: dict[str, Any]) -> str:
    """The same for people."""
    count = f"{len(report['channels'])} channel(s), {len(report['artifacts'])} model(s)"
    lines = [f"{report['home']} is as it was at {report['of']}: {count}"]
    lines += [
        f"{channel} should serve {digest[:12]}, and it is not here" for channel, digest in report["lacking"].items()
    ]
    if report["lacking"]:
        lines.append("Copy store/artifacts and store/manifests from where they are, or run those releases by hand.")
    lines.append(f"Read {report['home']}/empelt.toml, give the secrets, then `empelt doctor` and `empelt up`.")
    return "\n".join(lines)


def read_index(file: Path) -> dict[str, Any]:
    """What a backup says that it holds.

    Raises:
        InputError: if this is no backup, or one that this version cannot read.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            first = tar.next()
            opened = tar.extractfile(first) if first is not None and first.name == "backup.json" else None
            index = json.loads(opened.read()) if opened is not None else {}
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a backup: {error}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format", "none") if isinstance(index, dict) else "none"
        raise InputError(f"{file} is no backup that this version reads: its format is {found}, expected {FORMAT}")
    return index


def check_parts(folder: Path, index: dict[str, Any]) -> None:
    """Compare everything with what the backup says of itself.

    Raises:
        InputError: with every file that is missing, too much, or other than it was.
    """
    problems = []
    ledger = folder / "ledger"
    if not ledger.is_file() or sha256(ledger) != index["ledger"]["sha256"]:
        problems.append("ledger: not what was backed up")
    for digest, files in index["artifacts"].items():
        there = folder / "artifacts" / digest
        found = {f.path: f.sha256 for f in hash_all(there, plain_files(there))} if there.is_dir() else {}
        wanted = {one["path"]: one["sha256"] for one in files}
        differing = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))
        problems += [f"artifact {digest[:12]}, {path}: not what was backed up" for path in differing]
    if problems:
        raise InputError("the backup is damaged; nothing was restored", problems=problems)
    check_snapshot(index["ledger"]["kind"], ledger)


def _require_possible(settings: Settings, index: dict[str, Any]) -> None:
    there = [settings.home / name for name in (FILE, *OF_THE_HOME)]
    problems = [f"{path} is there already" for path in there if path.exists()]
    if index["ledger"]["schema"] not in schemas():
        problems.append(
            f"the ledger in the backup has schema {index['ledger']['schema']}, and this version knows {max(schemas())} "
            f"and older: use empelt {index['version']}, which wrote it, or a newer one"
        )
    wanted, found = index["ledger"]["kind"], kind_of(settings.ledger)
    if wanted != found:
        problems.append(f"the ledger in the backup is of {wanted}, and EMPELT_LEDGER_URL names {found}")
    elif taken := what_is_at(settings.ledger):
        problems.append(taken)
    if problems:
        raise InputError(f"nothing can be restored into {settings.home}", problems=problems)


@contextmanager
def _put_in_place(home: Path, folder: Path) -> Iterator[None]:
    placed: list[Path] = []
    try:
        for name, wanted in [(name, name) for name in OF_THE_HOME] + [("settings.toml", FILE)]:
            if (folder / name).exists():
                (folder / name).replace(home / wanted)
                placed.append(home / wanted)
        yield
    except BaseException:
        for path in placed:
            drop(path)
        raise


@contextmanager
def _unpacked(settings: Settings, file: Path) -> Iterator[Path]:
    folder = settings.home / f".restoring-{uuid4().hex[:8]}"
    folder.mkdir(mode=0o700)
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if member.name == "backup.json":
                    continue
                if member.name.split("/")[0] not in PARTS or not (member.isfile() or member.isdir()):
                    raise InputError(f"{file} holds {member.name!r}, which no backup of ours has")
                tar.extract(member, folder, filter="data")
        yield folder
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{file} is damaged: {error}") from error
    finally:
        drop(folder)
