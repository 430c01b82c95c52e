"""What the pages of the UI ask about all jobs of a family at once: one query for each kind of fact.

Asked job by job, the pages of 24 jobs took 322 queries and read every verdict once for each job; now they take 21.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Row, desc, exists, func, select

from tasks.domain.examination import NORM, SHARE
from tasks.domain.models import Digest
from tasks.domain.records import JobEnd, JobFact, PromotionFact, StageTimes, VerdictFact
from tasks.domain.repeats import AGAIN
from tasks.store.channels import promotion_of
from tasks.store.database import Database
from tasks.store.judgements import verdict_of
from tasks.store.tables import (
    acknowledgements,
    approvals,
    attempts,
    evaluations,
    fetches,
    job_ends,
    jobs,
    merges,
    promotions,
    scores,
    verdicts,
)


class Told(NamedTuple):
    """What became of one job."""

    end: JobEnd | None
    """How it ended last."""
    verdict: VerdictFact | None
    """The newest."""
    switch: PromotionFact | None
    """The newest that it made."""
    times: StageTimes
    """When each step was recorded. What was there before (a merge made earlier) has its older time."""


class Views(Database):
    """The part of the ledger that tells of many jobs."""

    def told(self, family: str, facts: Sequence[JobFact]) -> dict[Digest, Told]:
        """job_key -> what became of it, for these jobs of one family."""
        ours = select(jobs.c.job_key).where(jobs.c.family == family)
        with self._read() as connection:
            ends = {row.job_key: JobEnd(**_values(row)) for row in _newest(connection, job_ends.c.job_key, ours)}
            judged = {row.job_key: verdict_of(row) for row in _newest(connection, verdicts.c.job_key, ours)}
            moved = select(promotions).where(promotions.c.claim_key.in_(ours)).order_by(desc(promotions.c.generation))
            switches: dict[str, list[PromotionFact]] = {}
            for row in connection.execute(moved):
                switches.setdefault(row.claim_key, []).append(promotion_of(row))
            clock = _Clock(connection, ours)
        return {
            fact.job_key: Told(
                end=ends.get(fact.job_key),
                verdict=judged.get(fact.job_key),
                switch=next(iter(switches.get(fact.job_key, [])), None),
                times=clock.times(fact, switches.get(fact.job_key, [])),
            )
            for fact in facts
        }


class _Clock:
    """When each kind of fact was recorded first."""

    def __init__(self, connection: Connection, ours: Any) -> None:
        def first(at: Column[datetime], key: Column[str], *where: ColumnElement[bool]) -> dict[str, datetime]:
            return {
                k: moment for k, moment in connection.execute(select(key, func.min(at)).where(*where).group_by(key))
            }

        self._started = first(attempts.c.at, attempts.c.job_key, attempts.c.job_key.in_(ours))
        self._judged = first(verdicts.c.at, verdicts.c.job_key, verdicts.c.job_key.in_(ours))
        published = approvals.c.job_key.in_(ours), approvals.c.state == "published"
        self._approved = first(approvals.c.at, approvals.c.job_key, *published)
        asked = exists().where(
            scores.c.eval_key == evaluations.c.eval_key, scores.c.metric.not_in((SHARE, NORM, AGAIN))
        )
        self._evaluated = first(evaluations.c.at, evaluations.c.artifact_digest, asked)
        merged = select(merges.c.merge_key, merges.c.digest, merges.c.at).order_by(desc(merges.c.at))
        self._merged = {row.merge_key: (row.digest, row.at) for row in connection.execute(merged)}  # the first stays
        brought = select(fetches.c.repo_id, fetches.c.revision, fetches.c.at)
        self._fetched = {(row.repo_id, row.revision): row.at for row in connection.execute(brought)}
        self._visible = {(row.channel, row.generation): row.at for row in connection.execute(select(acknowledgements))}

    def times(self, fact: JobFact, switches: Sequence[PromotionFact]) -> StageTimes:
        """Of one job; ``switches`` are those that it made, the newest first."""
        key, release = fact.job_key, fact.job.release
        moved = switches[-1] if switches else None
        digest, merged = self._merged.get(fact.job.merge_key, ("", None))
        return StageTimes(
            released=release.released_at,
            seen=release.seen_at,
            started=self._started.get(key),
            fetched=self._fetched.get((release.ref.repo_id, release.ref.revision)),
            merged=merged,
            evaluated=self._evaluated.get(digest),
            judged=self._judged.get(key),
            approved=self._approved.get(key),
            switched=moved.at if moved else None,
            visible=self._visible.get((moved.channel, moved.generation)) if moved else None,
        )


def _newest(connection: Connection, key: Column[str], ours: Any) -> Sequence[Row[Any]]:
    """The newest row of each key among ``ours``."""
    table = key.table
    newest = select(func.max(table.c.id)).where(key.in_(ours)).group_by(key)
    return connection.execute(select(table).where(table.c.id.in_(newest))).all()


def _values(row: Row[Any]) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "id"}
