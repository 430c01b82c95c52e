"""Collecting garbage by reference: what nothing will ask for again, and has not for a grace period, is removed.

What refers to an artifact is told in ``tasks/references.py``.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.models import Noun
from tasks.domain.words import size
from tasks.doors import open_store
from tasks.references import references
from tasks.settings import settings
from tasks.store.files import drop, newest_change
from tasks.store.garbage import bytes_under, drop_lone_manifests, is_removable, keep, last_used, remove

STALE_SCRATCH = timedelta(days=1)
"""Half-done work whose process cannot be told (another host's) is removed when nothing was written for this long."""


class Found(Noun):
    """One thing that was looked at, and what becomes of it."""

    what: str
    kind: Literal["artifact", "half-done", "report"]
    bytes: int
    fate: Literal["kept", "removed"]
    why: str


def collect(*, dry_run: bool = False) -> list[Found]:
    """Look at everything and remove what may go; with ``dry_run`` only say so. Safe beside running jobs."""
    return [*_artifacts(dry_run), *_scratch(dry_run), *_reports(dry_run)]


def _artifacts(dry_run: bool) -> Iterator[Found]:
    store, named = open_store(), references()
    now, grace = datetime.now(UTC), timedelta(hours=settings().garbage_grace_hours)
    if not dry_run:
        keep(store, named)
        drop_lone_manifests(store)
    for digest in store.digests():
        what = {"what": digest, "kind": "artifact", "bytes": bytes_under(store.folder_of(digest))}
        if digest in named:
            yield Found(**what, fate="kept", why=named[digest])
            continue
        if not is_removable(store, digest):
            yield Found(**what, fate="kept", why="it has no manifest: it is being taken in, or was damaged")
            continue
        used = last_used(store, digest)
        if used > now - grace or (not dry_run and not remove(store, digest, now - grace)):
            yield Found(
                **what, fate="kept", why=f"nothing refers to it; used {used:%Y-%m-%d %H:%M} UTC, within the grace"
            )
        else:
            yield Found(**what, fate="removed", why=f"nothing refers to it; used last {used:%Y-%m-%d %H:%M} UTC")


def _scratch(dry_run: bool) -> Iterator[Found]:
    store = open_store()
    orphans = set(store.orphans())
    limit = (datetime.now(UTC) - STALE_SCRATCH).timestamp()
    for path in sorted((store.root / "scratch").iterdir()):
        stale = newest_change(path) < limit
        why = "its process is gone" if path in orphans else "nothing was written to it for a day" if stale else ""
        taken = bytes_under(path)
        if why and not dry_run:
            drop(path)
        told = why or "somebody is at work in it"
        yield Found(what=path.name, kind="half-done", bytes=taken, fate="removed" if why else "kept", why=told)


def _reports(dry_run: bool) -> Iterator[Found]:
    for folder in sorted((settings().home / "reports").glob("*/")):
        pages = sorted(folder.glob("*.html"), key=lambda page: (_changed(page), page.name), reverse=True)
        for page in pages[settings().keep_reports :]:
            both = [one for one in (page, page.with_suffix(".json")) if one.exists()]
            taken, name = sum(one.stat().st_size for one in both), f"{folder.name}/{page.name}"
            if not dry_run:
                for one in both:
                    one.unlink(missing_ok=True)
            why = f"{settings().keep_reports} newer ones of its target are kept"
            yield Found(what=name, kind="report", bytes=taken, fate="removed", why=why)


def _changed(page: Path) -> float:
    return page.stat().st_mtime if page.exists() else 0.0


def in_short(found: list[Found], *, dry_run: bool) -> str:
    """One line: what was removed, or would be, and what is kept."""
    gone = [one for one in found if one.fate == "removed"]
    verb = "would be removed" if dry_run else "removed"
    kept = sum(one.bytes for one in found if one.fate == "kept")
    return f"{len(gone)} of {len(found)} {verb}, {size(sum(one.bytes for one in gone))}; {size(kept)} kept"


@task(name="collect", task_run_name="collect", cache_policy=NO_CACHE)
def collect_and_show(dry_run: bool) -> str:
    """Collect, and show what became of everything as a table in the UI; the line about it."""
    found = collect(dry_run=dry_run)
    told = in_short(found, dry_run=dry_run)
    rows = [{**one.model_dump(exclude={"bytes"}), "size": size(one.bytes)} for one in found]
    if rows:
        create_table_artifact(rows, key="garbage", description=told)
    else:
        create_markdown_artifact("Nothing is in the store.", key="garbage", description=told)
    get_run_logger().info("%s", told)
    return told
