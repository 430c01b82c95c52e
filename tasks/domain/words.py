"""Moments and durations as people read them, the same on every page and in every command."""

from datetime import datetime


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
