"""The same facts for many keys at once: one query for a whole plan or a whole listing of the Hub, not one for each row.

At 3,600 jobs and 30,000 repositories one query each is what a watch can afford; payloads are not read where keys are
enough.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

from sqlalchemy import Column, Connection, Row, Select, Table, and_, func, insert, or_, select

from tasks.domain.jobs import Job
from tasks.domain.models import Digest, Noun
from tasks.domain.records import JobEnd, RepoState
from tasks.store.claims import ENDS
from tasks.store.database import Database, among
from tasks.store.tables import approvals, attempts, holds, job_ends, jobs, repo_states

T = TypeVar("T")
N = TypeVar("N", bound=Noun)


class Listings(Database):
    """The part of the ledger that answers for many keys at once."""

    # --- jobs --------------------------------------------------------------------------------------------------------
    def record_jobs(self, wanted: Sequence[Job]) -> int:
        """Record what each key stands for, in one transaction; how many were not the newest of theirs already."""
        named = [(job.key, job) for job in wanted]  # a key is a hash: asked for once
        with self._write() as connection:
            now, known = self._now(connection), _newest_jobs(connection, {job.family for _, job in named})
            new = []
            for key, job in named:
                place = (job.family, job.target, job.release.content_digest)
                if known.get(place) != key:
                    known[place] = key
                    new.append(
                        {
                            "job_key": key,
                            "family": job.family,
                            "target": job.target,
                            "channel": job.channel,
                            "repo_id": job.release.ref.repo_id,
                            "revision": job.release.ref.revision,
                            "release_digest": job.release.content_digest,
                            "payload": job.model_dump(mode="json"),
                            "at": now,
                        }
                    )
            if new:
                connection.execute(insert(jobs), new)
        return len(new)

    def newest_jobs(self, family: str) -> dict[tuple[str, Digest], Digest]:
        """(target, content digest of the release) -> key of the newest job, of every release and target on record."""
        with self._read() as connection:
            found = _newest_jobs(connection, {family})
        return {(target, digest): key for (_, target, digest), key in found.items()}

    def job_ends(self, keys: Collection[str] | None = None) -> dict[str, JobEnd]:
        """How each job ended last; those that never did are missing. All jobs if ``keys`` is left out."""
        newest = select(func.max(job_ends.c.id)).where(among(job_ends.c.job_key, keys)).group_by(job_ends.c.job_key)
        with self._read() as connection:
            rows = connection.execute(_columns(job_ends, JobEnd).where(job_ends.c.id.in_(newest))).all()
            found = {end.job_key: end for end in _nouns(JobEnd, rows)}
        return _only(keys, found)

    def settled_jobs(self) -> set[str]:
        """Every job that has ended for good: published, rejected or kept."""
        newest = select(func.max(job_ends.c.id)).group_by(job_ends.c.job_key)
        asked = select(job_ends.c.job_key).where(job_ends.c.id.in_(newest), job_ends.c.outcome.in_(ENDS))
        with self._read() as connection:
            return set(connection.scalars(asked))

    def waiting_since(self) -> dict[str, datetime]:
        """Job -> since when its candidate waits for a person."""
        newest = select(func.max(approvals.c.id)).group_by(approvals.c.job_key)
        asked = select(approvals.c.job_key, approvals.c.at)
        with self._read() as connection:
            rows = connection.execute(asked.where(approvals.c.id.in_(newest), approvals.c.state == "waiting"))
            return {key: at for key, at in rows}

    def attempts_since_lift(self, keys: Collection[str] | None = None) -> dict[str, int]:
        """Job -> how often it was claimed after the last time a hold was taken off it, or ever. 0 is left out."""
        lifts = _lifts(keys).subquery()
        since = or_(lifts.c.at.is_(None), attempts.c.at > lifts.c.at)
        asked = (
            select(attempts.c.job_key, func.count())
            .join_from(attempts, lifts, lifts.c.key == attempts.c.job_key, isouter=True)
            .where(among(attempts.c.job_key, keys), since)
            .group_by(attempts.c.job_key)
        )
        with self._read() as connection:
            return _only(keys, {key: count for key, count in connection.execute(asked)})

    def lifted(self, keys: Collection[str] | None = None) -> dict[str, datetime]:
        """Key -> when a hold was taken off it, or a new try was asked for, last."""
        with self._read() as connection:
            return _only(keys, {key: at for key, at in connection.execute(_lifts(keys))})

    # --- repositories ------------------------------------------------------------------------------------------------
    def repos_last(self, repo_ids: Collection[str] | None = None) -> dict[str, RepoState]:
        """Name -> the last recorded state of that repository; of all if no names are given."""
        return self._last_states(repo_states.c.repo_id, repo_ids)

    def repos_last_by_id(self, internal_ids: Collection[str] | None = None) -> dict[str, RepoState]:
        """Id at the source -> the last recorded state of that repository, whatever its name was then."""
        found = self._last_states(repo_states.c.internal_id, internal_ids)
        found.pop("", None)  # a source without ids
        return found

    def repos_with_any(self, content_digests: Collection[Digest]) -> dict[Digest, set[str]]:
        """Content digest -> every repository that was ever seen with these files."""
        asked = select(repo_states.c.content_digest, repo_states.c.repo_id)
        found: dict[Digest, set[str]] = {digest: set() for digest in content_digests}
        with self._read() as connection:
            for digest, repo_id in connection.execute(asked.where(among(repo_states.c.content_digest, found))):
                if digest in found:
                    found[digest].add(repo_id)
        return found

    def _last_states(self, column: Column[Any], names: Collection[str] | None) -> dict[str, RepoState]:
        newest = select(func.max(repo_states.c.id)).where(among(column, names)).group_by(column)
        with self._read() as connection:
            rows = connection.execute(_columns(repo_states, RepoState).where(repo_states.c.id.in_(newest))).all()
            found = {getattr(state, column.name): state for state in _nouns(RepoState, rows)}
        return _only(names, found)


def _newest_jobs(connection: Connection, families: Iterable[str]) -> dict[tuple[str, str, Digest], Digest]:
    place = (jobs.c.family, jobs.c.target, jobs.c.release_digest)
    newest = select(func.max(jobs.c.id)).where(jobs.c.family.in_(sorted(families))).group_by(*place)
    rows = connection.execute(select(*place, jobs.c.job_key).where(jobs.c.id.in_(newest)))
    return {(family, target, digest): key for family, target, digest, key in rows}


def _lifts(keys: Collection[str] | None) -> Select[Any]:
    lifted = and_(~holds.c.held, among(holds.c.key, keys))
    return select(holds.c.key, func.max(holds.c.at).label("at")).where(lifted).group_by(holds.c.key)


def _only(keys: Collection[str] | None, found: dict[str, T]) -> dict[str, T]:
    return found if keys is None else {key: found[key] for key in keys if key in found}


def _columns(table: Table, noun: type[Noun]) -> Select[Any]:
    return select(*(table.c[name] for name in noun.model_fields))


def _nouns(noun: type[N], rows: Iterable[Row[Any]]) -> Iterator[N]:
    """Rows of ours as nouns, not validated again: of 30,000 that alone would take a quarter of a second."""
    names = tuple(noun.model_fields)
    return (cast(N, noun.model_construct(**dict(zip(names, row, strict=True)))) for row in rows)
