"""Counts how the watches go, in the ledger: what `/metrics` tells of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from tasks.doors import open_ledger, open_source


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
