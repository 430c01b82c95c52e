"""An answer that did not come, while the client has had no byte: whether and when the request may be asked again."""

import time
from collections import Counter
from collections.abc import Collection
from typing import Literal, NamedTuple

Kind = Literal["connect", "reset", "abort", "status", "busy", "silent", "other"]
"""connect: nobody listens · reset: the connection broke · abort: it drains · status: 500, 502, 504, or an error event
before the first word · busy: 503 · silent: no byte in time · other: another model answers."""
PAUSES = (0.0, 0.1, 0.2, 0.5)
"""Again at once (a kept-alive connection that was just closed), then slower. The agent sees a dead instance within
0.3 s and moves the channel to the previous one; other routes end a pause at once."""
MOST = {"reset": 3, "status": 3}
"""A request that ends three processes, or fails three times, would end the fourth as well."""


class Answer(NamedTuple):
    """An answer of an instance, read whole."""

    status: int
    kind: str
    body: bytes


class Lost(Exception):
    """An instance did not answer, and the client has had no byte."""

    def __init__(self, kind: Kind, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.answer = answer
        """What is passed on when nobody answers better."""


class Tries:
    """What has been tried for one request."""

    def __init__(self, hold_seconds: float, *, retry: bool) -> None:
        self._hold_seconds = hold_seconds if retry else 0.0
        self._give_up = time.monotonic() + self._hold_seconds
        self._retry = retry
        self._failed: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self.last: Lost | None = None
        self.has_waited = False

    @property
    def failed(self) -> Collection[str]:
        """Sockets of the instances that did not answer."""
        return self._failed.keys()

    @property
    def count(self) -> int:
        """How many tries have failed."""
        return self._failed.total()

    @property
    def seconds_left(self) -> float:
        """Until it is given up."""
        return self._give_up - time.monotonic()

    def note(self, uds: str, lost: Lost) -> None:
        """One more did not answer."""
        if self.last is None:  # what was worked on for minutes is tried again as well: from its first loss on
            self._give_up = time.monotonic() + self._hold_seconds
        self._failed[uds] += 1
        self._kinds[lost.kind] += 1
        self.last = lost

    @property
    def is_over(self) -> bool:
        """No further try, of whomever: there were enough, or retries are switched off."""
        return self.last is not None and (
            not self._retry or self._kinds[self.last.kind] >= MOST.get(self.last.kind, 10**9)
        )

    def pause(self, uds: str) -> float | None:
        """Before this instance is asked: 0 for a new one; None when it shall not be asked again."""
        if uds not in self._failed:
            return 0.0
        if self.last is not None and self.last.kind == "silent":
            return None
        return PAUSES[min(self._failed[uds], len(PAUSES)) - 1]
