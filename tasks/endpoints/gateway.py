"""The gateway: the one public address. OpenAI-compatible, routes by the body's ``model``, outlives the agent.

Bare ASGI with aiohttp as its client: with 200 streams of 25 tokens/s on two cores, Starlette with httpx had a p99 of
104 ms and 81 % of the chunks, this way 7.6 ms and 98 % (2026-11). It logs no bodies, and passes on only the paths that
it knows: vLLM's other paths include some that need no key and some that run code.
"""

import asyncio
import json
import time
from typing import Any

from tasks.endpoints import figures
from tasks.endpoints.answers import Header, Receive, Send, send_error, send_json
from tasks.endpoints.board import Board
from tasks.endpoints.gateway_config import GatewayConfig
from tasks.endpoints.keys import OWN, Key, Keys
from tasks.endpoints.limits import EVERYBODY, Turnstile
from tasks.endpoints.relay import Asked, Relay
from tasks.endpoints.siblings import Siblings
from tasks.endpoints.status_file import read_status, status_beside
from tasks.endpoints.status_page import PAGE, PRIVATE, STATUS, TO_PAGE, as_shown, send_page, send_to_page

INFERENCE = ("/v1/chat/completions", "/v1/completions")
READ = ("/v1/models", "/health", "/empelt/routes", STATUS, PAGE, *TO_PAGE)
METHODS = {**dict.fromkeys(READ, "GET"), **dict.fromkeys(INFERENCE, "POST")}
PASSED_HEADERS = (b"accept", b"x-request-id")
SESSION_HEADERS = (b"x-session-id", b"x-request-id")
CLOSE: Header = (b"connection", b"close")
TIDY_SECONDS = 5.0


class Gateway:
    """The ASGI application of one worker."""

    def __init__(self, config: GatewayConfig) -> None:
        """Read nothing yet but the keys.

        Raises:
            InputError: the keys cannot be used.
        """
        self.limits = config.limits
        self.keys = Keys.parse(config.keys, config.own_key)
        self.board = Board(config.routes)
        self.siblings = Siblings(self.board)
        self.relay = Relay(self.board, config.limits, retry=config.retry)
        self.is_leaving = False
        """Another worker takes the connections now: each answer from here says that its connection ends with it."""
        self._turnstile = Turnstile(config.limits.in_flight)
        self._started = int(time.time())

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One connection of the server: its life span, or one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, self._closing(send) if self.is_leaving else send)

    async def _http(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        expected = METHODS.get(path)
        if expected is None:
            await _refuse(send, 404, f"{path} is not served here. Paths: {', '.join(METHODS)}.", code="unknown_path")
            return
        if method != expected:
            message = f"{path} answers {expected}, not {method}."
            await _refuse(send, 405, message, extra=[(b"allow", expected.encode())])
            return
        if path == "/health":
            await send_json(send, 200, {"ok": True, "serial": self.board.routes.serial})
            return
        if path in TO_PAGE:
            await send_to_page(send, path)
            return
        if path == PAGE:
            await send_page(send, keys_asked_for=self.keys.asked_for)
            return
        key = self._key(scope)
        if key is None or (path == "/empelt/routes" and key.name not in (OWN, EVERYBODY.name)):
            message = f"{path} needs an API key that this gateway knows, as `Authorization: Bearer ...`."
            await _refuse(send, 401, message, extra=[(b"www-authenticate", b"Bearer"), CLOSE])
        elif path == "/v1/models":
            await send_json(send, 200, {"object": "list", "data": [self._model(name) for name in self.board.names()]})
        elif path == "/empelt/routes":
            await send_json(send, 200, await self.siblings.report())
        elif path == STATUS:
            under_way = (await self.siblings.report())["in_flight"]
            status = read_status(status_beside(self.board.path))
            whole = key.name in (OWN, EVERYBODY.name)
            shown = as_shown(self.board.routes, under_way, status, whole=whole)
            await send_json(send, 200, shown, extra=PRIVATE)
        elif refusal := self._turnstile.enter(key):
            await _refuse(send, 429, refusal, extra=[(b"retry-after", b"1"), CLOSE])
        else:
            figures.in_flight.inc()
            try:
                await self._infer(scope, receive, send)
            finally:
                self._turnstile.leave(key)
                figures.in_flight.dec()

    def _key(self, scope: dict[str, Any]) -> Key | None:
        if not self.keys.asked_for:
            return EVERYBODY
        return self.keys.find(_header(scope, b"authorization"))

    async def _infer(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            message = f"The body did not arrive within {self.limits.upload_seconds:.0f} s, the limit of this gateway."
            await _refuse(send, 408, message, extra=[CLOSE])
            return
        if body is None:
            message = f"The request is larger than {self.limits.body_bytes} bytes, the limit of this gateway."
            await _refuse(send, 413, message, extra=[CLOSE])
            return
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            await _refuse(send, 400, "The body is not JSON.")
            return
        model = fields.get("model") if isinstance(fields, dict) else None
        if not isinstance(model, str):
            served = ", ".join(self.board.names()) or "nothing yet"
            await _refuse(send, 400, f"The body names no `model`. Served: {served}.")
            return
        passed = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in PASSED_HEADERS}
        headers = {"content-type": "application/json", "accept-encoding": "identity", **passed}
        session = next(filter(None, (_header(scope, name) for name in SESSION_HEADERS)), body)
        await self._answer(Asked(scope["path"], model, body, fields, headers, session), receive, send)

    async def _answer(self, asked: Asked, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self.relay.answer(asked, send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:  # whichever is left over: a client that hung up must stop the generation too
            work.cancel()
            gone.cancel()

    async def _body(self, scope: dict[str, Any], receive: Receive) -> bytes | None:
        """The whole body, or None when it is over the limit."""
        declared = _header(scope, b"content-length")
        if declared.isdigit() and int(declared) > self.limits.body_bytes:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limits.body_bytes:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)

    def _closing(self, send: Send) -> Send:
        async def closing(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], CLOSE]}
            await send(message)

        return closing

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
        await self.siblings.open()
        keep = [asyncio.ensure_future(self.board.watch()), asyncio.ensure_future(self._tidy())]
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in keep:
            task.cancel()
        await asyncio.sleep(0.05)  # requests that were cut off say so to their clients
        await self.relay.upstream.close()
        self.siblings.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _tidy(self) -> None:
        while True:
            await self.board.changed(TIDY_SECONDS)
            await self.relay.upstream.forget({one.uds for one in self.board.routes.instances.values()})


async def _refuse(
    send: Send, status: int, message: str, *, extra: list[Header] | None = None, code: str | None = None
) -> None:
    """Turn a request away, before any model was looked for."""
    figures.refused.labels(str(status)).inc()
    await send_error(send, status, message, extra=extra, code=code)


def _header(scope: dict[str, Any], wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


async def _until_gone(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)
