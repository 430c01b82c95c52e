"""How vLLM ends on SIGTERM: it goes on accepting, answers what is new with abort, and lets run what is under way.

After `--shutdown-timeout` seconds (0 is vLLM's default) what is left is aborted too: HTTP 200, finish_reason abort, and
a clean end mark. /health says 200 all the while.
"""

import time
from typing import Any

import uvicorn


class Server(uvicorn.Server):
    """uvicorn, which ends as vLLM does."""

    def __init__(self, app: Any, shutdown_timeout: float) -> None:
        super().__init__(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
        self.under_way = 0
        """Requests that are being answered."""
        self._shutdown_timeout = shutdown_timeout
        self._told_at: float | None = None

    @property
    def is_draining(self) -> bool:
        """SIGTERM has come: new requests are aborted."""
        return self._told_at is not None

    @property
    def is_aborting(self) -> bool:
        """The time is over: what is under way is aborted."""
        return self._told_at is not None and time.monotonic() - self._told_at >= self._shutdown_timeout

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM or SIGINT."""
        self._told_at = self._told_at or time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self.is_draining and (self.under_way == 0 or self.is_aborting):
            self.should_exit = True
        return await super().on_tick(counter)
