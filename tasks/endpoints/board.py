"""What the gateway knows: the routes that it has loaded, and how many requests are under way on each instance.

Everything runs on one event loop and no await stands between finding a route and counting the request, so a request is
either counted on an instance or will see the next routes. That is what makes draining exact.
"""

import asyncio
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tasks.endpoints.routes import InstanceRoute, Routes, read_routes

POLL_SECONDS = 0.02
"""One stat each time, about 5 us: a switch is seen after 10 ms on average."""

logger = logging.getLogger(__name__)


class Target(NamedTuple):
    """Where a model name leads at this moment."""

    channel: str
    instance: InstanceRoute | None
    generation: int | None
    """None when a pinned artifact is not what its channel routes to."""
    coming: bool


class Board:
    """Loaded routes and in-flight counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.routes = Routes()
        self.in_flight: Counter[str] = Counter()
        self._pinned: dict[str, InstanceRoute] = {}
        self._seen: tuple[int, int, int] | None = None
        self._next_change = asyncio.Event()

    def find(self, model: str) -> Target | None:
        """The target of a model name: a channel, or ``channel@digest12``. None when no such name is served."""
        route = self.routes.channels.get(model)
        if route is not None:
            instance = self.routes.instances.get(route.instance) if route.instance else None
            return Target(model, instance, route.generation, route.coming)
        pinned = self._pinned.get(model)
        if pinned is None:
            return None
        own = self.routes.channels.get(pinned.channel)
        live = own is not None and own.instance == pinned.name
        return Target(pinned.channel, pinned, own.generation if own is not None and live else None, False)

    def names(self) -> list[str]:
        """Every model name that can be asked for: channels first."""
        return [*sorted(self.routes.channels), *sorted(self._pinned)]

    def refresh(self) -> bool:
        """Load the file if it is another one than before. A file that cannot be read changes nothing."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen == self._seen:
            return False
        self._seen = seen
        routes = read_routes(self.path)
        if routes is None:
            logger.error("%s cannot be understood; going on with routes %d", self.path, self.routes.serial)
            return False
        self.routes = routes
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
        """Wait for other routes, at most so long."""
        try:
            await asyncio.wait_for(self._next_change.wait(), seconds)
        except TimeoutError:
            return

    def report(self) -> dict[str, Any]:
        """What ``/empelt/routes`` answers: enough for the agent to acknowledge and to drain."""
        told = json.loads(self.routes.model_dump_json())
        names = {*self.routes.instances, *(name for name, count in self.in_flight.items() if count > 0)}
        return {**told, "in_flight": {name: self.in_flight[name] for name in sorted(names)}}
