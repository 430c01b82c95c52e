"""Facts about jobs: what a job_key stands for, and what waits for a person's decision, with what was decided."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, desc, func, insert, select

from tasks.domain.errors import InputError
from tasks.domain.jobs import Job, PublishRequest
from tasks.domain.models import Digest
from tasks.domain.records import Approval, JobFact
from tasks.store.claims import require_fence
from tasks.store.database import Database
from tasks.store.tables import approvals, jobs


def job_row(key: Digest, job: Job) -> dict[str, Any]:
    """A row of the table of jobs, but for its moment."""
    return {
        "job_key": key,
        "family": job.family,
        "target": job.target,
        "channel": job.channel,
        "repo_id": job.release.ref.repo_id,
        "revision": job.release.ref.revision,
        "release_digest": job.release.content_digest,
        "payload": job.model_dump(mode="json"),
    }


class JobFacts(Database):
    """The part of the ledger that knows jobs by what people call them."""

    def record_job(self, job: Job) -> bool:
        """Record what ``job.key`` stands for; False if that is the newest job of its release and target already."""
        values = job_row(job.key, job)
        with self._write() as connection:
            here = [jobs.c[name] == values[name] for name in ("family", "target", "release_digest")]
            last = connection.execute(select(jobs).where(*here).order_by(desc(jobs.c.id)).limit(1)).first()
            if last is not None and last.job_key == job.key:
                return False
            connection.execute(insert(jobs).values(**values, at=self._now(connection)))
            return True

    def job(self, job_key: Digest) -> JobFact | None:
        """The job under this key, or None if no watch and no run has come across it."""
        asked = select(jobs).where(jobs.c.job_key == job_key).order_by(desc(jobs.c.id)).limit(1)
        with self._read() as connection:
            row = connection.execute(asked).first()
            return None if row is None else _job(row)

    def jobs(self, family: str | None = None) -> list[JobFact]:
        """The newest job of each release and target, oldest first; of one family if it is given."""
        newest = select(func.max(jobs.c.id)).group_by(jobs.c.family, jobs.c.target, jobs.c.release_digest)
        asked = select(jobs).where(jobs.c.id.in_(newest)).order_by(jobs.c.id)
        if family is not None:
            asked = asked.where(jobs.c.family == family)
        with self._read() as connection:
            return [_job(row) for row in connection.execute(asked)]

    # --- what waits for a person -------------------------------------------------------------------------------------
    def ask_approval(
        self, request: PublishRequest, reason: str, flow_run_id: str | None = None, *, fence: int | None = None
    ) -> bool:
        """Record that a candidate waits for a decision; False if this artifact waits already.

        It waits once: where it waits for the same channel as another job (its gate was edited), that one is superseded.

        Raises:
            InputError: if the request names no job.
            PromotionFailed: if ``fence`` is given and that attempt at the job is over.
        """
        if request.claim_key is None:
            raise InputError(f"the request for {request.channel!r} names no job; approvals are asked for jobs")
        with self._write() as connection:
            require_fence(connection, request.claim_key, fence, f"the candidate for {request.channel!r}")
            last = connection.execute(_last_approval(request.claim_key)).first()
            if last is not None and last.state == "waiting" and last.artifact_digest == request.artifact_digest:
                return False
            _supersede_others(connection, request.claim_key, request, "was asked for again as", self._now(connection))
            values = _approval_values(request.claim_key, "waiting", request, reason)
            connection.execute(
                insert(approvals).values(**values, flow_run_id=flow_run_id, by="", at=self._now(connection))
            )
            return True

    def decide(self, job_key: Digest, state: str, *, by: str, reason: str, flow_run_id: str | None = None) -> Approval:
        """Record what a person decided about a waiting candidate: ``published`` or ``rejected``.

        It may have been superseded while the decision was carried out: what was decided is then true all the same.

        Raises:
            InputError: if nothing waits under this key: somebody else has decided.
        """
        with self._write() as connection:
            last = connection.execute(_last_approval(job_key)).first()
            if last is None or last.state not in ("waiting", "superseded"):
                told = "was never asked for" if last is None else f"{last.state} by {last.by or 'nobody'} at {last.at}"
                raise InputError(f"no candidate of job {job_key[:12]} waits for a decision: it {told}")
            request = PublishRequest.model_validate(last.request)
            _supersede_others(connection, job_key, request, f"was {state} as", self._now(connection))
            values = _approval_values(job_key, state, request, reason)
            connection.execute(
                insert(approvals).values(**values, flow_run_id=flow_run_id, by=by, at=self._now(connection))
            )
            return _approval(connection.execute(_last_approval(job_key)).one())

    def approval(self, job_key: Digest) -> Approval | None:
        """The newest word on the candidate of a job, or None if no approval was ever asked for."""
        with self._read() as connection:
            row = connection.execute(_last_approval(job_key)).first()
            return None if row is None else _approval(row)

    def awaiting_approval(self) -> list[Approval]:
        """Every candidate that waits for a person, oldest first."""
        with self._read() as connection:
            return [_approval(row) for row in connection.execute(_all_waiting())]


def _last_approval(job_key: str) -> Select[Any]:
    return select(approvals).where(approvals.c.job_key == job_key).order_by(desc(approvals.c.id)).limit(1)


def _all_waiting() -> Select[Any]:
    newest = select(func.max(approvals.c.id)).group_by(approvals.c.job_key)
    asked = select(approvals).where(and_(approvals.c.id.in_(newest), approvals.c.state == "waiting"))
    return asked.order_by(approvals.c.id)


def _supersede_others(connection: Connection, job_key: str, request: PublishRequest, how: str, at: datetime) -> None:
    """End the waiting of the same artifact for the same channel under other jobs."""
    for row in connection.execute(_all_waiting()).all():
        other = PublishRequest.model_validate(row.request)
        same = (other.channel, other.artifact_digest) == (request.channel, request.artifact_digest)
        if same and row.job_key != job_key:
            values = _approval_values(row.job_key, "superseded", other, f"{how} job {job_key[:12]}")
            connection.execute(insert(approvals).values(**values, by="", at=at))


def _approval_values(job_key: str, state: str, request: PublishRequest, reason: str) -> dict[str, Any]:
    return {
        "job_key": job_key,
        "state": state,
        "artifact_digest": request.artifact_digest,
        "request": request.model_dump(mode="json"),
        "reason": reason,
    }


def _approval(row: Row[Any]) -> Approval:
    values = {name: value for name, value in row._mapping.items() if name not in ("id", "artifact_digest")}
    return Approval.model_validate(values)


def _job(row: Row[Any]) -> JobFact:
    return JobFact(job_key=row.job_key, job=Job.model_validate(row.payload), at=row.at)
