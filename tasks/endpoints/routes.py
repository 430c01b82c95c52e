"""The routes: one JSON file that the agent writes and the gateway reads. The only thing that the two share.

It is replaced by a rename, so a reader sees the old or the new and never half of one; the gateway goes on with the
last one it could read for as long as the agent is away.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from tasks.domain.models import Digest, Noun


class InstanceRoute(Noun):
    """One ready instance."""

    name: str
    channel: str
    digest: Digest
    uds: str
    """Where it listens: the path of its Unix socket; on a cluster ``http://address:port``."""
    release: str = ""
    process: str = ""
    """The instance that answers for it, where one holds adapters for several channels; else it is one of its own."""

    @property
    def pinned(self) -> str:
        """The model name that asks for exactly this artifact: ``eu@3f2a00112233``."""
        return f"{self.channel}@{self.digest[:12]}"


class Canary(Noun):
    """A version that is tried on a part of a channel's requests, before any switch."""

    instance: str
    weight: float = Field(ge=0, le=100)
    """Per cent of the requests; which ones, ``split.share_of`` says. Not in the instances: nobody is sent there."""
    languages: tuple[str, ...] = ()
    """In which answers of both versions are expected; the gateway counts the others. None: it does not look."""
    until: float | None = None
    """When its lease ends, in seconds since the epoch by this host's clock: nobody is sent there any more then, also
    where whoever tries it and whoever writes these routes are both gone. None: for as long as it stands here."""


class ChannelRoute(Noun):
    """Where a served name goes now."""

    generation: int
    """Of the artifact that answers: after a fall-back this is the previous one, never a mixture."""
    instance: str | None = None
    """None: the channel is known and nothing can answer for it at this moment."""
    coming: bool = False
    """An instance is being started: the gateway holds requests for a while instead of refusing them."""
    canary: Canary | None = None
    """Its answers carry no generation: it has none before the switch."""

    @property
    def tried(self) -> Canary | None:
        """The canary, as long as its lease has not ended."""
        over = self.canary is None or (self.canary.until is not None and time.time() >= self.canary.until)
        return None if over else self.canary


class Routes(Noun):
    """All of them."""

    serial: int = 0
    """+1 for each file written; the gateway says which one it has loaded."""
    channels: Mapping[str, ChannelRoute] = {}
    instances: Mapping[str, InstanceRoute] = {}

    def has(self, name: str) -> bool:
        """Whether requests go to the instance of this name, as its own or as one that it answers for."""
        return name in self.instances or any(one.process == name for one in self.instances.values())

    def same_as(self, other: "Routes") -> bool:
        """Equal but for the serial."""
        return self.channels == other.channels and self.instances == other.instances


def read_routes(path: Path) -> Routes | None:
    """What is in the file; None when there is none yet, or when it cannot be understood (a newer version's file)."""
    try:
        return Routes.model_validate(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValidationError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def write_routes(path: Path, routes: Routes) -> None:
    """Replace the file in one step. The folder is made when it is missing.

    Not forced to the disk: routes say which processes run, after a power cut none does, and the agent writes them anew.
    Under load an fsync took 72 ms one time in ten, 1.3 s at worst, all of it before the switch could be seen.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(routes.model_dump_json(indent=1), encoding="utf-8")
    os.replace(fresh, path)
