"""How the watches go: counted in the ledger, for `/metrics`, and what each asks of its source shown in the UI."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.doors import open_ledger, open_source
from tasks.shown import show_table

SHOWN_EVERY = timedelta(hours=1)


@contextmanager
def counted(family: str) -> Iterator[None]:
    """Record one look at the source of ``family``: its requests, and why it failed if it did."""
    before = _asked()
    try:
        yield
    except Exception as error:
        open_ledger().record_poll(family, datetime.now(UTC), _asked() - before, str(error) or type(error).__name__)
        raise
    open_ledger().record_poll(family, datetime.now(UTC), _asked() - before)


def _asked() -> int:
    return sum(open_source().calls.counts.values())


@task(name="report-calls", cache_policy=NO_CACHE)
def report_calls() -> None:
    """What this poll asked of its source, and what of the source's limits that is, in the log and as a table in the UI.

    Of polls that ask alike the table shows the first, and else one an hour, unless the source refused or the poll took
    more than half of a limit.
    """
    poll = open_source().calls.poll(open_source().endpoint)
    for usage in poll.usage:
        get_run_logger().info("%s: %s", poll.endpoint, usage.sentence)
    told = f'{poll.bytes_read} bytes read, {poll.refused} answers were "not now", {poll.waited_seconds:g} s waited'
    # What is left differs from poll to poll: it stands in the log alone.
    rows = [usage.model_dump(exclude={"left"}) for usage in poll.usage]
    urgent = poll.refused > 0 or any(2 * usage.calls > usage.limit for usage in poll.usage)
    told = f"Calls of one poll of {poll.endpoint}: {told}"
    show_table("watch-calls", rows, told, at_most_every=timedelta(0) if urgent else SHOWN_EVERY)
