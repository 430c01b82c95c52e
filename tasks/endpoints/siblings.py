"""The workers of one gateway tell each other what they have under way.

While one replaces another, both have requests under way, and the agent asks only one of them. It must hear of all, or
it would stop an instance that still answers somebody. Each worker therefore answers on a Unix socket beside the routes.
"""

import asyncio
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.endpoints.board import Board

ANSWER_SECONDS = 1.0
FRESH_SECONDS = 5.0
HANGS = -1
"""As a serial: a worker does not answer, and may route by anything."""

logger = logging.getLogger(__name__)


class Siblings:
    """This worker's own socket, and those of the others."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._folder = board.path.parent
        self._own = self._folder / f"gateway-{os.getpid()}.sock"
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Answer the others from now on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._own.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, str(self._own))

    def close(self) -> None:
        """No longer: nothing is under way here any more."""
        if self._server is not None:
            self._server.close()
        self._own.unlink(missing_ok=True)

    async def report(self) -> dict[str, Any]:
        """The routes of this worker; the least serial, and what is under way on all of them."""
        others = [path for path in self._folder.glob("gateway-*.sock") if path != self._own]
        told = await asyncio.gather(*(_ask(path) for path in others))
        return joined(self._board.report(), [one for one in told if one is not None])

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        report = self._board.report()
        try:
            told = {name: report[name] for name in ("serial", "in_flight", "tallies")}
            writer.write(json.dumps(told).encode())
            await writer.drain()
        except OSError as error:
            logger.warning("another worker hung up on its question: %s", error)
        finally:
            writer.close()


def joined(own: dict[str, Any], others: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One report of several: pure."""
    under_way = Counter(own["in_flight"])
    serial, tallies = own["serial"], dict(own["tallies"])
    for other in others:
        under_way.update(other["in_flight"])
        tallies |= other.get("tallies", {})  # none from one that hangs, or is of an older version
        serial = min(serial, other["serial"])
    return {**own, "serial": serial, "in_flight": dict(sorted(under_way.items())), "tallies": tallies}


async def _ask(path: Path) -> dict[str, Any] | None:
    """What another worker says; None when it has ended."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                found: dict[str, Any] = json.loads(await reader.read())
            finally:
                writer.close()
            return found
    except (ConnectionRefusedError, FileNotFoundError):
        with suppress(FileNotFoundError):  # left by one that was killed; a fresh one is only not listening yet
            if time.time() - path.stat().st_mtime > FRESH_SECONDS:
                path.unlink()
        return None
    except (TimeoutError, OSError, ValueError) as error:
        logger.warning("%s does not answer (%s); nothing is acknowledged meanwhile", path.name, error)
        return {"serial": HANGS, "in_flight": {}}
