"""Figures of the whole ledger for whoever watches over it: counts and times, each by one query, none kept in memory."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import func, inspect, select, text

from tasks.store.database import Database
from tasks.store.tables import acknowledgements, artifacts, attempts, channels, job_ends, metadata, promotions


class Took(NamedTuple):
    """Jobs that ended one way, and the seconds from the first attempt to the end of each, summed up."""

    jobs: int
    seconds: float


class Switched(NamedTuple):
    """Switches of one channel that the gateway has acknowledged, and the seconds that it took, summed up."""

    times: int
    seconds: float


class LedgerFigures(NamedTuple):
    """What the ledger holds at one moment.

    Attributes:
        schema: revision of the schema.
        rows: table -> rows.
        size_bytes: of the database; SQLite's file, or all that PostgreSQL keeps for it.
        made_bytes: of every artifact ever made, whether it is still in the store or not.
        ended: outcome -> jobs whose last end was that, and what they took.
        attempts: key of a job, or of what else is claimed -> how often it was.
        generations: channel -> generation that is wanted, generation that the gateway answers with.
        switches: channel -> its switches, each from its record to the gateway's acknowledgement.
    """

    schema: str
    rows: Mapping[str, int]
    size_bytes: int
    made_bytes: int
    ended: Mapping[str, Took]
    attempts: Mapping[str, int]
    generations: Mapping[str, tuple[int, int]]
    switches: Mapping[str, Switched]


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
        counted = select(attempts.c.job_key, func.min(attempts.c.at).label("first"), func.count().label("times"))
        taken = {row.job_key: row for row in asked(counted.group_by(attempts.c.job_key))}
        ends = asked(select(job_ends.c.job_key, job_ends.c.outcome, job_ends.c.at).order_by(job_ends.c.id))
        last = {row.job_key: row for row in ends}
        ended: dict[str, Took] = {}
        for key, row in last.items():
            before = ended.get(row.outcome, Took(0, 0.0))
            seconds = (row.at - taken[key].first).total_seconds() if key in taken else 0.0
            ended[row.outcome] = Took(before.jobs + 1, before.seconds + max(0.0, seconds))
        wanted = asked(select(channels.c.channel, channels.c.generation, channels.c.acknowledged_generation))
        seen = (acknowledgements.c.channel == promotions.c.channel) & (
            acknowledgements.c.generation == promotions.c.generation
        )
        moved = select(promotions.c.channel, promotions.c.at, acknowledgements.c.at.label("seen_at"))
        switches: dict[str, Switched] = {}
        for row in asked(moved.join(acknowledgements, seen)):
            known = switches.get(row.channel, Switched(0, 0.0))
            seconds = max(0.0, (row.seen_at - row.at).total_seconds())
            switches[row.channel] = Switched(known.times + 1, known.seconds + seconds)
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
            attempts={key: row.times for key, row in taken.items()},
            generations={row[0]: (row[1], row[2]) for row in wanted},
            switches=switches,
        )
