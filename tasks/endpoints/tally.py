"""What each version of a channel has answered, counted by the gateway for whoever tries a new one on it.

Counts are of one worker since it began and never go back, so two readings give what came between them; a worker that
goes takes its counts along, and another one begins at nothing: they are told apart by a name. Requests for a pinned
artifact are not counted: nobody was sent there.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

from tasks.domain.promotion import Counted, bucket_of

COUNTS = tuple(name for name in Counted._fields if name not in ("seconds", "waiting"))
MOST = 64
"""Artifacts that are counted; of more, the oldest are forgotten."""


class Count:
    """One version of one channel."""

    def __init__(self) -> None:
        self.requests = self.errors = self.refused = self.empty = self.sampled = self.foreign = 0
        self.seconds: defaultdict[int, int] = defaultdict(int)
        self._waiting: dict[object, float] = {}

    @contextmanager
    def asked(self) -> Iterator[Callable[[], None]]:
        """A request waits for its first byte until what this gives is called, or the block ends."""
        mine = object()
        self._waiting[mine] = time.monotonic()
        try:
            yield partial(self._answered, mine)
        finally:
            self._answered(mine)

    def _answered(self, request: object) -> None:
        self._waiting.pop(request, None)

    def answered(self, seconds: float, *, is_empty: bool) -> None:
        """A whole answer, whose first byte came after so long."""
        self.requests += 1
        self.empty += is_empty
        self.seconds[bucket_of(seconds)] += 1

    def turned_down(self) -> None:
        """It answered 4xx."""
        self.requests += 1
        self.refused += 1

    def heard(self, *, is_foreign: bool) -> None:
        """An answer's language was told."""
        self.sampled += 1
        self.foreign += is_foreign

    def failed(self) -> None:
        """It lost the request or failed at it; whether another instance answered makes no difference."""
        self.requests += 1
        self.errors += 1

    def told(self) -> dict[str, Any]:
        """As JSON."""
        seconds = {str(at): count for at, count in self.seconds.items()}
        now = time.monotonic()
        waiting = Counter(str(bucket_of(now - since)) for since in self._waiting.values())
        return {**{name: getattr(self, name) for name in COUNTS}, "seconds": seconds, "waiting": waiting}


class Tally:
    """Every channel's versions, in one worker."""

    def __init__(self) -> None:
        self.name = uuid4().hex[:12]
        self._counts: dict[tuple[str, str], Count] = {}

    def of(self, channel: str, digest: str) -> Count:
        """The count of an artifact on a channel."""
        key = channel, digest[:12]
        if key not in self._counts:
            if len(self._counts) >= MOST:
                del self._counts[next(iter(self._counts))]
            self._counts[key] = Count()
        return self._counts[key]

    def report(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Channel -> first 12 digits of the artifact -> counts."""
        told: dict[str, dict[str, dict[str, Any]]] = {}
        for (channel, short), count in self._counts.items():
            told.setdefault(channel, {})[short] = count.told()
        return told


class Reading:
    """Adds up what several workers say, one reading after the other; one that has gone keeps what it said last."""

    def __init__(self, channel: str, digest: str) -> None:
        self._where = channel, digest[:12]
        self._last: dict[str, Counted] = {}

    def read(self, tallies: Mapping[str, Mapping[str, Any]]) -> Counted:
        """All that was counted so far, with this reading: ``tallies`` of ``/empelt/routes``."""
        channel, short = self._where
        gone = {worker: last._replace(waiting={}) for worker, last in self._last.items() if worker not in tallies}
        self._last |= gone
        for worker, told in tallies.items():
            found = told.get(channel, {}).get(short)
            if found is not None:
                self._last[worker] = counted(found)
        return total(self._last.values())


def counted(told: Mapping[str, Any]) -> Counted:
    """What ``Count.told`` says."""
    seconds, waiting = ({int(at): int(n) for at, n in told[name].items()} for name in ("seconds", "waiting"))
    return Counted(**{name: int(told[name]) for name in COUNTS}, seconds=seconds, waiting=waiting)


def total(counts: Iterable[Counted]) -> Counted:
    """All of them together."""
    result = Counted()
    for one in counts:
        result = result.plus(one)
    return result
