"""What the agent tells people about serving: one JSON file beside the routes, read by the gateway's page and figures.

Nothing is routed by it. The gateway has no way to the ledger, so that it outlives everything else; whatever of the
ledger a person should see there is in this file, and is as old as its ``at`` says.
"""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.domain.models import Digest, Noun
from tasks.domain.records import InstanceState

NAME = "status.json"
EMPTY, CUT = "empty", "cut"
"""How a drain ended: with nothing under way, or after its time, with requests that were cut off."""


class ScoreLine(Noun):
    """One score of one version, without its items."""

    benchmark: str
    metric: str
    value: float | None
    """None, here and below: not a number."""
    stderr: float | None
    n: int
    higher_is_better: bool


class SwitchLine(Noun):
    """One switch of a channel."""

    generation: int
    digest: Digest
    release: str
    at: datetime
    visible_at: datetime | None
    """When the gateway first routed by it; None when it never said so."""
    reason: str


class StepLine(Noun):
    """One step of a promotion, as it ended."""

    digest: Digest
    step: str
    ended: str
    seconds: float
    said: str
    """May hold paths of this host: not for everybody."""
    at: datetime


class ChannelLine(Noun):
    """What a channel should answer with, by the ledger."""

    channel: str
    family: str
    target: str
    generation: int
    visible_generation: int
    """The newest that the gateway has acknowledged."""
    digest: Digest
    release: str
    since: datetime
    previous: Digest | None
    """What it would be rolled back to."""
    switches: tuple[SwitchLine, ...] = ()
    """Newest first; the last few."""
    steps: tuple[StepLine, ...] = ()
    """Of promotions, newest first; the last few. Those that were refused are only here."""


class InstanceLine(Noun):
    """One instance, as the agent knows it."""

    name: str
    channel: str
    digest: Digest
    release: str
    state: InstanceState
    reason: str
    """May hold paths of this host and the end of a log: not for everybody."""
    since: datetime
    keep: str
    """Why it runs: ``live``, ``routed``, ``staged`` or ``previous``."""


class Drained(Noun):
    """Drains of one channel that ended one way."""

    count: int = 0
    seconds: float = 0.0
    """All together: from out of the routes to being stopped."""


class Counts(Noun):
    """What the agent has counted since the file was first written; an agent's end takes nothing of it back."""

    restarts: Mapping[str, int] = {}
    """Channel -> starts of an instance after it had failed."""
    drains: Mapping[str, Mapping[str, Drained]] = {}
    """Channel -> how they ended -> how many."""


class ServingStatus(Noun):
    """All of it."""

    agent: str
    at: datetime
    channels: tuple[ChannelLine, ...] = ()
    scores: Mapping[Digest, tuple[ScoreLine, ...]] = {}
    """Of every artifact that is named above or runs, where there are any."""
    instances: tuple[InstanceLine, ...] = ()
    counts: Counts = Counts()


def status_beside(routes: Path) -> Path:
    """Where it lies."""
    return routes.with_name(NAME)


def read_status(path: Path) -> ServingStatus | None:
    """What is in the file; None when there is none, or when it cannot be read or understood."""
    try:
        return ServingStatus.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValidationError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def write_status(path: Path, status: ServingStatus) -> None:
    """Replace the file in one step, without waiting for the disk: after a power cut it is told anew anyway.

    Raises:
        OSError: no room, say. The file stays as it was.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(status.model_dump_json(), encoding="utf-8")
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
