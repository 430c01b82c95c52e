"""Reads out of a ledger, when its year is over, what the oracle and the table ask for."""

from sqlalchemy import func, select

from tasks import doors
from tasks.store.figures import figures
from tasks.store.ledger import Ledger
from tasks.store.tables import metadata
from tests.year.events import History
from tests.year.hub import SimulatedSource
from tests.year.lived import End, Year
from tests.year.watching import Watcher
from tests.year.workers import Workers


def rows_of_tables(ledger: Ledger) -> dict[str, int]:
    """Rows of each table of the ledger."""
    with ledger._read() as connection:
        return {
            name: connection.scalar(select(func.count()).select_from(table)) or 0
            for name, table in metadata.tables.items()
        }


def remains(
    ledger: Ledger, history: History, source: SimulatedSource, workers: Workers, watcher: Watcher, problems: list[str]
) -> Year:
    """The year as it was lived."""
    families = doors.open_catalog().families.values()
    channels = {target.channel for family in families for target in family.targets.values()}
    ends = metadata.tables["job_ends"].c
    with ledger._read() as connection:
        asked = select(ends.job_key, ends.outcome, ends.flow_run_id, ends.at).order_by(ends.id)
        ended = [End(*row) for row in connection.execute(asked)]
    return Year(
        history=history,
        releases={plan.name: ledger.releases(plan.name) for plan in history.families},
        holds={hold.key: hold.reason for hold in ledger.holds()},
        channels={channel: ledger.promotions(channel) for channel in sorted(channels)},
        ends=ended,
        jobs={f.job_key: (f.job.family, f.job.target, f.job.release.content_digest) for f in ledger.jobs()},
        runs={run.id: run.fate for run in workers.runs.values()},
        working=workers.working(),
        problems=problems,
        looked=dict(watcher.looked),
        figures={
            "counts": watcher.counts,
            "calls": source.asked,
            "windows": source.windows,
            "failures": source.failures,
            "polls": watcher.poll_calls,
            "fates": workers.fates,
            "rows": rows_of_tables(ledger),
            "bytes": figures(ledger).size_bytes,
            "database": ledger.address.partition(":")[0],
            "seconds": watcher.seconds,
        },
    )
