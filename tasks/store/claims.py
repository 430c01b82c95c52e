"""Who works on which job: a claim with a lease, an attempt and a fence.

A fence increases over all jobs. A process that lost its lease without noticing may finish its work; the fence stops it
where it matters: at the switch of a channel, and where it would end, hold or hand to a person a job that is another's.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Connection, Row, Table, desc, func, insert, select, update

from tasks.domain.errors import InputError, PromotionFailed
from tasks.domain.records import Attempt, Claim
from tasks.store.database import Database
from tasks.store.tables import approvals, attempts, claims, holds, job_ends, turns

ENDS = ("published", "rejected", "kept")
"""Outcomes after which a job is never due again. After the others (``failed``, ``held``, ``awaiting``) it may be."""


class Claims(Database):
    """The part of the ledger that says who may work on what."""

    def claim(
        self,
        job_key: str,
        owner: str,
        lease_seconds: float,
        description: Mapping[str, Any] | None = None,
        *,
        only_open: bool = False,
    ) -> Claim | None:
        """Take a job; None while another owner has a live claim on it.

        The owner itself may claim again: its earlier attempt is then over, as after a crash and a retry.

        Args:
            job_key: the job.
            owner: who takes it.
            lease_seconds: how long it is kept without a renewal, by the ledger's clock.
            description: recorded, and shown to people.
            only_open: None also for a job that has ended, waits for a person or is on hold. A plan may be minutes old
                when its jobs are claimed; asked in the claim's own transaction, no job is done twice.
        """
        if lease_seconds <= 0:
            raise InputError(f"the lease on {job_key} is {lease_seconds} s; it must be more than 0")
        with self._write() as connection:
            now = self._now(connection)
            held = connection.execute(select(claims).where(claims.c.job_key == job_key)).first()
            if held is not None and held.owner != owner and _is_live(held, now):
                return None
            if only_open and is_settled(connection, job_key):
                return None
            attempt = 1 + (connection.scalar(_attempts(job_key)) or 0)
            made = insert(attempts).values(job_key=job_key, attempt=attempt, owner=owner, at=now)
            key = connection.execute(made).inserted_primary_key
            assert key is not None  # both databases return it
            taken = Claim(
                job_key=job_key,
                attempt=attempt,
                fence=key[0],
                owner=owner,
                lease_seconds=lease_seconds,
                lease_until=now + timedelta(seconds=lease_seconds),
                description=dict(description or {}),
            )
            values = {**taken.model_dump(), "ended_at": None}
            if held is None:
                connection.execute(insert(claims).values(**values))
            else:
                connection.execute(update(claims).where(claims.c.job_key == job_key).values(**values))
            return taken

    def renew(self, claim: Claim) -> bool:
        """Extend the lease by its length from now; False if the claim was superseded, released or ended.

        A lease that ran out while nobody else took the job (a laptop slept) can be renewed.
        """
        with self._write() as connection:
            until = self._now(connection) + timedelta(seconds=claim.lease_seconds)
            mine = (claims.c.job_key == claim.job_key, claims.c.fence == claim.fence, claims.c.ended_at.is_(None))
            return connection.execute(update(claims).where(*mine).values(lease_until=until)).rowcount == 1

    def release(self, claim: Claim) -> bool:
        """Give the job back; False if the claim was no longer ours."""
        with self._write() as connection:
            mine = (claims.c.job_key == claim.job_key, claims.c.fence == claim.fence, claims.c.ended_at.is_(None))
            return connection.execute(update(claims).where(*mine).values(ended_at=self._now(connection))).rowcount == 1

    def live_claims(self, now: datetime | None = None) -> list[Claim]:
        """Every claim whose lease has not ended, in the order in which they were taken."""
        with self._read() as connection:
            live = (claims.c.ended_at.is_(None), claims.c.lease_until > (now or self._now(connection)))
            asked = select(claims).where(*live).order_by(claims.c.fence)
            return [_claim(row) for row in connection.execute(asked)]

    def attempts(self, job_key: str, since: datetime | None = None) -> int:
        """How often the job was claimed: ever, or after ``since``."""
        counted = select(func.count()).select_from(attempts).where(attempts.c.job_key == job_key)
        if since is not None:
            counted = counted.where(attempts.c.at > since)
        with self._read() as connection:
            return connection.scalar(counted) or 0

    def job_of(self, owner: str) -> str | None:
        """The job that ``owner`` claimed last, or None if it never claimed any."""
        asked = select(attempts.c.job_key).where(attempts.c.owner == owner).order_by(attempts.c.fence.desc()).limit(1)
        with self._read() as connection:
            return connection.scalar(asked)

    def attempts_of(self, job_key: str) -> list[Attempt]:
        """Every attempt at a job, oldest first."""
        asked = select(attempts).where(attempts.c.job_key == job_key).order_by(attempts.c.fence)
        with self._read() as connection:
            return [Attempt(**row._mapping) for row in connection.execute(asked)]

    def expire_claims_of(self, owner_prefix: str = "") -> list[str]:
        """End the claims and turns of owners that begin with ``owner_prefix`` (of all, if empty); the jobs freed by it.

        For a start after a crash, when those owners are known to be gone.
        """
        with self._write() as connection:
            gone = (claims.c.ended_at.is_(None), claims.c.owner.startswith(owner_prefix, autoescape=True))
            freed = connection.scalars(select(claims.c.job_key).where(*gone).order_by(claims.c.fence)).all()
            now = self._now(connection)
            connection.execute(update(claims).where(*gone).values(ended_at=now))
            theirs = (turns.c.ended_at.is_(None), turns.c.owner.startswith(owner_prefix, autoescape=True))
            connection.execute(update(turns).where(*theirs).values(ended_at=now))
            return list(freed)


def fence_problem(connection: Connection, claim_key: str, fence: int) -> str | None:
    """Why the holder of ``fence`` may not act for ``claim_key``, or None if it may. Called inside a write."""
    held = connection.execute(select(claims).where(claims.c.job_key == claim_key)).first()
    if held is None:
        return f"fence {fence} belongs to no claim: job {claim_key} was never claimed"
    if held.fence != fence:
        return (
            f"fence {fence} was superseded: job {claim_key} is now at fence {held.fence} "
            f"(attempt {held.attempt}, {held.owner})"
        )
    if held.ended_at is not None:
        return f"fence {fence} (attempt {held.attempt} of job {claim_key}) was given up at {held.ended_at.isoformat()}"
    return None


def require_fence(connection: Connection, job_key: str, fence: int | None, what: str) -> None:
    """Refuse a write of an attempt that is over; None is nobody's fence and may write. Called inside a write.

    Raises:
        PromotionFailed: naming the fence, and the attempt that has taken its place.
    """
    problem = fence_problem(connection, job_key, fence) if fence is not None else None
    if problem:
        raise PromotionFailed(f"{what} is not recorded: its attempt is over", problems=[problem])


def is_settled(connection: Connection, job_key: str) -> bool:
    """Whether the job has ended for good, waits for a person's word, or is on hold. Inside a caller's transaction."""

    def newest(table: Table, column: Column[Any], key: Column[Any]) -> Any:
        return connection.scalar(select(column).where(key == job_key).order_by(desc(table.c.id)).limit(1))

    return (
        newest(job_ends, job_ends.c.outcome, job_ends.c.job_key) in ENDS
        or newest(approvals, approvals.c.state, approvals.c.job_key) == "waiting"
        or bool(newest(holds, holds.c.held, holds.c.key))
    )


def _attempts(job_key: str) -> Any:
    return select(func.max(attempts.c.attempt)).where(attempts.c.job_key == job_key)


def _is_live(row: Row[Any], now: datetime) -> bool:
    return row.ended_at is None and bool(row.lease_until > now)


def _claim(row: Row[Any]) -> Claim:
    return Claim.model_validate({name: value for name, value in row._mapping.items() if name != "ended_at"})
