"""What every round begins and ends with, whoever carries it out: what is desired is read, routes are written.

The agent of a host and the reconciler of a cluster differ in how instances come up and go, not in this.
"""

import logging
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.domain.errors import InputError, TransientError
from tasks.domain.records import Desired
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.protocol import DesiredState
from tasks.endpoints.report import Report
from tasks.endpoints.routes import InstanceRoute, Routes, read_routes, write_routes
from tasks.endpoints.visibility import Visibility
from tasks.endpoints.wishes import Wish, choose_routes

ROUND_SECONDS = 0.3

logger = logging.getLogger(__name__)


class Rounds:
    """Desired state, routes and trouble, from one round to the next."""

    def __init__(
        self,
        *,
        name: str,
        state: DesiredState,
        routes: Path,
        gateway: str,
        profile: ServingProfile,
        gateway_key: str,
    ) -> None:
        """Ask nothing yet.

        Args:
            name: of this agent, in the ledger.
            state: the ledger.
            routes: the file that the gateway reads.
            gateway: its address.
            profile: how to serve what brings no profile of its own.
            gateway_key: with which it asks the gateway; "" where no keys are asked for.
        """
        self.name = name
        self.state = state
        self.routes_path = routes
        self.gateway = gateway
        self.profile = profile
        self._gateway_key = gateway_key
        self._executor = ThreadPoolExecutor(max_workers=4)
        self._visibility = Visibility(state, gateway, self._executor, key=gateway_key)
        self._report = Report(state, name)
        self._routes = read_routes(routes) or Routes()
        self._desired: Desired | None = None
        self._ahead_seconds = 0.0
        """Of this host's clock, to the ledger's."""
        self._last_trouble = ""

    def _read_desired(self) -> Desired | None:
        """Say that this agent is alive, and read what should be so. What was read last, where the ledger is away."""
        try:
            self._report.beat()
            self._desired = self.state.desired()
            self._ahead_seconds = time.time() - self._desired.at.timestamp()
        except TransientError as error:
            self._trouble(str(error))
        return self._desired

    def _route(self, desired: Desired, ready: Mapping[str, InstanceRoute], coming: Collection[str]) -> None:
        """Write the routes, if they are others than before."""
        chosen = choose_routes(desired, ready, coming, self._routes, ahead_seconds=self._ahead_seconds)
        if not chosen.same_as(self._routes) or not self.routes_path.exists():
            self._routes = chosen.model_copy(update={"serial": self._routes.serial + 1})
            write_routes(self.routes_path, self._routes)
            told = ", ".join(f"{c} -> {r.instance} g{r.generation}" for c, r in self._routes.channels.items())
            logger.info("routes %d: %s", self._routes.serial, told or "none")

    def _profile_of(self, wish: Wish) -> ServingProfile:
        try:
            return ServingProfile.read(wish.extra, default=self.profile)
        except InputError as error:
            self._trouble(f"{wish.name} is served with this installation's own profile: {error}")
            return self.profile

    def _trouble(self, message: str) -> None:
        """Say it once, not in every round."""
        if message != self._last_trouble:
            logger.warning("%s", message)
            self._last_trouble = message
