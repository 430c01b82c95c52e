"""When a due job may be tried again, and which of several comes first: by the ledger alone."""

from datetime import UTC, datetime, timedelta

from tasks.domain.due import PlanRow
from tasks.domain.models import Digest
from tasks.domain.records import Attempt
from tasks.doors import open_ledger
from tasks.settings import settings

SLOWER = 4
"""Each pause before a further attempt is so many times as long as the one before."""
THERE_IS_ROOM = "there is room on the disk again"
"""Why a hold for want of room ends: its attempts count anew, for waiting is no failure, but its pauses go on."""


def not_before(row: PlanRow) -> datetime | None:
    """When the next attempt at a due job may begin, or None if it is the first since somebody asked for it."""
    return rests_until(row.job_key)


def rests_until(job_key: Digest) -> datetime | None:
    """The same for whatever is claimed and tried again.

    The pauses grow as far as attempts count; a job that waited for the disk may have made more of them.
    """
    made = _attempts(job_key)
    if not made:
        return None
    longer = SLOWER ** min(len(made) - 1, settings().max_attempts)
    return made[-1].at + timedelta(seconds=settings().retry_seconds * longer)


def rested(rows: list[PlanRow]) -> list[PlanRow]:
    """The due rows that may be dispatched now: not those whose last attempt has only just come to no end.

    What was never tried comes first, then what was tried longest ago: with a window of one, a job that comes to no end
    would take the turn of all others.
    """
    now, tried = datetime.now(UTC), dict[str, datetime]()
    due = [row for row in rows if row.standing == "due"]
    free = [row for row in due if (earliest := not_before(row)) is None or earliest <= now]
    for row in free:
        if made := _attempts(row.job_key):
            tried[row.job_key] = made[-1].at
    return sorted(free, key=lambda row: tried.get(row.job_key, datetime.min.replace(tzinfo=UTC)))


def _attempts(job_key: Digest) -> list[Attempt]:
    """Those since a person last asked for the job."""
    ledger = open_ledger()
    since = ledger.lifted_at(job_key, but_for=THERE_IS_ROOM)
    return [one for one in ledger.attempts_of(job_key) if since is None or one.at > since]
