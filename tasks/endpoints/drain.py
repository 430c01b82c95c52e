"""How an instance leaves: out of the routes, counted down to nothing under way, then stopped. In this order only.

A vLLM that was told to stop still takes requests and answers them 200 with ``abort``; only the gateway can keep people
away.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Protocol

from tasks.domain.errors import EndpointUnavailable
from tasks.endpoints.probe import GatewayState
from tasks.endpoints.routes import Routes
from tasks.endpoints.status_file import CUT, EMPTY

logger = logging.getLogger(__name__)


class Stops(Protocol):
    """Who can end an instance: the launcher, or the cluster."""

    def stop(self, name: str) -> object:
        """End it; EndpointUnavailable when that could not be asked for."""


class Drain:
    """The instances on their way out."""

    def __init__(
        self,
        launcher: Stops,
        executor: Executor,
        *,
        drain_seconds: float,
        on_drained: Callable[[str, str, float], None] = lambda *_: None,
    ) -> None:
        """``on_drained`` is told the name of each that was counted down, how that ended, and its seconds."""
        self._launcher = launcher
        self._on_drained = on_drained
        self._executor = executor
        self._drain_seconds = drain_seconds
        self._leaving: dict[str, tuple[int, float]] = {}
        """The serial of the first routes without it, and since when."""
        self._stopping: dict[str, Future[object]] = {}

    def has(self, name: str) -> bool:
        """Whether its process is being stopped at this moment."""
        return name in self._stopping

    def keep(self, name: str) -> None:
        """It is wanted after all."""
        self._leaving.pop(name, None)

    def advance(self, name: str, routes: Routes, gateway: GatewayState | None) -> bool:
        """Move one instance on; True when it is being stopped from now on.

        Args:
            name: of the instance.
            routes: as they are written now. While it is in them, nothing happens.
            gateway: what the gateway says; None when nobody listens there, so nobody sends either.
        """
        if name in self._stopping:
            return True
        if routes.has(name):
            return False
        serial, since = self._leaving.setdefault(name, (routes.serial, time.monotonic()))
        ended = EMPTY
        if gateway is not None:
            under_way = gateway.in_flight.get(name, 0)
            if gateway.serial < serial or under_way > 0:
                if time.monotonic() - since < self._drain_seconds:
                    return False
                logger.error("%s: stopped after %.0f s with %d under way", name, self._drain_seconds, under_way)
                ended = CUT
        self._on_drained(name, ended, time.monotonic() - since)
        self.stop(name)
        return True

    def stop(self, name: str) -> None:
        """Stop its process and everything that it started, in the background."""
        self._leaving.pop(name, None)
        logger.info("%s: stopping", name)
        self._stopping[name] = self._executor.submit(self._launcher.stop, name)

    def ended(self) -> list[str]:
        """Those that are gone since the last call."""
        gone = []
        for name in [name for name, stopping in self._stopping.items() if stopping.done()]:
            try:
                self._stopping.pop(name).result()
            except EndpointUnavailable as error:
                logger.warning("%s", error)  # a launcher that is gone has taken its instances along
            gone.append(name)
        return gone
