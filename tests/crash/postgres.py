"""A PostgreSQL of our own for the matrix: the ledger tests' cluster, outside of pytest."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.store import conftest


@contextmanager
def running_postgres() -> Iterator[str]:
    """The address of an empty ledger; the server ends with the block, or with us."""
    yield from conftest.postgres.__wrapped__()
