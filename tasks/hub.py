"""Prefect tasks that face the Hub: what is new, what went into it, and getting it here verified."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import MissingResult
from prefect.logging import get_run_logger
from prefect.tasks import exponential_backoff

from tasks.domain.catalog import Family, Repository
from tasks.domain.errors import DiskFull, ModelRefused, TransientError
from tasks.domain.jobs import Job
from tasks.domain.models import Digest, ModelRef, Release
from tasks.settings import open_catalog, open_ledger, open_source, open_store, settings
from tasks.sources.detection import instruct_releases, settled
from tasks.sources.digest import remote_digest
from tasks.sources.preflight import preflight
from tasks.sources.protocol import RepoState

ENGINE_VERSION = "1"


def is_transient(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Prefect's retry condition: only what may pass by itself is tried again."""
    try:
        error = state.result(raise_on_failure=False)
    except MissingResult:
        return False
    return isinstance(error, TransientError) and not isinstance(error, DiskFull)


HUB: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}


@task(name="find-releases", task_run_name="find releases of {family_name}", **HUB)
def find_releases(family_name: str, full_rescan: bool = False) -> list[Release]:
    """Record what is new of one family; all of its releases on record are returned."""
    family, source, ledger, logger = open_catalog().family(family_name), open_source(), open_ledger(), get_run_logger()
    states = [state for org in family.instruct.organizations for state in source.list_organisation(org)]
    now = datetime.now(UTC)
    for state in instruct_releases(states, pattern=family.instruct.pattern, deny=family.instruct.deny):
        seen = ledger.repo_seen(state.repo_id)
        if not full_rescan and seen is not None and seen.revision == state.sha and seen.content_digest is not None:
            continue
        if waits := settled(state, now, settings().settle_seconds):
            logger.info("%s waits: %s", state.repo_id, waits)
            continue
        try:
            release = admit(family, state, now)
        except ModelRefused as refusal:
            ledger.record_hold(f"release:{state.repo_id}@{state.sha}", str(refusal))
            ledger.record_repo_state(state.repo_id, state.internal_id, state.sha, "0" * 64, now)
            logger.warning("%s is refused: %s", state.repo_id, refusal)
            continue
        if ledger.record_release(release):
            logger.info("new release: %s (content %s)", release.ref, release.content_digest[:12])
        ledger.record_repo_state(state.repo_id, state.internal_id, state.sha, release.content_digest, now)
    return ledger.releases(family_name)


def admit(family: Family, state: RepoState, now: datetime) -> Release:
    """Pre-flight from headers, before any big download; then the release as a fact."""
    source = open_source()
    ref = ModelRef(repo_id=state.repo_id, revision=state.sha)
    preflight(source, ref, resolve(family.base), allowed_architectures=family.architectures)
    digest, _ = remote_digest(source, ref)
    return Release(
        family=family.family, ref=ref, content_digest=digest, released_at=state.last_modified, seen_at=now
    )


def resolve(repository: Repository) -> ModelRef:
    """The exact state of a catalog entry: its pinned revision, or the head of its repository now."""
    if repository.revision is not None:
        return ModelRef(repo_id=repository.repo, revision=repository.revision)
    return open_source().resolve(repository.repo)


def digest_of(ref: ModelRef) -> Digest:
    """Content digest of a ref, from the ledger when this very revision was seen before."""
    seen = open_ledger().repo_seen(ref.repo_id)
    if seen is not None and seen.revision == ref.revision and seen.content_digest is not None:
        return seen.content_digest
    digest, _ = remote_digest(open_source(), ref)
    state = open_source().state(ref.repo_id)
    open_ledger().record_repo_state(ref.repo_id, state.internal_id, ref.revision, digest, datetime.now(UTC))
    return digest


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
    into = store.scratch(f"fetch-{digest[:12]}-{uuid4().hex[:8]}") / "model"
    files = open_source().fetch(ref, into)
    artifact = store.adopt(into)
    if artifact.digest != digest:
        raise ModelRefused(f"{ref}: content digest {artifact.digest} arrived, {digest} was announced")
    open_ledger().record_fetched(ref, digest)
    logger.info("%s %s: %d files, %d bytes, verified", role, ref, len(files), sum(f.size for f in files))
    return digest


def fetch_all(job: Job) -> dict[str, Digest]:
    """Role -> digest of every ingredient, all of them in the store."""
    runs = {i.role: fetch_model.submit(i.role, i.ref, i.digest) for i in job.lineage.ingredients}
    return {role: run.result() for role, run in runs.items()}


