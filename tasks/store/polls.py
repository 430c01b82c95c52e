"""How the watches of each family went: counters that move, since a row for each would be 52,000 a year."""

from datetime import datetime

from sqlalchemy import insert, select, update

from tasks.domain.records import PollState
from tasks.store.database import Database
from tasks.store.tables import polls


class Polls(Database):
    """The part of the ledger that counts watches."""

    def record_poll(self, family: str, at: datetime, calls: int, failure: str = "") -> None:
        """Count one watch of ``family``.

        Args:
            family: which family was watched.
            at: when it ended.
            calls: requests that it made to its source.
            failure: why it failed; empty if it did not.
        """
        with self._write() as connection:
            last = connection.execute(select(polls).where(polls.c.family == family)).first()
            if last is None:
                none = {"polls": 0, "failures": 0, "calls": 0, "failure": ""}
                connection.execute(insert(polls).values(family=family, **none))
            values = {
                "polls": polls.c.polls + 1,
                "failures": polls.c.failures + int(bool(failure)),
                "calls": polls.c.calls + calls,
                "failure": failure,
                "failed_at" if failure else "good_at": at,
            }
            connection.execute(update(polls).where(polls.c.family == family).values(**values))

    def polls(self) -> list[PollState]:
        """The counters of every family that was ever watched, by name."""
        with self._read() as connection:
            rows = connection.execute(select(polls).order_by(polls.c.family))
            return [PollState.model_validate(dict(row._mapping)) for row in rows]
