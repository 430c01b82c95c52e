"""When a due job may be tried again: the pauses between attempts, by the ledger alone."""

from datetime import UTC, datetime, timedelta

from tasks.domain.due import PlanRow
from tasks.domain.models import Digest
from tasks.doors import open_ledger
from tasks.settings import settings

SLOWER = 4
"""Each pause before a further attempt is so many times as long as the one before."""


def not_before(row: PlanRow) -> datetime | None:
    """When the next attempt at a due job may begin, or None if it is the first since somebody asked for it."""
    return rests_until(row.job_key)


def rests_until(job_key: Digest) -> datetime | None:
    """The same for whatever else is claimed and tried again."""
    ledger = open_ledger()
    since = ledger.lifted_at(job_key)
    made = [one.at for one in ledger.attempts_of(job_key) if since is None or one.at > since]
    if not made:
        return None
    return made[-1] + timedelta(seconds=settings().retry_seconds * SLOWER ** (len(made) - 1))


def rested(rows: list[PlanRow]) -> list[PlanRow]:
    """The due rows that may be dispatched now: not those whose last attempt has only just come to no end."""
    now = datetime.now(UTC)
    due = [row for row in rows if row.standing == "due"]
    return [row for row in due if (earliest := not_before(row)) is None or earliest <= now]
