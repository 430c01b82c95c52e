"""A worker of the gateway: the process that answers. Started, replaced and stopped by ``supervisor.py``.

    python -m tasks.endpoints.worker FD

FD is the listening socket, handed down by the supervisor. Standard input brings the set-up as one line of JSON, and
later the lines ``leave`` and ``figures``; its end means that the supervisor is gone. Standard output says ``ready``,
and then the figures, where somebody wants them.
"""

import asyncio
import logging
import socket
import sys
import threading
import time
from contextlib import suppress

import uvicorn

from tasks.domain.errors import InputError
from tasks.endpoints.gateway import Gateway
from tasks.endpoints.gateway_config import LEAVE, READY, GatewayConfig
from tasks.endpoints.gathered import FIGURES, TELL_SECONDS, as_line

LINGER_SECONDS = 20.0
"""A worker that leaves keeps idle connections so long, and answers what still comes on them: aiohttp's pool forgets a
connection after 15 s, httpx's and so OpenAI's after 5 s. Closed at once, a request on its way would be lost."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the pools of clients and proxies keep a connection, so that theirs is the side that closes first."""

logger = logging.getLogger(__name__)


class Worker(uvicorn.Server):
    """uvicorn, and a way of leaving without closing the door in anybody's face."""

    def __init__(self, gateway: Gateway, config: GatewayConfig) -> None:
        self.gateway = gateway
        self.drain_seconds = config.drain_seconds
        self._shows_figures = bool(config.metrics_port)
        self._telling = threading.Lock()
        self._asked = 0
        self._left_at: float | None = None
        settings = uvicorn.Config(
            gateway,
            log_level="warning",
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
            backlog=2048,
        )
        super().__init__(settings)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, then say so."""
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._listen, args=(loop,), daemon=True).start()
        print(READY, flush=True)  # noqa: T201
        if self._shows_figures:
            threading.Thread(target=self._tell_often, daemon=True).start()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._left_at is not None and not self.should_exit:
            waited = time.monotonic() - self._left_at
            open_ones = len(self.server_state.connections)
            self.should_exit = open_ones == 0 or waited >= min(LINGER_SECONDS, self.drain_seconds)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is under way."""
        self.gateway.relay.is_ending = True
        if self.drain_seconds <= 0:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        await super().shutdown(sockets)
        self._tell()

    def _tell(self) -> None:
        """This worker's figures, for the supervisor. From threads of their own, so that no request waits for a pipe."""
        if not self._shows_figures:
            return
        with self._telling, suppress(OSError):  # a supervisor that is gone reads nothing
            print(as_line(self._asked), flush=True)  # noqa: T201

    def _tell_often(self) -> None:
        while True:
            time.sleep(TELL_SECONDS)
            self._tell()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Follow the supervisor's words, in a thread of its own."""
        for line in sys.stdin:
            if line.strip() == LEAVE:
                loop.call_soon_threadsafe(self._leave)
            elif line.startswith(FIGURES):
                self._asked = int(line.split()[1])
                self._tell()
        loop.call_soon_threadsafe(self._end)

    def _leave(self) -> None:
        """Take no new connection, end each with its next answer, and go when the last one has ended."""
        self.gateway.is_leaving = True
        self._left_at = time.monotonic()
        for server in self.servers:
            server.close()

    def _end(self) -> None:
        """The supervisor is gone, and the next one will want the address."""
        self.should_exit = True


def main() -> None:
    """Answer until told to leave or to stop."""
    config = GatewayConfig.model_validate_json(sys.stdin.readline())
    try:
        gateway = Gateway(config)
    except InputError as error:
        sys.exit(str(error))
    bound = socket.socket(fileno=int(sys.argv[1]))
    Worker(gateway, config).run(sockets=[bound])


if __name__ == "__main__":
    main()
