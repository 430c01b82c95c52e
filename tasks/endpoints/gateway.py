"""The gateway: the one public address. OpenAI-compatible, routes by the body's ``model``, outlives the agent.

Bare ASGI with aiohttp as its client: with 200 streams of 25 tokens/s on two cores, Starlette with httpx had a p99 of
104 ms and 81 % of the chunks, this way 7.6 ms and 98 % (2026-11). It logs no bodies, and passes on only the paths that
it knows: vLLM's other paths include some that need no key and some that run code.
"""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

from tasks.domain.errors import AddressInUse
from tasks.endpoints.board import Board
from tasks.endpoints.relay import Asked, Relay, Send, send_error, send_json, until_gone

INFERENCE = ("/v1/chat/completions", "/v1/completions")
METHODS = {"/v1/models": "GET", "/health": "GET", "/empelt/routes": "GET", **dict.fromkeys(INFERENCE, "POST")}
PASSED_HEADERS = (b"accept", b"x-request-id")
MAX_BODY_BYTES = 8 * 1024 * 1024
"""A context of 128 k tokens as text is under 1 MiB; batches of prompts need more."""

logger = logging.getLogger(__name__)
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Gateway:
    """The ASGI application."""

    def __init__(self, routes: Path, *, max_body_bytes: int = MAX_BODY_BYTES, hold_seconds: float = 30.0) -> None:
        self.board = Board(routes)
        self.relay = Relay(self.board, hold_seconds=hold_seconds)
        self.max_body_bytes = max_body_bytes
        self._started = int(time.time())

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One connection of the server: its life span, or one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        expected = METHODS.get(path)
        if expected is None:
            await send_error(send, 404, f"{path} is not served here. Paths: {', '.join(METHODS)}.", code="unknown_path")
        elif method != expected:
            await send_error(
                send, 405, f"{path} answers {expected}, not {method}.", extra=[(b"allow", expected.encode())]
            )
        elif path == "/v1/models":
            await send_json(send, 200, {"object": "list", "data": [self._model(name) for name in self.board.names()]})
        elif path == "/health":
            await send_json(send, 200, {"ok": True, "serial": self.board.routes.serial})
        elif path == "/empelt/routes":
            await send_json(send, 200, self.board.report())
        else:
            await self._infer(scope, receive, send)

    async def _infer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        if body is None:
            message = f"The request is larger than {self.max_body_bytes} bytes, the limit of this gateway."
            await send_error(send, 413, message, extra=[(b"connection", b"close")])
            return
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            await send_error(send, 400, "The body is not JSON.")
            return
        model = asked.get("model") if isinstance(asked, dict) else None
        if not isinstance(model, str):
            served = ", ".join(self.board.names()) or "nothing yet"
            await send_error(send, 400, f"The body names no `model`. Served: {served}.")
            return
        passed = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in PASSED_HEADERS}
        headers = {"content-type": "application/json", "accept-encoding": "identity", **passed}
        work = asyncio.ensure_future(self.relay.answer(Asked(scope["path"], model, body, headers), send))
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:  # whichever is left over: a client that hung up must stop the generation too
            work.cancel()
            gone.cancel()

    async def _body(self, scope: dict[str, Any], receive: Receive) -> bytes | None:
        """The whole body, or None when it is over the limit."""
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self.max_body_bytes:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_body_bytes:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)

    def _model(self, name: str) -> dict[str, Any]:
        target = self.board.find(name)
        instance = target.instance if target else None
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "empelt",
            "root": instance.digest if instance else None,
            "release": instance.release if instance else None,
            "generation": target.generation if target else None,
        }

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self.board.refresh()
        keep = [asyncio.ensure_future(self.board.watch()), asyncio.ensure_future(self._tidy())]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in keep:
            task.cancel()
        await self.relay.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _tidy(self) -> None:
        while True:
            await self.board.changed(5.0)
            await self.relay.forget_gone()


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, or one clear refusal before anything else is started.

    Raises:
        AddressInUse: naming the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name the protocol; without it each answer took 48 ms instead of 5.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(2048)  # now and not later: with SO_REUSEADDR two can bind, and only one can listen
    except OSError as error:
        bound.close()
        raise AddressInUse(
            f"port {port} on {host} cannot be used by the gateway: {error.strerror}. "
            "Stop what listens there, or choose another port."
        ) from error
    return bound


def run_gateway(
    routes: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    hold_seconds: float = 30.0,
    drain_seconds: int = 30,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way for at most ``drain_seconds``.

    Args:
        routes: the file that the agent writes; need not be there yet.
        host: loopback unless said otherwise, since there are no keys yet.
        port: where to listen; 0 takes a free one.
        max_body_bytes: larger requests are refused with 413.
        hold_seconds: how long a request waits for an instance that is being started.
        drain_seconds: how long a stopping gateway waits for its streams.

    Raises:
        AddressInUse: naming the port.
    """
    bound = listen(host, port)
    logger.info("gateway on http://%s:%d, routes from %s", host, bound.getsockname()[1], routes)
    app = Gateway(routes, max_body_bytes=max_body_bytes, hold_seconds=hold_seconds)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=drain_seconds,
        backlog=2048,
    )
    uvicorn.Server(config).run(sockets=[bound])
