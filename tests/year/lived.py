"""What is left of a simulated year, for the oracle and the table."""

from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tasks.domain.models import Release
from tests.year.events import History


class End(NamedTuple):
    """One end of a job on record."""

    job_key: str
    outcome: str
    run: str
    at: datetime


@dataclass
class Year:
    """What is left of a simulated year."""

    history: History
    releases: dict[str, list[Release]]
    holds: dict[str, str]
    channels: dict[str, list[Any]]
    """Channel -> its promotions, newest first."""
    ends: list[End]
    jobs: dict[str, tuple[str, str, str]]
    """Job key -> family, target, content digest of the release."""
    runs: dict[str, str]
    """Run -> fate of its worker."""
    working: int
    problems: list[str]
    """What the simulation itself saw go wrong."""
    looked: dict[str, list[tuple[datetime, datetime]]]
    """Family -> begin and end of each watch of it that came to its end, in their order."""
    figures: dict[str, Any] = field(default_factory=dict)

    def looked_between(self, family: str, after: datetime, before: datetime) -> bool:
        """Whether a whole watch of ``family`` fell into this time: it saw what was there before, and nothing later."""
        watches = self.looked.get(family, [])
        place = bisect_left(watches, (after, after))
        return place < len(watches) and watches[place][1] <= before

    def served_at(self, channel: str, at: datetime) -> Any | None:
        """The promotion that the channel stood at, or None if it served nothing yet."""
        return next((made for made in self.channels.get(channel, ()) if made.at <= at), None)
