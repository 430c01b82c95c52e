"""When the simulated Hub fails, and when the installation itself is down."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from tests.year.clock import START


@dataclass
class Outage:
    """A time in which the Hub fails."""

    begins: datetime
    ends: datetime
    kind: str
    """``5xx``, ``429`` or ``time-out``."""


def make_outages(rng: Random, days: int) -> list[Outage]:
    """Realistic ones of a year: 30 bursts of 5xx, 15 spells of 429, 80 of time-outs, most of some minutes."""
    found = []
    for kind, times, longest in (("5xx", 30, 90), ("429", 15, 30), ("time-out", 80, 6)):
        for _ in range(max(1, times * days // 365)):
            begins = START + timedelta(days=rng.uniform(1, days))
            found.append(Outage(begins, begins + timedelta(minutes=rng.uniform(2, longest)), kind))
    return sorted(found, key=lambda outage: outage.begins)


def downtimes(rng: Random, days: int) -> list[tuple[datetime, datetime]]:
    """Ten times a year nothing is watched for one to seven hours."""
    begins = [START + timedelta(days=rng.uniform(2, days)) for _ in range(max(1, 10 * days // 365))]
    return [(at, at + timedelta(hours=rng.uniform(1, 7))) for at in begins]
