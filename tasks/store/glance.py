"""What a watch asks of the ledger about everything at once: one query for each kind of fact, not one for each job.

Planning 300 releases for 12 targets asked 18,000 queries before, five for each job; these are seven.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Select, and_, bindparam, func, insert, select

from tasks.domain.jobs import Job
from tasks.domain.models import Digest, RepoId
from tasks.domain.records import RepoState
from tasks.store.database import Database
from tasks.store.jobs import job_row
from tasks.store.tables import approvals, attempts, channels, claims, holds, job_ends, jobs, promotions, repo_states

MOST_PARAMETERS = 500
"""Of one query: SQLite allowed 999 for long."""


def _last(key: Column[str], among: Select[Any] | None, *columns: Column[Any]) -> Select[Any]:
    """The newest row of each key: the key and ``columns``."""
    newest = select(func.max(key.table.c.id)).group_by(key)
    if among is not None:
        newest = newest.where(key.in_(among))
    return select(key, *columns).where(key.table.c.id.in_(newest))


# Built once: building them anew took a third of the time of a glance.
_FAMILY = jobs.c.family == bindparam("family")
_OURS = select(jobs.c.job_key).where(_FAMILY)
_NEWEST = select(jobs.c.target, jobs.c.release_digest, jobs.c.job_key).where(
    jobs.c.id.in_(select(func.max(jobs.c.id)).where(_FAMILY).group_by(jobs.c.target, jobs.c.release_digest))
)
_ENDS = _last(job_ends.c.job_key, _OURS, job_ends.c.outcome, job_ends.c.reason)
_APPROVALS = _last(approvals.c.job_key, _OURS, approvals.c.state, approvals.c.at)
_HOLDS = _last(holds.c.key, None, holds.c.held, holds.c.reason)
_CLAIMS = select(claims.c.job_key, claims.c.attempt, claims.c.owner).where(
    claims.c.ended_at.is_(None), claims.c.lease_until > bindparam("now")
)
_LIFTED = select(holds.c.key, func.max(holds.c.at).label("at")).where(~holds.c.held).group_by(holds.c.key)
_lifted = _LIFTED.subquery()
_ATTEMPTS = (
    select(attempts.c.job_key, func.count())
    .join(_lifted, _lifted.c.key == attempts.c.job_key, isouter=True)
    .where(attempts.c.job_key.in_(_OURS), _lifted.c.at.is_(None) | (attempts.c.at > _lifted.c.at))
    .group_by(attempts.c.job_key)
)
_PROMOTED = select(promotions.c.channel, promotions.c.repo_id, promotions.c.revision)
_SERVED = _PROMOTED.where(promotions.c.family == bindparam("family"))
_LIVE = _PROMOTED.join(
    channels, and_(channels.c.channel == promotions.c.channel, channels.c.generation == promotions.c.generation)
)


class Glance(NamedTuple):
    """All that bears on the standing of a family's jobs, as of one moment. By job_key where nothing else is said."""

    newest: dict[tuple[str, Digest], Digest]
    """(target, content digest of the release) -> its newest job_key."""
    ends: dict[str, tuple[str, str]]
    """Outcome and reason of the last end."""
    waiting: dict[str, datetime]
    """Since when a candidate waits for a person."""
    holds: dict[str, str]
    """Why the key is held: of every key, also of releases and targets."""
    claims: dict[str, tuple[int, str]]
    """Attempt and owner of the live claim."""
    attempts: dict[str, int]
    """How often the job was claimed since a person asked for a new try."""
    promoted: dict[str, set[tuple[RepoId, str]]]
    """Channel -> repository and revision of every release that it has served."""
    live: dict[str, tuple[RepoId, str]]
    """Channel -> what it serves now."""


class Remembered(NamedTuple):
    """The last states of many repositories."""

    by_name: dict[str, RepoState]
    by_id: dict[str, RepoState]


class Glances(Database):
    """The part of the ledger that answers for everything at once."""

    def glance(self, family: str) -> Glance:
        """What is known about the jobs of one family."""
        ours = {"family": family}
        with self._read() as connection:
            promoted: dict[str, set[tuple[RepoId, str]]] = {}
            for channel, repo_id, revision in connection.execute(_SERVED, ours):
                promoted.setdefault(channel, set()).add((repo_id, revision))
            waiting = connection.execute(_APPROVALS, ours)
            holding = connection.execute(_HOLDS)
            claimed = connection.execute(_CLAIMS, {"now": self._now(connection)})
            return Glance(
                newest={(target, digest): key for target, digest, key in connection.execute(_NEWEST, ours)},
                ends={row.job_key: (row.outcome, row.reason) for row in connection.execute(_ENDS, ours)},
                waiting={row.job_key: row.at for row in waiting if row.state == "waiting"},
                holds={row.key: row.reason for row in holding if row.held},
                claims={row.job_key: (row.attempt, row.owner) for row in claimed},
                attempts={key: count for key, count in connection.execute(_ATTEMPTS, ours)},
                promoted=promoted,
                live={channel: (repo_id, revision) for channel, repo_id, revision in connection.execute(_LIVE)},
            )

    def record_jobs(self, found: Mapping[Digest, Job]) -> None:
        """Record what several keys stand for, in one write. None may be the newest of its release and target already.

        The keys are given, since computing one takes a millisecond: the recipe is checked again for each.
        """
        if not found:
            return
        with self._write() as connection:
            now = self._now(connection)
            rows = [{**job_row(key, job), "at": now} for key, job in found.items()]
            connection.execute(insert(jobs), rows)

    def remembered(self, repo_ids: Collection[RepoId], internal_ids: Collection[str]) -> Remembered:
        """The last recorded states of these names, and of these internal ids whatever their names were."""
        with self._read() as connection:
            return Remembered(
                by_name={state.repo_id: state for state in _states(connection, repo_states.c.repo_id, repo_ids)},
                by_id={
                    state.internal_id: state for state in _states(connection, repo_states.c.internal_id, internal_ids)
                },
            )

    def lifted(self) -> dict[str, datetime]:
        """Key -> when a hold was taken off it last, or a new try was asked for."""
        with self._read() as connection:
            return {key: at for key, at in connection.execute(_LIFTED)}


def _states(connection: Connection, column: Column[str], wanted: Collection[str]) -> Iterator[RepoState]:
    ordered = sorted(set(wanted) - {""})
    for start in range(0, len(ordered), MOST_PARAMETERS):
        some = ordered[start : start + MOST_PARAMETERS]
        newest = select(func.max(repo_states.c.id)).where(column.in_(some)).group_by(column)
        for row in connection.execute(select(repo_states).where(repo_states.c.id.in_(newest))):
            # Built without another check: the ledger checked it when it was recorded, and 30,000 of them take 0.1 s.
            yield RepoState.model_construct(**{name: value for name, value in row._mapping.items() if name != "id"})
