"""One run at a time: whose turn it is to watch."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from tasks.doors import open_ledger
from tasks.runs import own_name
from tasks.settings import settings

WATCH = "watch-hub"
"""The turn that keeps two watches apart."""


@contextmanager
def alone(name: str) -> Iterator[bool]:
    """Whether we are the only run of ``name``; until the block ends, or for one lease after a crash.

    Not a deployment limit of Prefect's: one lost lease there crashes a healthy run (PrefectHQ/prefect#21064; seen here
    on a watch of 20 s, prefect 3.9.1, on a busy machine).
    """
    ledger, owner, lease = open_ledger(), own_name(), settings().pending_seconds
    turn = ledger.take_turn(name, owner, lease)
    if turn is None and _end_of_ended(name):  # the run that had it crashed: do not wait for its lease
        turn = ledger.take_turn(name, owner, lease)
    try:
        yield turn is not None
    finally:
        if turn is not None:
            ledger.end_turn(turn)


def _end_of_ended(name: str) -> bool:
    """End the turn of a run that has ended; whether that was so. Of a run by hand, its lease decides."""
    turn = open_ledger().turn_of(name)
    if turn is None:
        return False
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(turn.owner.removeprefix("run:")))
        except (ObjectNotFound, ValueError):
            return False
    return bool(run.state and run.state.is_final()) and open_ledger().end_turn(turn)
