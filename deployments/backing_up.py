"""`empelt backup`: one file from which an empty home becomes this installation again. Nothing need be stopped.

    backup.json          what is in here: version, ledger, artifacts with every file's hash
    ledger               SQLite's file, or what pg_dump wrote
    settings.toml        what is not the default, without secrets
    catalog/ reports/    as they are
    artifacts/<digest>/  models: those that serve and those before them, all, or none

Prefect's database is not: it holds runs and pages, and no fact.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from deployments.showing import human_bytes
from tasks.domain.errors import DiskFull, InputError, TransientError
from tasks.doors import open_ledger, open_store
from tasks.settings import Settings
from tasks.settings_sources import SECRETS
from tasks.store.figures import figures
from tasks.store.snapshot import kind_of, take_snapshot

FORMAT = 1
Models = Literal["live", "all", "none"]


def back_up(settings: Settings, file: Path, models: Models = "live") -> dict[str, Any]:
    """Write the backup; what is in it. ``file`` appears whole, or not at all.

    Raises:
        InputError: if ``file`` is there already, or its folder is not.
        DiskFull: with what is needed and what is free; nothing was written.
        TransientError: a model was packed meanwhile; nothing was written.
    """
    file = file.absolute()
    if file.exists():
        raise InputError(f"{file} is there already; name a new file")
    if not file.parent.is_dir():
        raise InputError(f"{file.parent} is no folder; make it, or name another")
    store, (wanted, missing) = open_store(), chosen_models(models)
    artifacts = {digest: [one.model_dump() for one in store.get(digest).files] for digest in wanted}
    total = sum(one["size"] for files in artifacts.values() for one in files)
    found = figures(open_ledger())
    needed = total + 2 * found.size_bytes + _size(_others(settings))
    if (free := shutil.disk_usage(file.parent).free) < needed:
        raise DiskFull(f"{file.parent} has {human_bytes(free)} free; the backup takes up to {human_bytes(needed)}")
    with _half(file) as half, TemporaryDirectory(dir=file.parent, prefix=".backup-") as folder:
        ledger = Path(folder) / "ledger"
        take_snapshot(settings.ledger, ledger)
        index = {
            "format": FORMAT,
            "version": version("empelt"),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "ledger": {"kind": kind_of(settings.ledger), "schema": found.schema, "sha256": sha256(ledger)},
            "artifacts": artifacts,
            "missing": missing,
        }
        with tarfile.open(half, "w", format=tarfile.PAX_FORMAT) as tar:
            _add_text(tar, "backup.json", json.dumps(index, indent=1))
            tar.add(ledger, "ledger", filter=_nobody)
            _add_text(tar, "settings.toml", as_toml(settings))
            for path, name in _others(settings):
                tar.add(path, name, filter=_nobody)
            for digest in wanted:
                tar.add(store.get(digest).folder, f"artifacts/{digest}", filter=_nobody)
                if not store.is_whole(digest):  # else a pack stands in the tar under the list of the whole files
                    raise TransientError(f"{digest[:12]} was packed while it was backed up; back up again")
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "ledger": index["ledger"],
        "artifacts": sorted(wanted),
        "missing": missing,
    }


def as_text(report: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{report['file']}: {human_bytes(report['bytes'])}, {len(report['artifacts'])} model(s)"]
    lines += [f"not in it, since the store lacks it: {one}" for one in report["missing"]]
    lines.append("Secrets are not in it: keep those elsewhere.")
    return "\n".join(lines)


def chosen_models(models: Models) -> tuple[list[str], list[str]]:
    """Digests to put in, and those that serve or served last and are not in the store."""
    store, ledger = open_store(), open_ledger()
    if models == "none":
        return [], []
    live = {state.artifact_digest for state in ledger.channels()}
    named = live | {p.artifact_digest for state in ledger.channels() for p in ledger.served_before(state.channel)[:1]}
    # What is packed is a tuned base, which its source has: a copy of a pack would need its parent beside it.
    wanted = {digest for digest in (store.digests() if models == "all" else named) if store.is_whole(digest)}
    return sorted(wanted), sorted(named - wanted)


def as_toml(settings: Settings) -> str:
    """Settings that are not the default, for a home elsewhere: neither secrets, nor where their files were."""
    lines = ["# Of a backup. Secrets are not in it: state hub_token_file and so on, or set them in the environment."]
    left_out = {"home", "catalog", *SECRETS, *(f"{name}_file" for name in SECRETS)}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name in left_out or value == field.default or value is None:
            continue
        lines.append(
            f"{name} = {json.dumps(value if isinstance(value, int | float) else str(value), ensure_ascii=False)}"
        )
    return "\n".join([*lines, 'catalog = "catalog"', ""])


def sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _others(settings: Settings) -> list[tuple[Path, str]]:
    there = [(settings.catalog, "catalog"), (settings.home / "reports", "reports")]
    return [(path, name) for path, name in there if path.is_dir()]


def _size(folders: Iterable[tuple[Path, str]]) -> int:
    return sum(path.stat().st_size for folder, _ in folders for path in folder.rglob("*") if path.is_file())


@contextmanager
def _half(file: Path) -> Iterator[Path]:
    half = file.with_name(f".{file.name}.partial")
    half.unlink(missing_ok=True)
    half.touch(mode=0o600)
    try:
        yield half
        half.replace(file)
    finally:
        half.unlink(missing_ok=True)


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o600, int(datetime.now(UTC).timestamp())
    tar.addfile(info, io.BytesIO(data))


def _nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info
