"""Turns: one process at a time acts for a name, such as the watch. One row for each name, however often it is taken.

A claim of a job is a fact of its own, an attempt; a watch comes 52,000 times a year and begins no work by itself.
"""

from datetime import datetime, timedelta

from sqlalchemy import insert, select, update

from tasks.domain.errors import InputError
from tasks.domain.records import Turn
from tasks.store.database import Database
from tasks.store.tables import turns


class Turns(Database):
    """The part of the ledger that keeps processes apart which are no jobs."""

    def take_turn(self, name: str, owner: str, lease_seconds: float) -> Turn | None:
        """The right to act for ``name``; None while another owner has it and its lease lasts.

        The owner itself may take it again: its earlier turn is then over, as after a crash and a retry.

        Args:
            name: what one process at a time acts for.
            owner: who takes it.
            lease_seconds: how long it is kept at most, by the ledger's clock. A turn is not renewed.
        """
        if lease_seconds <= 0:
            raise InputError(f"the lease on {name} is {lease_seconds} s; it must be more than 0")
        with self._write() as connection:
            now = self._now(connection)
            last = connection.execute(select(turns).where(turns.c.name == name)).first()
            if last is not None and last.owner != owner and last.ended_at is None and last.lease_until > now:
                return None
            number = 1 if last is None else last.number + 1
            taken = Turn(name=name, number=number, owner=owner, lease_until=now + timedelta(seconds=lease_seconds))
            values = {**taken.model_dump(), "ended_at": None}
            if last is None:
                connection.execute(insert(turns).values(**values))
            else:
                connection.execute(update(turns).where(turns.c.name == name).values(**values))
            return taken

    def end_turn(self, turn: Turn) -> bool:
        """Give it back; False if it was over, or somebody else has taken the next one."""
        with self._write() as connection:
            mine = (turns.c.name == turn.name, turns.c.number == turn.number, turns.c.ended_at.is_(None))
            return connection.execute(update(turns).where(*mine).values(ended_at=self._now(connection))).rowcount == 1

    def turn_of(self, name: str, now: datetime | None = None) -> Turn | None:
        """The turn that somebody has now, or None."""
        with self._read() as connection:
            live = (turns.c.ended_at.is_(None), turns.c.lease_until > (now or self._now(connection)))
            row = connection.execute(select(turns).where(turns.c.name == name, *live)).first()
            if row is None:
                return None
            return Turn.model_validate({key: value for key, value in row._mapping.items() if key != "ended_at"})
