"""Facts about judging: evaluations with every item's outcome, verdicts, how jobs ended, and what is on hold."""

import json
import zlib
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, desc, func, insert, select

from tasks.domain.errors import InputError
from tasks.domain.examination import NORM, SHARE
from tasks.domain.models import Digest, Evaluation, Item, Score
from tasks.domain.records import Hold, JobEnd, JobOutcome, VerdictFact
from tasks.domain.repeats import AGAIN
from tasks.store.claims import require_fence
from tasks.store.database import Database, among
from tasks.store.tables import evaluations, holds, job_ends, scores, verdicts


class JudgementFacts(Database):
    """The part of the ledger that knows scores, verdicts, ends and holds. Where a fact may repeat, the latest wins."""

    # --- evaluations -------------------------------------------------------------------------------------------------
    def record_evaluation(self, evaluation: Evaluation) -> bool:
        """Record an evaluation; False if it is known. A model is measured once.

        Raises:
            InputError: if the same eval_key was recorded with other scores. The first ones stay.
        """
        packed = [_pack(evaluation.eval_key, n, score) for n, score in enumerate(evaluation.scores)]  # before the lock
        with self._write() as connection:
            known = _evaluation(connection, evaluation.eval_key)
            if known is None:
                values = {"eval_key": evaluation.eval_key, "artifact_digest": evaluation.artifact_digest}
                connection.execute(
                    insert(evaluations).values(**values, facts=evaluation.facts, at=self._now(connection))
                )
                if packed:
                    connection.execute(insert(scores), packed)
                return True
        problems = _differences(known, evaluation)
        if problems:
            raise InputError(
                f"evaluation {evaluation.eval_key} is on record with other scores; the recorded ones stay: use them, "
                "or find the thing that changed and is missing from the key",
                problems=problems,
            )
        return False

    def evaluation(self, eval_key: Digest) -> Evaluation | None:
        """The evaluation recorded under ``eval_key``, items included, or None."""
        with self._read() as connection:
            return _evaluation(connection, eval_key)

    def evaluations_of(self, artifact_digest: Digest) -> list[Evaluation]:
        """All evaluations of one artifact, oldest first."""
        keys = select(evaluations.c.eval_key).where(evaluations.c.artifact_digest == artifact_digest)
        with self._read() as connection:
            ordered = connection.scalars(keys.order_by(evaluations.c.at, evaluations.c.eval_key)).all()
            return [found for key in ordered if (found := _evaluation(connection, key)) is not None]

    def scores_of(self, artifact_digest: Digest) -> list[dict[str, Any]]:
        """The newest score of each benchmark of an artifact, by name and without items: nothing is unpacked.

        Returns:
            ``benchmark, metric, value, stderr, n, higher_is_better`` of each.
        """
        names = ("benchmark", "metric", "value", "stderr", "n", "higher_is_better")
        asked = (
            select(*(scores.c[name] for name in names))
            .join(evaluations, evaluations.c.eval_key == scores.c.eval_key)
            .where(evaluations.c.artifact_digest == artifact_digest, scores.c.metric.not_in((SHARE, NORM, AGAIN)))
            .order_by(evaluations.c.at, evaluations.c.eval_key, scores.c.position)
        )
        with self._read() as connection:
            newest = {(row.benchmark, row.metric): dict(row._mapping) for row in connection.execute(asked)}
        return [newest[name] for name in sorted(newest)]

    # --- verdicts ----------------------------------------------------------------------------------------------------
    def record_verdict(
        self,
        verdict_key: str,
        job_key: str,
        outcome: str,
        payload: Mapping[str, Any],
        at: datetime | None = None,
        *,
        family: str | None = None,
        target: str | None = None,
    ) -> bool:
        """Record a verdict; False if it is the same as the latest of this key.

        Args:
            verdict_key: what was judged, by which gate, against what.
            job_key: the job that it was judged for.
            outcome: as in the payload; a column of its own, so that it can be asked for.
            payload: ``Verdict.model_dump(mode="json")``.
            at: when; now, if left out.
            family: what ``verdicts`` selects by; taken from the payload if left out.
            target: as ``family``.
        """
        fact = VerdictFact(
            verdict_key=verdict_key,
            job_key=job_key,
            family=str(payload.get("family", "")) if family is None else family,
            target=str(payload.get("target", "")) if target is None else target,
            outcome=outcome,
            payload=payload,
            at=at or self.now(),
        )
        with self._write() as connection:
            last = connection.execute(_latest_verdict(verdict_key)).first()
            if last is not None and verdict_of(last).model_copy(update={"at": fact.at}) == fact:
                return False
            connection.execute(insert(verdicts).values(**fact.model_dump()))
            return True

    def verdict(self, verdict_key: str) -> VerdictFact | None:
        """The latest verdict under ``verdict_key``, or None."""
        with self._read() as connection:
            row = connection.execute(_latest_verdict(verdict_key)).first()
            return None if row is None else verdict_of(row)

    def verdicts(self, family: str | None = None, target: str | None = None) -> list[VerdictFact]:
        """All verdicts ever, newest first, of one family and of one target where they are given."""
        asked = select(verdicts).order_by(desc(verdicts.c.id))
        if family is not None:
            asked = asked.where(verdicts.c.family == family)
        if target is not None:
            asked = asked.where(verdicts.c.target == target)
        with self._read() as connection:
            return [verdict_of(row) for row in connection.execute(asked)]

    # --- ends and holds ----------------------------------------------------------------------------------------------
    def record_job_end(
        self,
        job_key: str,
        outcome: JobOutcome,
        reason: str,
        artifact_digest: Digest | None = None,
        flow_run_id: str | None = None,
        at: datetime | None = None,
        fence: int | None = None,
    ) -> None:
        """Record how a job ended. A job may end again (failed, then published): the latest counts.

        Raises:
            PromotionFailed: if ``fence`` is given and that attempt is over: another one says how the job ends.
        """
        end = JobEnd(
            job_key=job_key,
            outcome=outcome,
            reason=reason,
            artifact_digest=artifact_digest,
            flow_run_id=flow_run_id,
            at=at or self.now(),
        )
        with self._write() as connection:
            require_fence(connection, job_key, fence, f"the end {outcome!r} of job {job_key[:12]}")
            connection.execute(insert(job_ends).values(**end.model_dump()))

    def job_end(self, job_key: str) -> JobEnd | None:
        """How the job ended last, or None if it never did."""
        latest = select(job_ends).where(job_ends.c.job_key == job_key).order_by(desc(job_ends.c.id)).limit(1)
        with self._read() as connection:
            row = connection.execute(latest).first()
            return None if row is None else JobEnd.model_validate(_without_id(row))

    def record_hold(self, key: str, reason: str, *, fence: int | None = None) -> None:
        """Put ``key`` on hold: the watch leaves it alone.

        Raises:
            PromotionFailed: if ``fence`` is given and that attempt at the job is over.
        """
        self._hold(key, True, reason, fence)

    def release_hold(self, key: str, reason: str = "") -> None:
        """Take the hold off ``key``; nothing happens if there is none."""
        self._hold(key, False, reason)

    def lift(self, key: str, reason: str) -> None:
        """Take any hold off ``key`` and record that a person wants it tried again: attempts count anew from here."""
        with self._write() as connection:
            connection.execute(insert(holds).values(key=key, held=False, reason=reason, at=self._now(connection)))

    def lifted_at(self, key: str, *, but_for: str | None = None) -> datetime | None:
        """When a hold was taken off ``key``, or a new try was asked for, last; None if never.

        With ``but_for`` what was lifted for that reason does not count.
        """
        asked = select(func.max(holds.c.at)).where(holds.c.key == key, ~holds.c.held)
        if but_for is not None:
            asked = asked.where(holds.c.reason != but_for)
        with self._read() as connection:
            found: datetime | None = connection.scalar(asked)
            return found

    def holds(self, keys: Collection[str] | None = None) -> list[Hold]:
        """What is on hold now, oldest first; of ``keys`` only, where they are given."""
        newest = select(func.max(holds.c.id)).where(among(holds.c.key, keys)).group_by(holds.c.key)
        asked = select(holds).where(holds.c.id.in_(newest), holds.c.held).order_by(holds.c.id)
        with self._read() as connection:
            rows = [row for row in connection.execute(asked) if keys is None or row.key in keys]
        return [Hold(key=row.key, reason=row.reason, at=row.at) for row in rows]

    def _hold(self, key: str, held: bool, reason: str, fence: int | None = None) -> None:
        latest = select(holds).where(holds.c.key == key).order_by(desc(holds.c.id)).limit(1)
        with self._write() as connection:
            require_fence(connection, key, fence, f"the hold on job {key[:12]}")
            last = connection.execute(latest).first()
            if (last is not None and last.held) == held and (last is None or not held or last.reason == reason):
                return
            connection.execute(insert(holds).values(key=key, held=held, reason=reason, at=self._now(connection)))


