"""Figures of the whole ledger for whoever watches over it: counts and times, each by one query, none kept in memory."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, inspect, select, text

from tasks.store.database import Database
from tasks.store.tables import artifacts, attempts, channels, claims, holds, job_ends, metadata


class Took(NamedTuple):
    """Jobs that ended one way, and the seconds from the first attempt to the end of each, summed up."""

    jobs: int
    seconds: float


class LedgerFigures(NamedTuple):
    """What the ledger holds at one moment.

    Attributes:
        schema: revision of the schema.
        rows: table -> rows.
        size_bytes: of the database; SQLite's file, or all that PostgreSQL keeps for it.
        made_bytes: of every artifact ever made, whether it is still in the store or not.
        ended: outcome -> jobs whose last end was that, and what they took.
        last_end: job_key -> outcome of its last end.
        attempts: job_key -> when it was claimed, each time.
        lifted: job_key -> when a hold was last taken off.
        generations: channel -> generation that is wanted, generation that the gateway answers with.
        claim_ends: job_key -> when its claim was given back, for claims that were.
    """

    schema: str
    rows: Mapping[str, int]
    size_bytes: int
    made_bytes: int
    ended: Mapping[str, Took]
    last_end: Mapping[str, str]
    attempts: Mapping[str, list[datetime]]
    lifted: Mapping[str, datetime]
    generations: Mapping[str, tuple[int, int]]
    claim_ends: Mapping[str, datetime]


def figures(ledger: Database) -> LedgerFigures:
    """Read them, all in one transaction."""
    with ledger._read() as connection:

        def asked(query: Any) -> list[Any]:
            return list(connection.execute(query))

        present = set(inspect(connection).get_table_names())
        rows = {
            table.name: connection.scalar(select(func.count()).select_from(table)) or 0
            for table in metadata.sorted_tables
            if table.name in present
        }
        taken: dict[str, list[datetime]] = {}
        for row in asked(select(attempts.c.job_key, attempts.c.at).order_by(attempts.c.fence)):
            taken.setdefault(row.job_key, []).append(row.at)
        ends = asked(select(job_ends.c.job_key, job_ends.c.outcome, job_ends.c.at).order_by(job_ends.c.id))
        last = {row.job_key: row for row in ends}
        ended: dict[str, Took] = {}
        for key, row in last.items():
            before = ended.get(row.outcome, Took(0, 0.0))
            seconds = (row.at - taken[key][0]).total_seconds() if key in taken else 0.0
            ended[row.outcome] = Took(before.jobs + 1, before.seconds + max(0.0, seconds))
        lifts = asked(select(holds.c.key, func.max(holds.c.at)).where(holds.c.held.is_(False)).group_by(holds.c.key))
        wanted = asked(select(channels.c.channel, channels.c.generation, channels.c.acknowledged_generation))
        over = asked(select(claims.c.job_key, claims.c.ended_at).where(claims.c.ended_at.is_not(None)))
        size = (
            "SELECT pg_database_size(current_database())"
            if connection.dialect.name == "postgresql"
            else "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        )
        return LedgerFigures(
            schema=str(connection.scalar(text("SELECT version_num FROM alembic_version"))),
            rows=rows,
            size_bytes=int(connection.scalar(text(size)) or 0),
            made_bytes=int(connection.scalar(select(func.sum(artifacts.c.total_bytes))) or 0),
            ended=ended,
            last_end={key: row.outcome for key, row in last.items()},
            attempts=taken,
            lifted={row[0]: row[1] for row in lifts},
            generations={row[0]: (row[1], row[2]) for row in wanted},
            claim_ends={row[0]: row[1] for row in over},
        )
