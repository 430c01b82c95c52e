"""`empelt base list`: every tuned base, by the catalog, the ledger and the store. No Hub is asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.base_names import Named, every_base
from deployments.showing import human_bytes, table
from tasks.doors import open_ledger, open_store
from tasks.heads import on_record
from tasks.settings import Settings
from tasks.sources.cards import CARD, CARD_BYTES, parse_card
from tasks.store.garbage import bytes_under


def read_bases(settings: Settings, only: str = "") -> dict[str, Any]:
    """Every tuned base of the families that run here; of one family if it is named.

    Raises:
        CatalogError: with every problem of the catalog.
    """
    return {"bases": [_told(one) for one in every_base(settings) if only in ("", one.family.family)]}


def _told(named: Named) -> dict[str, Any]:
    entry, ledger = named.entry, open_ledger()
    revision, digest = on_record(entry)
    targets = {name: named.family.targets[name].channel for name in named.targets}
    live = {state.channel for state in ledger.channels()}
    parent = entry.parent or named.family.base
    return {
        **{"name": named.name, "family": named.family.family, "language": named.language, "repo": entry.repo},
        **{"revision": revision, "pinned": entry.revision is not None, "digest": digest},
        **{"state": "retired" if entry.retired else "in use", "retired": entry.retired, "pack": entry.pack},
        "parent": {"repo": parent.repo, "revision": parent.revision, "stated": entry.parent is not None},
        **_on_disk(digest),
        "used_by": [{"target": name, "channel": channel, "live": channel in live} for name, channel in targets.items()],
        "history": [
            one.model_dump(mode="json", exclude={"family", "language"})
            for one in ledger.base_changes(named.family.family, named.language)
        ],
    }


def _on_disk(digest: str | None) -> dict[str, Any]:
    """Licence, size and form of what is in the store; None of each where it is not there."""
    store = open_store()
    if digest is None or not store.has(digest):
        return {"licence": None, "stored": "no", "disk_bytes": 0, "raw_bytes": None, "packed_ratio": None}
    artifact = store.get(digest, use=False)
    packed = store.packs.facts(digest)
    raw = sum(file.size for file in artifact.files)
    return {
        "licence": _licence(Path(artifact.folder)),
        "stored": "packed" if packed else "raw",
        "disk_bytes": bytes_under(Path(artifact.folder)),
        "raw_bytes": raw,
        "packed_ratio": packed.ratio if packed else None,
    }


def _licence(folder: Path) -> str | None:
    """As its card states it; None where there is none."""
    card = folder / CARD
    if not card.is_file():
        return None
    return parse_card(card.read_bytes()[:CARD_BYTES].decode("utf-8", errors="replace")).stated.key or None


def as_text(report: Mapping[str, Any]) -> str:
    """The same for people: one table, then why what is retired was."""
    columns = ("base", "state", "repository", "parent", "licence", "on disk", "packed", "used by")
    lines = [table(columns, [_cells(row) for row in report["bases"]])] if report["bases"] else []
    retired = [row for row in report["bases"] if row["retired"]]
    lines += [f"{row['name']} was retired: {row['retired']}" for row in retired]
    return "\n".join([*lines, f"{len(report['bases'])} tuned base(s), {len(retired)} of them retired"])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    revision = f"@{row['revision'][:12]}" if row["revision"] else ""
    ratio = f"{row['packed_ratio']:.0%} of {human_bytes(row['raw_bytes'])}" if row["packed_ratio"] else ""
    used = ", ".join(f"{one['target']}{' (live)' if one['live'] else ''}" for one in row["used_by"])
    return (
        *(row["name"], row["state"], f"{row['repo']}{revision}", row["parent"]["repo"], row["licence"] or "unknown"),
        *(human_bytes(row["disk_bytes"]) if row["stored"] != "no" else "not in the store", ratio, used),
    )
