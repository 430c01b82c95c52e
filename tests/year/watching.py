"""The watches of a simulated installation, and what befalls them: outages, crashes, another watch that comes between.

What a watch does is the product's own: ``find_releases``, ``plan_due``, ``room``, ``dispatch``.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

from tasks import doors
from tasks.domain.errors import TransientError
from tasks.hub import find_releases
from tasks.plan import dispatch, plan_due, room
from tasks.store.ledger import Ledger
from tasks.turns import WATCH
from tests.year.clock import Clock
from tests.year.hub import SimulatedSource
from tests.year.workers import Workers

TICK = timedelta(minutes=10)
CRASHES, OVERLAPS, DISPATCHES_WATCHED = 0.015, 0.03, 0.15
"""Shares: of watches that crash, and that another one comes into; of runs that begin well and are looked for after it."""


class Crash(BaseException):
    """The watch's process is gone: nothing of it runs any more, not even what gives its turn back."""


class Watcher:
    """Watches some families when it is told to, as ``watch_hub`` does; in the place of Prefect it also starts runs."""

    def __init__(
        self, ledger: Ledger, source: SimulatedSource, workers: Workers, clock: Clock, rng: Random, *, overlaps: float
    ) -> None:
        self._ledger, self._source, self._workers, self._clock, self._rng = ledger, source, workers, clock, rng
        self._overlaps = overlaps
        self._crash_in: int | None = None
        self.faults = True
        self.down: list[tuple[datetime, datetime]] = []
        """When nothing is watched."""
        self.watch_at: Callable[..., None] = lambda *_: None
        """Asked for a watch of some families at the first tick at or after a moment."""
        self.without_room: set[str] = set()
        """Families with jobs that are due and had to wait."""
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.poll_calls: list[tuple[int, int]] = []
        """Families and calls of every watch."""
        self.looked: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)

    def watch(self, families: set[str], *, full_rescan: bool = False, crashing: bool = True) -> bool:
        """What ``watch_hub`` does, for some families; whether it came to its end."""
        if any(begins <= self._clock.at < ends for begins, ends in self.down):
            self.counts["watches skipped"] += 1
            return self._again(families, timedelta(minutes=30))
        self._workers.renew()
        self.counts["watches"] += 1
        started = time.perf_counter()
        owner = f"run:watch-{self.counts['watches']}"
        turn = self._ledger.take_turn(WATCH, owner, doors.settings().pending_seconds)
        if turn is None:
            self.counts["watches beside another"] += 1
            return self._again(families)
        calls = self._source.asked.total()
        try:
            with self._crashes(crashing):
                self._watched(families, full_rescan)
        except Crash:
            self.counts["watches crashed"] += 1
            return self._again(families)
        except TransientError:
            self.counts["watches failed"] += 1
            self._ledger.end_turn(turn)
            return self._again(families)
        finally:
            self.poll_calls.append((len(families), self._source.asked.total() - calls))
            self.seconds["watching"] += time.perf_counter() - started
        self._ledger.end_turn(turn)
        return True

    def _watched(self, families: set[str], full_rescan: bool) -> None:
        rows = []
        for family in sorted(families):
            began, begun_at = time.perf_counter(), self._clock.at
            releases = find_releases.fn(family, full_rescan)
            found = time.perf_counter()
            self.looked[family].append((begun_at, self._clock.at))
            rows += plan_due.fn(family, releases)
            self.seconds["detection"] += found - began
            self.seconds["planning"] += time.perf_counter() - found
            self.counts["family watches"] += 1
        if self.faults and self._rng.random() < self._overlaps:
            self.watch(families, crashing=False)  # another one, after we have planned and before we dispatch
        due = [row for row in rows if row.standing == "due"]
        free = room()
        dispatched = [name for row in due[:free] if (name := dispatch.fn(row))]
        self.counts["dispatched"] += len(dispatched)
        self.without_room -= families
        self.without_room |= {row.family for row in due[free:]}

    def _again(self, families: set[str], wait: timedelta = TICK) -> bool:
        self.watch_at(self._clock.at + wait, *families)
        return False

    @contextmanager
    def _crashes(self, may: bool) -> Iterator[None]:
        """Let the watch crash before one of its calls or around one of its dispatches, now and then."""
        if not (may and self.faults and self._rng.random() < CRASHES):
            yield
            return
        self._crash_in = self._rng.choice((self._rng.randint(1, 8), self._rng.randint(1, 60)))
        self._source.before_call = self._count_down
        try:
            yield
        finally:
            self._crash_in = self._source.before_call = None

    def _count_down(self) -> None:
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in <= 0:
                raise Crash

    def start_run(self, name: str, **options: Any) -> SimpleNamespace:
        """Prefect's part, between two moments at which a watch may crash: before the run is there, and after."""
        self._count_down()
        run = self._workers.start_run(name, **options)
        if self._workers.runs[run.id].fate != "works" or self._rng.random() < DISPATCHES_WATCHED:
            self.watch_at(self._clock.at + timedelta(minutes=6), options["parameters"]["family"])
        self._count_down()
        return run
