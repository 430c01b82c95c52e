"""Moments, durations, sizes and rates as people read them, the same on every page and in every command."""

from datetime import datetime
from typing import NamedTuple


def moment(at: datetime) -> str:
    """``2026-11-23 05:12:07 UTC``."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float | None, *, none: str = "unknown") -> str:
    """``4.2 s``, ``42 s``, ``12 min``, ``2.5 h``; ``none`` where there is nothing to tell."""
    if seconds is None:
        return none
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float | None, *, none: str = "unknown") -> str:
    """``17 B``, ``42 kB``, ``310 MB``, ``4.9 GB``, in powers of 1000; ``none`` where there is nothing to tell."""
    if count is None:
        return none
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"
    return f"{count / 1000:.1f} GB"


class Pace(NamedTuple):
    """How far work is that is counted in bytes, and how fast."""

    done: int
    """Bytes that are done, those that were done before the clock was started included."""
    total: int
    """Bytes."""
    bytes_per_second: float | None
    """Since the work began; None while nothing can be said."""

    @property
    def seconds_left(self) -> float | None:
        """At the same rate; None while that is not known."""
        return (self.total - self.done) / self.bytes_per_second if self.bytes_per_second else None

    def __str__(self) -> str:
        """``1.2 of 4.9 GB, 0.61 GB/s, 6.1 s left``."""
        done, total = size(self.done), size(self.total)
        told = f"{done.rpartition(' ')[0] if done.split()[1] == total.split()[1] else done} of {total}"
        if self.bytes_per_second is None:
            return told
        rate = f"{told}, {self.bytes_per_second / 1e9:.2f} GB/s"
        return rate if self.done >= self.total else f"{rate}, {duration(self.seconds_left)} left"


def pace(done: int, total: int, *, began: int, seconds: float) -> Pace:
    """The pace of work of which ``done`` of ``total`` bytes are done.

    Args:
        done: bytes, now.
        total: bytes, in the end.
        began: bytes that were done when the clock was started: work that is taken up again does not begin at 0.
        seconds: since then.
    """
    known = seconds > 0 and done > began
    return Pace(done, total, (done - began) / seconds if known else None)
