"""When is a switch visible? When the gateway says so, and the new artifact has answered a request through it."""

import logging
from concurrent.futures import Executor, Future

from tasks.domain.records import Desired
from tasks.endpoints.probe import GatewayState, confirm_channel
from tasks.endpoints.protocol import DesiredState
from tasks.endpoints.routes import Routes

logger = logging.getLogger(__name__)


class Visibility:
    """Confirms generations and acknowledges them in the ledger."""

    def __init__(self, state: DesiredState, gateway: str, executor: Executor, *, key: str = "") -> None:
        self._state = state
        self._gateway = gateway
        self._key = key
        self._executor = executor
        self._asked: dict[tuple[str, int], Future[str]] = {}
        self._told = ""

    def advance(self, desired: Desired, routes: Routes, gateway: GatewayState | None) -> None:
        """Acknowledge what is visible now; ask about what the gateway has just loaded."""
        for live in desired.live:
            key = (live.channel, live.generation)
            route = routes.channels.get(live.channel)
            if live.acknowledged_generation >= live.generation or gateway is None or route is None:
                continue
            asked = self._asked.get(key)
            if asked is None:
                routed = (route.generation, route.instance)
                if route.instance and route.generation == live.generation and gateway.channels.get(key[0]) == routed:
                    self._asked[key] = self._executor.submit(
                        confirm_channel,
                        self._gateway,
                        live.channel,
                        digest=live.digest,
                        generation=live.generation,
                        key=self._key,
                    )
            elif asked.done():
                del self._asked[key]
                problem = asked.result()
                if not problem:
                    self._state.acknowledge(live.channel, live.generation)
                    logger.info("%s: generation %d is visible and acknowledged", live.channel, live.generation)
                elif problem != self._told:
                    logger.warning("%s: generation %d is not visible yet: %s", live.channel, live.generation, problem)
                    self._told = problem
