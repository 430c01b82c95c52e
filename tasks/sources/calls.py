"""How often a source was asked, and what of the Hub's limits that is.

The Hub counts per five minutes and caller, API and files ("resolvers") apart, and tells both the limit and what is left
in its RateLimit headers. Where an endpoint tells nothing, the Hub's published table of September 2025 is shown.
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tasks.domain.models import Noun

Bucket = Literal["api", "resolvers"]
WINDOW_SECONDS = 300
PUBLISHED: Mapping[bool, Mapping[Bucket, int]] = {
    False: {"api": 500, "resolvers": 3_000},
    True: {"api": 1_000, "resolvers": 5_000},
}
"""Whether a token is sent -> requests per window: of an address without an account, and of a free account."""
_POLICY = re.compile(r'"(api|resolvers)"\s*;\s*q=(\d+)\s*;\s*w=(\d+)')
_LEFT = re.compile(r'"(api|resolvers)"\s*;\s*r=(\d+)')


class Usage(Noun):
    """Requests of one kind, beside what the source allows."""

    bucket: Bucket
    calls: int
    limit: int
    """Per ``window_seconds``."""
    window_seconds: int
    left: int | None
    """As the source told last; None if it tells nothing."""
    stated_by: str
    """Where the limit is from."""

    @property
    def sentence(self) -> str:
        """``3 api calls, 0.6 % of 500 per 300 s (...)``."""
        share = 100 * self.calls / self.limit
        left = "" if self.left is None else f", {self.left} left"
        each = f"{self.limit:,} per {self.window_seconds} s{left} ({self.stated_by})"
        return f"{self.calls} {self.bucket} calls, {share:.1f} % of {each}"


class Poll(Noun):
    """What one poll of a source cost."""

    endpoint: str
    signed: bool
    """Whether a token was sent."""
    usage: tuple[Usage, ...]
    bytes_read: int
    refused: int
    """Answers of the kind "not now" (408, 429, 5xx), and requests without any answer."""
    waited_seconds: float
    """As long as the source asked for, before asking again."""


@dataclass
class Calls:
    """Counts the requests of one source; threads may share it."""

    signed: bool
    counts: dict[Bucket, int] = field(default_factory=lambda: {"api": 0, "resolvers": 0})
    bytes_read: int = 0
    refused: int = 0
    waited_seconds: float = 0.0
    _limits: dict[str, tuple[int, int]] = field(default_factory=dict)
    _left: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, bucket: Bucket, times: int = 1) -> None:
        """Requests go out."""
        with self._lock:
            self.counts[bucket] += times

    def answered(self, headers: Mapping[str, str]) -> None:
        """Take the limit and what is left of it from an answer, if it tells them."""
        with self._lock:
            for bucket, limit, window in _POLICY.findall(headers.get("RateLimit-Policy", "")):
                if int(limit) and int(window):
                    self._limits[bucket] = int(limit), int(window)
            self._left |= {bucket: int(left) for bucket, left in _LEFT.findall(headers.get("RateLimit", ""))}

    def read(self, count: int) -> None:
        """Bytes of a body arrived."""
        with self._lock:
            self.bytes_read += count

    def not_now(self) -> None:
        """The source was busy, failed, or did not answer."""
        with self._lock:
            self.refused += 1

    def waited(self, seconds: float) -> None:
        """A pause before the next try."""
        with self._lock:
            self.waited_seconds += seconds

    def poll(self, endpoint: str) -> Poll:
        """All that was counted so far."""
        with self._lock:
            usage = tuple(self._usage(bucket) for bucket in self.counts)
            totals = {"bytes_read": self.bytes_read, "refused": self.refused, "waited_seconds": self.waited_seconds}
            return Poll(endpoint=endpoint, signed=self.signed, usage=usage, **totals)

    def _usage(self, bucket: Bucket) -> Usage:
        told = self._limits.get(bucket)
        limit, window = told or (PUBLISHED[self.signed][bucket], WINDOW_SECONDS)
        account = "a free account" if self.signed else "an address without an account"
        return Usage(
            bucket=bucket,
            calls=self.counts[bucket],
            limit=limit,
            window_seconds=window,
            left=self._left.get(bucket),
            stated_by="told by the source" if told else f"published for {account}",
        )
