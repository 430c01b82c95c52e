"""What a catalog entry means now: the exact state of its repository. No Prefect here."""

from typing import TYPE_CHECKING

from tasks.domain.catalog import Repository
from tasks.domain.errors import ModelRefused
from tasks.domain.models import Digest, ModelRef
from tasks.doors import open_ledger, open_source

if TYPE_CHECKING:
    from tasks.store.glance import Remembered


def on_record(repository: Repository) -> tuple[str | None, Digest | None]:
    """Revision and content digest of a catalog entry, by the ledger alone; None for what is not known there."""
    ledger = open_ledger()
    seen = ledger.repo_seen(repository.repo)
    if seen is not None and repository.revision in (None, seen.revision):
        return seen.revision, seen.content_digest
    if repository.revision is None:
        return None, None
    return repository.revision, ledger.fetched(ModelRef(repo_id=repository.repo, revision=repository.revision))


def resolve(repository: Repository, seen: "Remembered | None" = None) -> ModelRef:
    """The exact state of a catalog entry: its pinned revision, or the head of its repository now.

    Args:
        repository: of the catalog.
        seen: what is remembered of it and of others, where that was read at once.

    Raises:
        ModelRefused: the head is followed, and the name was deleted and registered again since it was last seen.
    """
    if repository.revision is not None:
        return ModelRef(repo_id=repository.repo, revision=repository.revision)
    state = open_source().state(repository.repo)
    known = open_ledger().repo_seen(repository.repo) if seen is None else seen.by_name.get(repository.repo)
    ids = (known.internal_id if known else "", state.internal_id)
    if all(ids) and ids[0] != ids[1]:
        raise ModelRefused(
            f"{repository.repo} was deleted and registered again: its internal id is {ids[1]}, and was {ids[0]}. Check "
            f"who owns it now; to trust it, pin it in the catalog, as in revision: {state.sha}"
        )
    return ModelRef(repo_id=repository.repo, revision=state.sha)
