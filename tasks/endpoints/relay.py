"""One request on its way to an instance and back: streams as they come, tries again while no byte has been sent.

A draining vLLM answers HTTP 200 with ``finish_reason: "abort"`` and empty text (vllm#57082), so a status code proves
nothing: an abort counts as a lost answer here. It is tried again when the client has had no byte yet, and told as an
error event when it has; never passed on as a clean end.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import aiohttp

from tasks.endpoints.board import Board, Target
from tasks.endpoints.routes import InstanceRoute

Send = Callable[[dict[str, Any]], Awaitable[None]]

ABORT = b'"finish_reason":"abort"'
"""As vLLM writes it. Inside generated text the quotes are escaped, so text cannot imitate it."""
SPOKEN = re.compile(rb'"(?:content|text|reasoning|reasoning_content|arguments|name)":\s*"[^"]')
RETRY_WAITS = (0.0, 1.0)
"""Again at once (a kept-alive connection that was just closed), then after the next routes or a second: the agent sees
a dead instance within 0.3 s and moves the channel to the previous one."""
KEEP_ALIVE_SECONDS = 3.0
"""vLLM closes idle connections after 5 s; ours must be the side that closes first."""

logger = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A request, read whole."""

    path: str
    model: str
    body: bytes
    headers: Mapping[str, str]


class Lost(Exception):
    """An instance did not answer, and the client has had no byte: it may be asked again."""


