"""Keeping tuned bases as lossless differences to their parents: by a person's word, or each night where `pack: auto`.

A merge reads a packed base as it is. Whoever needs its files, such as a server that is to measure it, has it unpacked.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.child import Event, run_child
from tasks.domain.catalog import Family
from tasks.domain.errors import CatalogError, InputError, PipelineError, TransientError
from tasks.domain.models import Artifact, Digest
from tasks.domain.words import size
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.heads import on_record
from tasks.settings import settings
from tasks.store.packs import PackFacts

WORTH_IT = 0.9
"""Where nobody has asked for it, a pack larger than this part of the original is not kept: merges are slower."""


class Packed(NamedTuple):
    """What became of one attempt."""

    digest: Digest
    facts: PackFacts
    kept: bool
    """False: it saves too little, and the whole files stay."""


def pack_base(family: Family, language: str, *, at_most: float = 1.0) -> Packed:
    """Pack one tuned base, in a child process; on record afterwards.

    Raises:
        InputError: it or its parent is not in the store, is packed, or others are packed against it.
        TransientError: a job or a server uses it just now, or the child was ended.
        DiskFull: there is no room for both forms side by side.
    """
    store, began = open_store(), datetime.now(UTC)
    entry = family.tuned_bases[language]
    revision, digest = on_record(entry)
    parent = on_record(entry.parent or family.base)[1]
    name = f"{family.family}/{language}"
    for what, one in ((name, digest), (f"the parent of {name}", parent)):
        if one is None or not store.is_whole(one):
            why = "packed already" if one and store.has(one) else "not in the store; a merge brings it here"
            raise InputError(f"{what} is {why}")
    assert digest is not None, "else it was refused"
    assert parent is not None, "else it was refused"
    if children := store.packs.children(digest):
        raise InputError(f"{name} is what {', '.join(c[:12] for c in children)} is packed against; unpack that first")
    if users := list(_users(digest)):
        raise TransientError(f"{name} is in use by {', '.join(users)}; try again when that has ended")
    whole = store.get(digest, use=False)
    store.reserve(sum(file.size for file in whole.files))
    scratch = store.scratch(f"pack-{digest[:12]}-{uuid4().hex[:8]}")
    report = _child("pack", whole.folder, store.get(parent).folder, str(scratch / "out"), parent)
    measured = {name: report[name] for name in PackFacts.model_fields if name != "parent"}
    facts = PackFacts(parent=parent, **measured)
    worth = facts.ratio < at_most
    if worth and not store.packs.adopt(digest, scratch / "out", facts, began):
        raise TransientError(f"{name} was used while it was packed; try again")
    shutil.rmtree(scratch, ignore_errors=True)
    details = {**facts.model_dump(), "ratio": facts.ratio, "kept": worth}
    where: dict[str, Any] = {"repo_id": entry.repo, "revision": revision, "digest": digest}
    open_ledger().record_base_change(family.family, language, "packed", **where, details=details)
    return Packed(digest, facts, worth)


def unpack_artifact(digest: Digest) -> Artifact:
    """The artifact, whole: unpacked first if it is packed, every file as it was.

    Raises:
        ModelRefused: the store does not hold it.
        InputError: the pack or its parent is damaged, with file, tensor and frame.
        DiskFull: there is no room for both forms side by side.
    """
    store = open_store()
    artifact = store.get(digest)
    if store.packs.facts(digest) is None:
        return artifact
    store.reserve(sum(file.size for file in artifact.files))
    scratch = store.scratch(f"unpack-{digest[:12]}-{uuid4().hex[:8]}")
    _child("unpack", artifact.folder, str(scratch / "out"))
    made = store.adopt(scratch / "out")
    shutil.rmtree(scratch, ignore_errors=True)
    if made.digest != digest:
        raise InputError(f"{digest} was unpacked as {made.digest}; it is not used, and its pack stays")
    return made


def _child(*arguments: str) -> Event:
    return run_child(
        "tasks.engine.packs",
        arguments,
        deadline_seconds=settings().evaluate_deadline_seconds,
        silence_seconds=settings().silence_seconds,
        records=settings().children,
    )


def _users(digest: Digest) -> Iterator[str]:
    """Jobs under way that may read an artifact, and what is served or wanted of it."""
    ledger = open_ledger()
    claimed = {claim.job_key for claim in ledger.live_claims()}
    for fact in ledger.jobs():
        if fact.job_key in claimed and digest in {part.digest for part in fact.job.lineage.ingredients}:
            yield fact.job.name
    yield from (f"{wanted.channel} for {wanted.owner}" for wanted in ledger.desired().staged if wanted.digest == digest)
    yield from (f"instance {instance.name}" for instance in ledger.instances() if instance.digest == digest)


@task(name="pack-bases", task_run_name="pack tuned bases", cache_policy=NO_CACHE)
def pack_bases(dry_run: bool) -> list[str]:
    """Pack what the catalog wants packed (`pack: auto`) and can be; what was done. One that cannot stops no other."""
    told, logger = [], get_run_logger()
    try:
        families = open_catalog().families
    except CatalogError as error:  # which must not keep garbage from being collected
        logger.warning("nothing is packed: %s", error)
        return []
    for family in families.values():
        for code in [code for code, tuned in family.tuned_bases.items() if tuned.pack == "auto" and not tuned.retired]:
            name, digest = f"{family.family}/{code}", on_record(family.tuned_bases[code])[1]
            if digest is None or not open_store().is_whole(digest) or _was_no_use(family.family, code, digest):
                continue
            if dry_run:
                told.append(f"{name} would be packed")
                continue
            try:
                done = pack_base(family, code, at_most=WORTH_IT)
            except PipelineError as error:
                logger.warning("%s is not packed: %s", name, error)
                continue
            kept = "" if done.kept else ", not kept: that saves too little"
            sizes = f"{size(done.facts.raw_bytes)} to {size(done.facts.packed_bytes)}"
            told.append(f"{name}: {sizes}, {done.facts.ratio:.0%}{kept}")
            logger.info("packed %s", told[-1])
    return told


def _was_no_use(family: str, language: str, digest: Digest) -> bool:
    """Whether the same files were packed before, and it saved too little; or a person has unpacked them."""
    changes = [one for one in open_ledger().base_changes(family, language) if one.digest == digest]
    return any(one.change == "unpacked" or not one.details.get("kept", True) for one in changes)
