"""`empelt base pack` and `unpack`: a tuned base as its lossless difference to the parent, and back."""

from typing import Any

from deployments.base_names import find_base
from deployments.showing import human_bytes
from tasks.domain.errors import InputError
from tasks.doors import open_ledger, open_store
from tasks.heads import on_record
from tasks.packing import pack_base, unpack_artifact
from tasks.settings import Settings


def pack_here(settings: Settings, name: str) -> dict[str, Any]:
    """Pack a tuned base of this host's store.

    Raises:
        InputError: no such base; it or its parent is not in the store; or it would not be smaller. It is as it was.
        TransientError: it is in use just now.
    """
    named = find_base(settings, name)
    done = pack_base(named.family, named.language)
    if not done.kept:
        raise InputError(
            f"{named.name} would take {human_bytes(done.facts.packed_bytes)} packed, and takes "
            f"{human_bytes(done.facts.raw_bytes)} as it is; it stays as it is"
        )
    facts = done.facts
    return {
        **{"name": named.name, "change": "packed", "digest": done.digest, **facts.model_dump(), "ratio": facts.ratio},
        "disk_bytes_saved": facts.raw_bytes - facts.packed_bytes,
    }


def unpack_here(settings: Settings, name: str) -> dict[str, Any]:
    """Give a packed tuned base of this host's store its files back.

    Raises:
        InputError: no such base, it is not packed, or its pack is damaged; then it stays packed.
    """
    named = find_base(settings, name)
    revision, digest = on_record(named.entry)
    facts = open_store().packs.facts(digest) if digest else None
    if digest is None or facts is None:
        raise InputError(f"{named.name} is not packed: there is nothing to unpack")
    artifact = unpack_artifact(digest)
    where: dict[str, Any] = {"repo_id": named.entry.repo, "revision": revision, "digest": digest}
    open_ledger().record_base_change(named.family.family, named.language, "unpacked", **where)
    return {
        **{"name": named.name, "change": "unpacked", "digest": digest, "folder": artifact.folder},
        **{"raw_bytes": facts.raw_bytes, "packed_bytes": facts.packed_bytes, "ratio": facts.ratio},
    }


def as_text(report: dict[str, Any]) -> str:
    """The same for people."""
    sizes = f"{human_bytes(report['packed_bytes'])} packed, {human_bytes(report['raw_bytes'])} whole"
    line = f"{report['change']} {report['name']} ({report['digest'][:12]}): {sizes}, {report['ratio']:.1%}"
    if report["change"] == "unpacked":
        return line
    rate = report["raw_bytes"] / max(report["seconds"], 1e-9) / 1e6
    return f"{line}; {rate:.0f} MB/s, and every file came out of it with its sha256"
