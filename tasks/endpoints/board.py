"""What the gateway knows: the routes that it has loaded, and how many requests are under way on each instance.

Everything runs on one event loop and no await stands between finding a route and counting the request, so a request is
either counted on an instance or will see the next routes. That is what makes draining exact.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tasks.endpoints import figures
from tasks.endpoints.routes import Canary, ChannelRoute, InstanceRoute, Routes, read_routes
from tasks.endpoints.split import share_of
from tasks.endpoints.tally import Count, Tally

POLL_SECONDS = 0.02
"""One stat each time, about 5 us: a switch is seen after 10 ms on average."""

logger = logging.getLogger(__name__)


Version = Literal["live", "canary", "pinned"]


class Target(NamedTuple):
    """Where a model name leads at this moment."""

    channel: str
    instance: InstanceRoute | None
    generation: int | None
    """None for a canary, and when a pinned artifact is not what its channel routes to."""
    coming: bool
    version: Version
    """As which of a channel's versions it answers."""


class Board:
    """Loaded routes and in-flight counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.routes = Routes()
        self.in_flight: Counter[str] = Counter()
        self.tally = Tally()
        self.switches: dict[str, tuple[int, float]] = {}
        """By channel: its last switch, and the seconds from the routes' writing to their first use."""
        self._pinned: dict[str, InstanceRoute] = {}
        self._seen: tuple[int, int, int] | None = None
        self._next_change = asyncio.Event()

    def find(self, model: str, request: bytes = b"", failed: Collection[str] = ()) -> Target | None:
        """The target of a model name: a channel, or ``channel@digest12``. None when no such name is served.

        Args:
            model: what the body says.
            request: by which a canary is chosen or not; see ``split.share_of``.
            failed: sockets that have not answered this request: with two versions, the other one is asked.
        """
        route = self.routes.channels.get(model)
        if route is not None:
            live = self.routes.instances.get(route.instance) if route.instance else None
            tried = self._canary(route, live, request, failed)
            if tried is not None:
                return Target(model, tried, None, False, "canary")
            return Target(model, live, route.generation, route.coming, "live")
        pinned = self._pinned.get(model)
        if pinned is None:
            return None
        own = self.routes.channels.get(pinned.channel)
        is_live = own is not None and own.instance == pinned.name
        return Target(pinned.channel, pinned, own.generation if own and is_live else None, False, "pinned")

    def _canary(
        self, route: ChannelRoute, live: InstanceRoute | None, request: bytes, failed: Collection[str]
    ) -> InstanceRoute | None:
        """The canary, when this request is its own, or when only it is left."""
        canary = route.tried
        tried = self.routes.instances.get(canary.instance) if canary else None
        if tried is None or canary is None or canary.weight <= 0:
            return None
        mine = share_of(tried.channel, tried.digest, request) < canary.weight
        if live is None or live.uds in failed:
            return tried if mine or tried.uds not in failed else None
        return tried if mine and tried.uds not in failed else None

    def count(self, target: Target) -> Count | None:
        """Where its answer is counted; None for a pinned artifact, to which nobody is sent."""
        if target.instance is None or target.version == "pinned":
            return None
        return self.tally.of(target.channel, target.instance.digest)

    def canary(self, target: Target) -> Canary | None:
        """What is tried on a target's channel now."""
        route = self.routes.channels.get(target.channel)
        return route.tried if route is not None else None

    def names(self) -> list[str]:
        """Every model name that can be asked for: channels first."""
        return [*sorted(self.routes.channels), *sorted(self._pinned)]

    def refresh(self) -> bool:
        """Load the file if it is another one than before. A file that cannot be read changes nothing."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen == self._seen:
            return False
        try:
            routes = read_routes(self.path)
        except OSError as error:  # no descriptor left, say: the next look reads it, and the watch must go on
            logger.error("%s cannot be read (%s); going on with routes %d", self.path, error, self.routes.serial)
            return False
        is_first, self._seen = self._seen is None, seen
        if routes is None:
            logger.error("%s cannot be understood; going on with routes %d", self.path, self.routes.serial)
            return False
        for name, route in routes.channels.items():
            before = self.routes.channels.get(name)
            if before is not None and before.generation != route.generation and route.instance:
                self.switches[name] = route.generation, max(0.0, time.time() - found.st_mtime)
        self.routes = routes
        if not is_first:
            figures.switch_seconds.observe(max(0.0, time.time() - found.st_mtime))
        self._pinned = {instance.pinned: instance for instance in routes.instances.values()}
        waiters, self._next_change = self._next_change, asyncio.Event()
        waiters.set()
        return True

    async def watch(self) -> None:
        """Follow the file until cancelled."""
        while True:
            self.refresh()
            await asyncio.sleep(POLL_SECONDS)

    async def changed(self, seconds: float) -> None:
        """Wait for other routes, at most so long. Each waiter sees every change that comes after its call."""
        try:
            await asyncio.wait_for(self._next_change.wait(), seconds)
        except TimeoutError:
            return

    def report(self) -> dict[str, Any]:
        """What ``/empelt/routes`` answers: enough to acknowledge, to drain, and to judge a canary."""
        told = json.loads(self.routes.model_dump_json())
        for name, route in self.routes.channels.items():
            if route.tried is None:
                told["channels"][name]["canary"] = None
        names = {*self.routes.instances, *(name for name, count in self.in_flight.items() if count > 0)}
        in_flight = {name: self.in_flight[name] for name in sorted(names)}
        return {
            **told,
            "in_flight": in_flight,
            "tallies": {self.tally.name: self.tally.report()},
            "switches": self.switches,
        }