class Relay:
    """Asks instances over their Unix sockets. One connection pool for each."""

    def __init__(self, board: Board, *, hold_seconds: float = 30.0, read_timeout_seconds: float = 600.0) -> None:
        self.board = board
        self.hold_seconds = hold_seconds
        self.timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=read_timeout_seconds)
        self._sessions: dict[tuple[str, str], aiohttp.ClientSession] = {}
        """By name and socket: an instance that was started again has another socket."""

    async def answer(self, asked: Asked, send: Send) -> None:
        """Answer one request, whatever it takes: with the model's answer or with a sentence."""
        failed: str | None = None
        reason = ""
        for wait in (0.0, *RETRY_WAITS):
            target = await self._target(asked.model, failed, wait)
            if target is None:
                await send_error(send, 404, f"The model `{asked.model}` is not served here. Served: {self._served()}.")
                return
            if target.instance is None:
                reason = reason or "no instance is ready for it"
                break
            try:
                await self._once(asked, target, target.instance, send)
                return
            except Lost as error:
                failed, reason = target.instance.name, str(error)
                logger.warning("%s: %s did not answer (%s)", asked.model, failed, reason)
        message = f"`{asked.model}` cannot be answered at this moment: {reason}. Nothing was generated; try again."
        await send_error(send, 503, message, extra=[(b"retry-after", b"2")])

    async def close(self) -> None:
        """Close every pool."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def forget_gone(self) -> None:
        """Close the pools of instances that are out of the routes and have nothing under way."""
        routed = {(instance.name, instance.uds) for instance in self.board.routes.instances.values()}
        for key in [key for key in self._sessions if key not in routed]:
            if self.board.in_flight[key[0]] <= 0 or key[0] in self.board.routes.instances:
                await self._sessions.pop(key).close()

    async def _target(self, model: str, failed: str | None, wait: float) -> Target | None:
        """Where to ask now. Holds while an instance is coming; after a failure prefers to wait for another one."""
        started = time.monotonic()
        while True:
            target = self.board.find(model)
            if target is None:
                return None
            if target.instance is None:
                patience = self.hold_seconds if target.coming else 0.0
            else:
                patience = wait if target.instance.name == failed else 0.0
            left = started + patience - time.monotonic()
            if left <= 0:
                return target
            await self.board.changed(left)

    async def _once(self, asked: Asked, target: Target, instance: InstanceRoute, send: Send) -> None:
        self.board.in_flight[instance.name] += 1
        started = False
        try:
            url = f"http://instance{asked.path}"
            async with self._session(instance).post(url, data=asked.body, headers=asked.headers) as response:
                kind = response.headers.get("content-type", "application/json")
                if response.status == 503:
                    raise Lost(f"it answered 503: {(await response.read())[:200].decode(errors='replace')}")
                head = _head(response.status, kind, target, instance)
                if not kind.startswith("text/event-stream"):
                    body = await response.read()
                    if _aborted(body):
                        raise Lost("it broke the answer off with finish_reason abort")
                    started = True
                    await send({**head, "headers": [*head["headers"], (b"content-length", b"%d" % len(body))]})
                    await send({"type": "http.response.body", "body": body})
                    return
                first = await _first_words(response.content)
                started = True
                await send(head)
                await _pass_on(first, response.content, send)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if not started:
                raise Lost(reason) from error
            logger.error("%s: %s broke off in the middle of a stream (%s)", asked.model, instance.name, reason)
            await _break_off(send, f"the instance went away in the middle of this answer ({type(error).__name__})")
        finally:
            self.board.in_flight[instance.name] -= 1

    def _session(self, instance: InstanceRoute) -> aiohttp.ClientSession:
        key = (instance.name, instance.uds)
        session = self._sessions.get(key)
        if session is None:
            connector = aiohttp.UnixConnector(instance.uds, limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
            session = aiohttp.ClientSession(connector=connector, timeout=self.timeout, auto_decompress=False)
            self._sessions[key] = session
        return session

    def _served(self) -> str:
        return ", ".join(self.board.names()) or "nothing yet"


async def _first_words(stream: aiohttp.StreamReader) -> bytes:
    """Read until the model has said something: an abort before that can still be tried again elsewhere.

    vLLM sends the role event together with the first token, so holding it back costs no time; two events are enough.
    """
    held = b""
    while True:
        chunk = await stream.readany()
        held += chunk
        if ABORT in held and not SPOKEN.search(held):
            raise Lost("it broke the stream off with finish_reason abort before its first word")
        if not chunk and not held:
            raise Lost("it ended the stream before its first byte")
        if not chunk or held.count(b"\n\n") >= 2 or SPOKEN.search(held):
            return held


async def _pass_on(first: bytes, stream: aiohttp.StreamReader, send: Send) -> None:
    """Send what came, and each further piece the moment it comes. An abort in the middle ends in an error event."""
    chunk, tail = first, b""
    while chunk:
        if ABORT in tail + chunk:
            await _break_off(send, "the instance broke this answer off")
            return
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        tail = chunk[-len(ABORT) :]
        chunk = await stream.readany()
    await send({"type": "http.response.body", "body": b""})


async def _break_off(send: Send, sentence: str) -> None:
    event = json.dumps(_error(sentence, "server_error", None))
    await send({"type": "http.response.body", "body": f"\n\ndata: {event}\n\n".encode()})


def _head(status: int, kind: str, target: Target, instance: InstanceRoute) -> dict[str, Any]:
    headers = [
        (b"content-type", kind.encode()),
        (b"x-empelt-artifact", instance.digest.encode()),
        (b"x-empelt-channel", target.channel.encode()),
    ]
    if instance.release:
        headers.append((b"x-empelt-release", instance.release.encode()))
    if target.generation is not None:
        headers.append((b"x-empelt-generation", b"%d" % target.generation))
    return {"type": "http.response.start", "status": status, "headers": headers}


def _aborted(body: bytes) -> bool:
    if b'"abort"' not in body:
        return False
    try:
        choices = json.loads(body).get("choices", [])
    except (ValueError, AttributeError):
        return False
    return any(isinstance(choice, dict) and choice.get("finish_reason") == "abort" for choice in choices)


def _error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


CODES = {404: "model_not_found", 413: "request_too_large", 503: "no_instance"}


async def send_error(
    send: Send, status: int, message: str, *, extra: list[tuple[bytes, bytes]] | None = None, code: str | None = None
) -> None:
    """An error as OpenAI's clients expect it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    await send_json(send, status, _error(message, kind, code or CODES.get(status)), extra=extra)


async def send_json(send: Send, status: int, value: Any, *, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    """A whole JSON answer of the gateway's own."""
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def until_gone(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)
