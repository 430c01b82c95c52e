"""Facts about models: releases seen, states of repositories, artifacts made and fetched."""

import logging
from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, and_, desc, func, insert, select

from tasks.domain.errors import ModelRefused
from tasks.domain.lineage import Lineage
from tasks.domain.models import Artifact, Digest, ModelRef, Release, RepoId
from tasks.domain.records import MergeCost, RepoState
from tasks.store.database import Database, among
from tasks.store.tables import artifacts, fetches, merges, releases, repo_states, watches

log = logging.getLogger(__name__)


class Merged(NamedTuple):
    """What a merge_key made."""

    digest: Digest
    lineage: Lineage


class ModelFacts(Database):
    """The part of the ledger that knows models."""

    # --- releases and repositories -----------------------------------------------------------------------------------
    def record_release(self, release: Release) -> bool:
        """Record a release; False if the family has one with these files already, under whatever name or commit."""
        same = and_(releases.c.family == release.family, releases.c.content_digest == release.content_digest)
        with self._write() as connection:
            if connection.execute(select(releases.c.id).where(same)).first():
                return False
            connection.execute(
                insert(releases).values(
                    family=release.family,
                    repo_id=release.ref.repo_id,
                    revision=release.ref.revision,
                    content_digest=release.content_digest,
                    released_at=release.released_at,
                    seen_at=release.seen_at,
                )
            )
            return True

    def releases(self, family: str) -> list[Release]:
        """All releases of ``family``, oldest first by ``released_at``, then ``seen_at``."""
        order = (releases.c.released_at, releases.c.seen_at, releases.c.id)
        with self._read() as connection:
            rows = connection.execute(select(releases).where(releases.c.family == family).order_by(*order))
            return [_release(row) for row in rows]

    def release_of(self, digest: Digest) -> Release | None:
        """The release whose files have ``digest``; the first one recorded where families share it."""
        found = select(releases).where(releases.c.content_digest == digest).order_by(releases.c.id).limit(1)
        with self._read() as connection:
            row = connection.execute(found).first()
            return None if row is None else _release(row)

    def record_repo_state(
        self,
        repo_id: str,
        internal_id: str,
        sha: str,
        content_digest: Digest | None = None,
        at: datetime | None = None,
    ) -> bool:
        """Record what a repository looks like now; False, and no new row, if it looks as it did."""
        state = RepoState(
            repo_id=repo_id,
            internal_id=internal_id,
            revision=sha,
            content_digest=content_digest,
            at=at or self.now(),
        )
        with self._write() as connection:
            last = connection.execute(_last_state(repo_id)).first()
            if last is not None and _repo_state(last).model_copy(update={"at": state.at}) == state:
                return False
            connection.execute(insert(repo_states).values(**state.model_dump()))
            return True

    def repo_seen(self, repo_id: str) -> RepoState | None:
        """The last recorded state of ``repo_id``, or None if it was never seen."""
        with self._read() as connection:
            row = connection.execute(_last_state(repo_id)).first()
            return None if row is None else _repo_state(row)

    def was_anothers(self, repo_id: str, internal_id: str) -> bool:
        """Whether ``repo_id`` was ever seen as the name of a repository with another id than this one."""
        other = repo_states.c.repo_id == repo_id, repo_states.c.internal_id != internal_id
        with self._read() as connection:
            return connection.execute(select(repo_states.c.id).where(*other).limit(1)).first() is not None

    def repo_of(self, internal_id: str) -> RepoState | None:
        """The last recorded state of the repository with this id at its source, whatever its name was then."""
        found = select(repo_states).where(repo_states.c.internal_id == internal_id)
        with self._read() as connection:
            row = connection.execute(found.order_by(desc(repo_states.c.id)).limit(1)).first()
            return None if row is None else _repo_state(row)

    def repos_with(self, content_digest: Digest) -> set[str]:
        """Every repository that was ever seen with these files."""
        with self._read() as connection:
            asked = select(repo_states.c.repo_id).where(repo_states.c.content_digest == content_digest)
            return set(connection.scalars(asked))

    def repos_with_any(self, content_digests: Collection[Digest]) -> dict[Digest, set[str]]:
        """Content digest -> every repository that was ever seen with these files."""
        asked = select(repo_states.c.content_digest, repo_states.c.repo_id)
        found: dict[Digest, set[str]] = {digest: set() for digest in content_digests}
        with self._read() as connection:
            for digest, repo_id in connection.execute(asked.where(among(repo_states.c.content_digest, found))):
                if digest in found:
                    found[digest].add(repo_id)
        return found

    def first_seen(self, repo_id: str, internal_id: str, sha: str) -> datetime | None:
        """When this revision of the repository was recorded first, under whatever name, or None if it never was."""
        same = repo_states.c.internal_id == internal_id if internal_id else repo_states.c.repo_id == repo_id
        with self._read() as connection:
            found = select(func.min(repo_states.c.at)).where(same, repo_states.c.revision == sha)
            first: datetime | None = connection.scalar(found)
            return first

    def record_watch(self, family: str, rule: str, at: datetime, found: Collection[RepoId]) -> bool:
        """Record that at ``at`` all that ``rule`` finds was listed and noted.

        False, and no new row, if the rule is the same and nothing was noted of what it finds since the last row: so
        there are never more of them than there is news, and what other families have for news is none here.

        Args:
            family: whose watch it was.
            rule: of the family, as it was then.
            at: when the watch began.
            found: the repositories that the rule finds.
        """
        newest = select(watches).where(watches.c.family == family).order_by(desc(watches.c.id)).limit(1)
        with self._write() as connection:
            last = connection.execute(newest).first()
            if last is not None and last.rule == rule:
                noted = select(repo_states.c.repo_id).where(repo_states.c.at > last.at)
                if not set(connection.scalars(noted.where(among(repo_states.c.repo_id, found)))) & set(found):
                    return False
            connection.execute(insert(watches).values(family=family, rule=rule, at=at))
            return True

    def watched_before(self, family: str, rule: str, at: datetime) -> datetime | None:
        """The last recorded watch of ``family`` before ``at``; None if none was by this rule, or another came between.

        What a new rule finds need not be new: only what it did not find at one time and does at the next.
        """
        other = select(func.coalesce(func.max(watches.c.id), 0)).where(
            watches.c.family == family, watches.c.rule != rule
        )
        with self._read() as connection:
            found = select(func.max(watches.c.at)).where(
                watches.c.family == family, watches.c.id > other.scalar_subquery(), watches.c.at < at
            )
            last: datetime | None = connection.scalar(found)
            return last

    # --- artifacts ---------------------------------------------------------------------------------------------------
    def record_artifact(
        self,
        merge_key: Digest,
        artifact: Artifact,
        lineage: Lineage,
        seconds: float,
        peak_bytes: int | None = None,
    ) -> bool:
        """Record that ``merge_key`` made ``artifact``, and what that took; False if it is known.

        A key that makes other bytes than before (another engine version, another device) is logged and counts from now
        on: refusing it would leave a job stuck whose first artifact has been removed.
        """
        with self._write() as connection:
            now = self._now(connection)
            if not connection.execute(select(artifacts.c.digest).where(artifacts.c.digest == artifact.digest)).first():
                connection.execute(
                    insert(artifacts).values(
                        digest=artifact.digest,
                        total_bytes=sum(f.size for f in artifact.files),
                        files=[f.model_dump() for f in artifact.files],
                        at=now,
                    )
                )
            last = connection.execute(_last_merge(merges.c.merge_key == merge_key)).first()
            if last is not None and last.digest == artifact.digest:
                return False
            if last is not None:
                made = (merge_key, last.digest, last.lineage["engine_version"], artifact.digest, lineage.engine_version)
                log.warning("merge %s made %s with engine %s, and now makes %s with engine %s", *made)
            values = {"merge_key": merge_key, "digest": artifact.digest, "lineage": lineage.model_dump(mode="json")}
            connection.execute(insert(merges).values(seconds=seconds, peak_bytes=peak_bytes, at=now, **values))
            return True

    def artifact_for(self, merge_key: Digest) -> Merged | None:
        """What ``merge_key`` made, newest first, or None if it was never done."""
        with self._read() as connection:
            row = connection.execute(_last_merge(merges.c.merge_key == merge_key)).first()
            return None if row is None else Merged(row.digest, Lineage.model_validate(row.lineage))

    def lineage(self, digest: Digest) -> Lineage | None:
        """Where the artifact ``digest`` comes from, or None if it was not merged here."""
        with self._read() as connection:
            row = connection.execute(_last_merge(merges.c.digest == digest)).first()
            return None if row is None else Lineage.model_validate(row.lineage)

    def merge_cost(self, merge_key: Digest, digest: Digest) -> MergeCost | None:
        """What it took when ``merge_key`` made the artifact ``digest``, or None if it did not here."""
        with self._read() as connection:
            made = _last_merge(and_(merges.c.merge_key == merge_key, merges.c.digest == digest))
            row = connection.execute(made).first()
            return None if row is None else MergeCost(seconds=row.seconds, peak_bytes=row.peak_bytes)

    def record_fetched(self, ref: ModelRef, digest: Digest) -> bool:
        """Record that the files of ``ref`` have ``digest``; False if that is known.

        Raises:
            ModelRefused: if they had another digest before, since a revision never changes.
        """
        with self._write() as connection:
            known = connection.execute(_fetched(ref)).first()
            if known is None:
                values = {
                    "repo_id": ref.repo_id,
                    "revision": ref.revision,
                    "digest": digest,
                    "at": self._now(connection),
                }
                connection.execute(insert(fetches).values(**values))
                return True
        if known.digest != digest:
            raise ModelRefused(
                f"{ref.repo_id} at {ref.revision} was fetched as {known.digest}, and now as {digest}: "
                "one revision has one content. Do not use it; find out what changed at the source"
            )
        return False

    def fetched(self, ref: ModelRef) -> Digest | None:
        """The content digest that ``ref`` was fetched as, or None if it never was."""
        with self._read() as connection:
            row = connection.execute(_fetched(ref)).first()
            return None if row is None else str(row.digest)


def _last_state(repo_id: str) -> Select[Any]:
    return select(repo_states).where(repo_states.c.repo_id == repo_id).order_by(desc(repo_states.c.id)).limit(1)


def _last_merge(where: ColumnElement[bool]) -> Select[Any]:
    return select(merges).where(where).order_by(desc(merges.c.id)).limit(1)


def _fetched(ref: ModelRef) -> Select[Any]:
    return select(fetches.c.digest).where(fetches.c.repo_id == ref.repo_id, fetches.c.revision == ref.revision)


def _release(row: Row[Any]) -> Release:
    return Release(
        family=row.family,
        ref=ModelRef(repo_id=row.repo_id, revision=row.revision),
        content_digest=row.content_digest,
        released_at=row.released_at,
        seen_at=row.seen_at,
    )


def _repo_state(row: Row[Any]) -> RepoState:
    values = {name: value for name, value in row._mapping.items() if name != "id"}
    return RepoState.model_validate(values)
