"""Prefect tasks that face the Hub: what is new, what went into it, and getting it here verified."""

import shutil
from datetime import UTC, datetime
from uuid import uuid4

from prefect import task
from prefect.logging import get_run_logger

from tasks.domain.errors import ModelRefused
from tasks.domain.jobs import Job
from tasks.domain.models import Digest, ModelRef, Release
from tasks.doors import open_catalog, open_ledger, open_source, open_store
from tasks.jobs import admit
from tasks.runs import HUB
from tasks.settings import settings
from tasks.sources.detection import instruct_releases, settled


@task(name="find-releases", task_run_name="find releases of {family_name}", **HUB)
def find_releases(family_name: str, full_rescan: bool = False) -> list[Release]:
    """Record what is new of one family; all of its releases on record are returned."""
    family, source, ledger, logger = open_catalog().family(family_name), open_source(), open_ledger(), get_run_logger()
    states = [state for org in family.instruct.organizations for state in source.list_organisation(org)]
    now, refused = datetime.now(UTC), {held.key for held in ledger.holds()}
    for state in instruct_releases(states, pattern=family.instruct.pattern, deny=family.instruct.deny):
        hold = f"release:{state.repo_id}@{state.sha}"
        if hold in refused:
            continue
        seen = ledger.repo_seen(state.repo_id)
        if not full_rescan and seen is not None and seen.revision == state.sha and seen.content_digest is not None:
            continue
        if waits := settled(state, now, settings().settle_seconds):
            logger.info("%s waits: %s", state.repo_id, waits)
            continue
        try:
            release = admit(family, state, now)
        except ModelRefused as refusal:
            ledger.record_hold(hold, str(refusal))
            logger.warning("%s is refused: %s", state.repo_id, refusal)
            continue
        if ledger.record_release(release):
            logger.info("new release: %s (content %s)", release.ref, release.content_digest[:12])
        ledger.record_repo_state(state.repo_id, state.internal_id, state.sha, release.content_digest, now)
    return ledger.releases(family_name)


@task(name="fetch", task_run_name="fetch {role}: {ref.slug}", tags=["hub"], **HUB)
def fetch_model(role: str, ref: ModelRef, digest: Digest) -> Digest:
    """Bring one model into the store, every file verified by hash; nothing to do if its digest is there.

    Raises:
        ModelRefused: if what arrived is not what the Hub said: both digests are named.
    """
    store, logger = open_store(), get_run_logger()
    if store.has(digest):
        logger.info("%s %s is in the store: %s", role, ref, digest[:12])
        return digest
    scratch = store.scratch(f"fetch-{digest[:12]}-{uuid4().hex[:8]}")
    into = scratch / "model"
    files = open_source().fetch(ref, into)
    artifact = store.adopt(into)
    shutil.rmtree(scratch)
    if artifact.digest != digest:
        raise ModelRefused(f"{ref}: content digest {artifact.digest} arrived, {digest} was announced")
    open_ledger().record_fetched(ref, digest)
    logger.info("%s %s: %d files, %d bytes, verified", role, ref, len(files), sum(f.size for f in files))
    return digest


def fetch_all(job: Job) -> dict[str, Digest]:
    """Role -> digest of every ingredient, all of them in the store."""
    runs = {i.role: fetch_model.submit(i.role, i.ref, i.digest) for i in job.lineage.ingredients}
    return {role: run.result() for role, run in runs.items()}
