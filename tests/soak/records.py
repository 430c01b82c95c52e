"""What a soak writes down: each request, each event, each file of routes, each look at what the gateway has loaded.

All times are seconds of the machine's monotonic clock, which every process of one machine reads alike.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

End = Literal["whole", "error event", "clean end", "cut", "refused", "silent"]
"""whole: all that was asked for, and its end mark · error event: a stream that says that it broke, and no end mark ·
clean end: an end mark after less than was asked for · cut: neither · refused: not 200 · silent: no end in time."""


@dataclass(frozen=True)
class Record:
    """One request, as its client saw it."""

    number: int
    model: str
    """What was asked for: a channel."""
    is_stream: bool
    sent: float
    ended: float
    end: End
    first: float | None = None
    """The first byte of the answer's body."""
    status: int = 0
    """0: no answer came."""
    finish: str = ""
    """The last finish_reason."""
    artifact: str = ""
    release: str = ""
    generation: int | None = None
    version: str = ""
    """live, canary or pinned, as the header says."""
    retries: int = 0
    said: str = ""
    """The answer's own ``model``."""
    mark: str = ""
    """The artifact that the text itself shows."""
    error: str = ""


@dataclass(frozen=True)
class Event:
    """Something that was done to the installation while it was asked."""

    name: str
    began: float
    at: float
    """The moment of it: the kill, the switch, the refusal."""
    ended: float
    switches: int | None = 0
    """How many times the channel's answering instance was to change between began and ended; None: not said."""
    killed: str = ""
    """Digest of the artifact whose instance was killed."""
    refused: str = ""
    """Digest of an artifact that must not answer for the channel ..."""
    may_answer: bool = False
    """... before this event has ended: a canary may."""
    acknowledged_seconds: float | None = None
    """Of a switch to what was up: from the last check's end until the ledger showed the gateway's acknowledgement."""
    switch_seconds: float | None = None
    """Of a switch: from the writing of the routes until the gateway sent by them, as the gateway says."""
    said: str = ""
    problems: tuple[str, ...] = ()
    """What did not come as it should have."""


@dataclass(frozen=True)
class Written:
    """One file of routes, for one channel."""

    at: float
    """When it was written: before anybody could load it."""
    serial: int
    instance: str | None
    """Digest of what answers; None: nothing can."""
    generation: int
    canary: str = ""
    """Digest of what answers a part; "" if nothing is tried."""


@dataclass(frozen=True)
class Loaded:
    """The gateway has said that all of its workers route by this serial or a later one."""

    at: float
    """When its answer had come."""
    serial: int


@dataclass(frozen=True)
class Soak:
    """All of it."""

    channel: str
    records: tuple[Record, ...]
    events: tuple[Event, ...]
    written: tuple[Written, ...]
    loaded: tuple[Loaded, ...] = ()
    releases: Mapping[str, str] = field(default_factory=dict)
    """Release of each artifact, by digest."""
    left: tuple[str, ...] = ()
    """Processes that were alive when all had been ended."""


def write_lines(path: Path, items: Iterable[Record]) -> None:
    """One JSON object a line."""
    with path.open("a", encoding="utf-8") as out:
        out.writelines(f"{json.dumps(asdict(item))}\n" for item in items)


def read_records(path: Path) -> tuple[Record, ...]:
    """What ``write_lines`` wrote."""
    lines = path.read_text(encoding="utf-8").splitlines()
    told: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return tuple(Record(**one) for one in told)