def _pack(eval_key: str, position: int, score: Score) -> dict[str, Any]:
    # 1,500 strict items with answers: about 200 KB of JSON, 20-40 KB packed.
    items = json.dumps([item.model_dump() for item in score.items], separators=(",", ":"), ensure_ascii=False)
    values = score.model_dump(exclude={"items"})
    return {**values, "eval_key": eval_key, "position": position, "items": zlib.compress(items.encode(), 6)}


def _evaluation(connection: Connection, eval_key: str) -> Evaluation | None:
    head = connection.execute(select(evaluations).where(evaluations.c.eval_key == eval_key)).first()
    if head is None:
        return None
    rows = connection.execute(select(scores).where(scores.c.eval_key == eval_key).order_by(scores.c.position))
    return Evaluation(
        eval_key=eval_key,
        artifact_digest=head.artifact_digest,
        scores=tuple(_score(row) for row in rows),
        facts=head.facts,
    )


def _score(row: Row[Any]) -> Score:
    values = {name: value for name, value in row._mapping.items() if name not in ("eval_key", "position", "items")}
    items = json.loads(zlib.decompress(row.items))
    return Score(**values, items=tuple(Item.model_validate(item) for item in items))


def _differences(known: Evaluation, new: Evaluation) -> list[str]:
    problems = []
    if known.artifact_digest != new.artifact_digest:
        problems.append(f"artifact: {known.artifact_digest} is recorded, not {new.artifact_digest}")
    before = {(s.benchmark, s.metric): s for s in known.scores}
    after = {(s.benchmark, s.metric): s for s in new.scores}
    for name in sorted({*before, *after}):
        a, b = before.get(name), after.get(name)
        if a is None or b is None:
            problems.append(f"{name[0]} ({name[1]}): {'not recorded' if a is None else 'recorded, and now missing'}")
        elif (a.n, a.value, a.stderr) != (b.n, b.value, b.stderr):
            problems.append(
                f"{name[0]} ({name[1]}): {a.value} +/- {a.stderr} with n = {a.n} is recorded, "
                f"not {b.value} +/- {b.stderr} with n = {b.n}"
            )
        elif a.items != b.items:
            moved = sum(x != y for x, y in zip(a.items, b.items, strict=False)) + abs(len(a.items) - len(b.items))
            problems.append(f"{name[0]} ({name[1]}): {moved} of {max(len(a.items), len(b.items))} items differ")
    return problems


def _latest_verdict(verdict_key: str) -> Any:
    return select(verdicts).where(verdicts.c.verdict_key == verdict_key).order_by(desc(verdicts.c.id)).limit(1)


def verdict_of(row: Row[Any]) -> VerdictFact:
    """A row of the table of verdicts, as a noun."""
    return VerdictFact.model_validate(_without_id(row))


def _without_id(row: Row[Any]) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "id"}
