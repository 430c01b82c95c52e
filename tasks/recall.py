"""What the ledger remembers of a whole listing, read in a few queries. No Prefect here."""

from collections.abc import Iterable

from tasks.admission import hold_key
from tasks.domain.catalog import Family
from tasks.domain.models import RepoId
from tasks.domain.records import RepoState as Seen
from tasks.doors import open_ledger
from tasks.sources.protocol import RepoState
from tasks.sources.recognition import Memory


class Recall:
    """What the ledger remembers of everything in a listing, read at once and not repository by repository."""

    def __init__(self, family: Family, states: Iterable[RepoState]) -> None:
        ledger, listed = open_ledger(), list(states)
        self.releases = ledger.releases(family.family)
        self._released = frozenset(release.content_digest for release in self.releases)
        self._listed = {state.repo_id for state in listed}
        self._seen = ledger.remembered({s.repo_id for s in listed}, {s.internal_id for s in listed})
        self.held = {hold.key: hold.reason for hold in ledger.holds()}
        self._held_repositories = {key.removeprefix("release:").partition("@")[0] for key in self.held}
        self._lifted = ledger.lifted()

    def memory(self, state: RepoState) -> Memory:
        """Of one repository."""
        key = hold_key(state.ref)
        return Memory(
            by_name=self._seen.by_name.get(state.repo_id),
            by_id=self._seen.by_id.get(state.internal_id),
            trusted=key in self._lifted and key not in self.held,
            released=self._released,
        )

    def last(self, repo_ids: Iterable[RepoId]) -> dict[RepoId, Seen]:
        """The last recorded state of each of these; asked of the ledger where it is not listed."""
        wanted = set(repo_ids)
        unlisted = wanted - self._listed
        more = open_ledger().remembered(unlisted, ()).by_name if unlisted else {}
        return {name: seen for name, seen in {**self._seen.by_name, **more}.items() if name in wanted}

    def has(self, state: RepoState) -> bool:
        """Whether exactly this state is on record as a release, and nothing of its repository is held."""
        seen = self._seen.by_name.get(state.repo_id)
        return (
            seen is not None
            and (seen.revision, seen.internal_id) == (state.sha, state.internal_id)
            and seen.content_digest in self._released
            and not state.disabled
            and state.repo_id not in self._held_repositories
        )
