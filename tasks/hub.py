"""Prefect tasks that face the Hub: what is new, what went into it, and getting it here verified."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from prefect import task
from prefect.logging import get_run_logger

from tasks.absence import VANISHED, hold_vanished, lift_moot
from tasks.admission import examine, hold_key, release_of
from tasks.disk import fetch_folder
from tasks.domain.catalog import Family
from tasks.domain.errors import ModelRefused
from tasks.domain.jobs import Job
from tasks.domain.models import Digest, ModelRef, Release
from tasks.doors import open_catalog, open_ledger, open_source, open_store
from tasks.polls import counted
from tasks.recall import Recall
from tasks.runs import HUB
from tasks.sources.detection import instruct_releases
from tasks.sources.failures import HubBusy
from tasks.sources.protocol import At, RepoState
from tasks.sources.recognition import Recognition
from tasks.sources.room import alone_in

LONGEST_PAUSE_SECONDS = 60.0
"""A Hub that asks for more than this is asked again by the next watch."""
SELF_LIFTING = ("gated:", "disabled:", "base:", "licence:", VANISHED)
"""Holds that end without a new commit, such as when access is granted: looked at by every watch."""


@task(name="find-releases", task_run_name="find releases of {family_name}", **HUB)
def find_releases(family_name: str, full_rescan: bool = False) -> list[Release]:
    """Record what is new of one family, hold what is refused or unfinished, and lift what was put right.

    Args:
        family_name: as in the catalog.
        full_rescan: look again also at what is on record or held.

    Returns:
        All releases of the family on record.
    """
    family, ledger, now = open_catalog().family(family_name), open_ledger(), datetime.now(UTC)
    with counted(family_name), _as_asked():
        listed = [state for org in family.instruct.organizations for state in open_source().list_organisation(org)]
        states = instruct_releases(listed, pattern=family.instruct.pattern, deny=family.instruct.deny)
        recall, noted = Recall(family, states), False
        for state in states:
            reason = recall.held.get(hold_key(state.ref))
            if recall.has(state) and not full_rescan:
                continue
            if reason is None or full_rescan or reason.startswith(SELF_LIFTING):
                found = examine(family, state, now, rescan=full_rescan, memory=recall.memory(state))
                _note(family, state, found, now)
                noted = True
        rule = family.instruct.model_dump_json()
        ledger.record_watch(family_name, rule, now, {s.repo_id for s in states})  # only now: all of it was looked at
    recall = Recall(family, states) if noted else recall
    lifted = lift_moot(family, {state.repo_id: state for state in states}, recall.held)
    held = {key: reason for key, reason in recall.held.items() if key not in lifted}
    for told in hold_vanished(family, listed, recall, held):
        get_run_logger().warning(told)
    return recall.releases


def _note(family: Family, state: RepoState, found: Recognition, now: datetime) -> None:
    """Write down what one repository was recognised as."""
    ledger, logger, key = open_ledger(), get_run_logger(), hold_key(state.ref)
    told = "; ".join([found.reason, *found.notes])
    if found.verdict == "release":
        if found.cause == "new" and ledger.record_release(release_of(family, state, found, now)):
            logger.info("new release: %s", told)
        if ledger.record_repo_state(state.repo_id, state.internal_id, state.sha, found.content_digest, now):
            logger.info("%s: %s", state.ref, told)
        for hold in ledger.holds():
            if hold.key.startswith(f"release:{state.repo_id}@"):
                ledger.release_hold(hold.key, found.reason)
        return
    logger.info("%s %s: %s", state.repo_id, found.verdict, told)
    if found.verdict == "held" or found.cause == "unfinished":
        ledger.record_hold(key, told)
    seen = ledger.repo_seen(state.repo_id)
    # Its id is remembered from the first sight on; one that replaced another is not, until a person trusts it. What is
    # private has not been seen yet: whoever watches without a token does not see it either.
    if found.cause not in ("identity", "private") and (
        seen is None or (seen.internal_id, seen.revision) != (state.internal_id, state.sha)
    ):
        ledger.record_repo_state(state.repo_id, state.internal_id, state.sha, None, now)


@contextmanager
def _as_asked() -> Iterator[None]:
    """Wait as long as a busy Hub asks, then let Prefect try again; its own delays know nothing of Retry-After."""
    try:
        yield
    except HubBusy as busy:
        time.sleep(min(busy.retry_after_seconds or 0, LONGEST_PAUSE_SECONDS))
        raise


@task(name="fetch", task_run_name="fetch {role}: {ref.slug}", tags=["hub"], **HUB)
def fetch_model(role: str, ref: ModelRef, digest: Digest) -> Digest:
    """Bring one model into the store, every file verified by hash; nothing to do if its digest is there.

    Raises:
        ModelRefused: if what arrived is not what the Hub said: both digests are named.
    """
    store, logger = open_store(), get_run_logger()
    if store.use(digest):
        logger.info("%s %s is in the store: %s", role, ref, digest[:12])
        return digest
    # One name for one model: a second worker waits here, and who comes after a crash finds what had arrived.
    scratch = store.scratch(fetch_folder(digest), outlives=True)
    with alone_in(scratch):
        if store.has(digest):
            logger.info("%s %s was brought by another run: %s", role, ref, digest[:12])
            return digest
        into = scratch / "model"
        shutil.rmtree(into, ignore_errors=True)  # whole, and not adopted: whoever fetched it was ended just then
        files = open_source().fetch(ref, into, at_hand=_at_hand(), room=store.root / "room")
        artifact = store.adopt(into)
        shutil.rmtree(scratch, ignore_errors=True)
    if artifact.digest != digest:
        raise ModelRefused(f"{ref}: content digest {artifact.digest} arrived, {digest} was announced")
    open_ledger().record_fetched(ref, digest)
    logger.info("%s %s: %d files, %d bytes, verified", role, ref, len(files), sum(f.size for f in files))
    return digest


def _at_hand() -> At:
    """Where the store has a file with some sha256: of a release that changes one shard only that one is downloaded."""
    store = open_store()
    artifacts = [artifact for artifact in store.glance() if store.is_whole(artifact.digest)]
    return {file.sha256: Path(own.folder) / file.path for own in artifacts for file in own.files}.get


def fetch_all(job: Job) -> dict[str, Digest]:
    """Role -> digest of every ingredient, all of them in the store."""
    runs = [(i.role, fetch_model.submit(i.role, i.ref, i.digest)) for i in job.lineage.ingredients]
    return {role: run.result() for role, run in runs}
