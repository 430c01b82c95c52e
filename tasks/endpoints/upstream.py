"""Instances, asked over Unix sockets or, on a cluster, over TCP: one pool of connections for each. Whatever breaks is
told as ``Lost``.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import aiohttp

from tasks.endpoints.lost import Answer, Lost
from tasks.endpoints.routes import InstanceRoute
from tasks.endpoints.stream import check_model

CONNECT_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 3.0
"""vLLM closes idle connections after 5 s; ours must be the side that closes first. On a machine that is short of CPU it
is not always: such a connection breaks when it is used, so whoever asks again gets a new one."""
FAILED = (500, 502, 504)


class Response:
    """An instance's answer, of which the head has been read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.kind = response.headers.get("content-type", "application/json")

    async def readany(self) -> bytes:
        """The next piece of the body; empty at the end.

        Raises:
            Lost: it broke, or was silent for too long.
        """
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise lost_by(error) from error

    async def whole(self, model: str) -> Answer:
        """The rest of it.

        Raises:
            Lost: it broke, it is one that may be asked for again, or another model than ``model`` answers.
        """
        try:
            answer = Answer(self.status, self.kind, await self._response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise lost_by(error) from error
        shown = answer.body[:200].decode(errors="replace")
        if self.status == 503:
            raise Lost("busy", f"it answered 503: {shown}", answer)
        if self.status in FAILED:
            raise Lost("status", f"it answered {self.status}: {shown}", answer)
        if self.status == 404:
            raise Lost("other", f"it does not know {model}: {shown}")
        if _aborted(answer.body):
            raise Lost("abort", "it broke the answer off with finish_reason abort")
        if self.status == 200:
            check_model(answer.body, model)
        return answer


class Upstream:
    """The pools."""

    def __init__(self, *, idle_seconds: float) -> None:
        self._patient = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        """For an answer that comes whole: nothing is heard of it until it has been generated."""
        self._streaming = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=idle_seconds)
        self._sessions: dict[tuple[str, bool], aiohttp.ClientSession] = {}
        """By socket, an instance that was started again has another one; and whether each connection is a new one."""
        self._busy: Counter[str] = Counter()

    @asynccontextmanager
    async def ask(
        self,
        instance: InstanceRoute,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        is_stream: bool,
        is_fresh: bool = False,
    ) -> AsyncIterator[Response]:
        """Ask, and read the answer's head.

        Args:
            instance: who is asked.
            path: of its API.
            body: passed on as it is.
            headers: the same.
            is_stream: the answer is to come in pieces, and may not be silent for long.
            is_fresh: over a new connection: a kept one may have been closed by the other side a moment ago.

        Raises:
            Lost: it did not come.
        """
        timeout = self._streaming if is_stream else self._patient
        address = instance.uds if _is_tcp(instance.uds) else "http://instance"
        posted = self._session(instance.uds, is_fresh=is_fresh).post(
            f"{address}{path}", data=body, headers=headers, timeout=timeout
        )
        self._busy[instance.uds] += 1
        try:
            try:
                response = await posted
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise lost_by(error) from error
            async with response:
                yield Response(response)
        finally:
            self._busy[instance.uds] -= 1

    async def forget(self, routed: Collection[str]) -> None:
        """Close the pools of sockets that are out of the routes and have nothing under way."""
        for uds, is_fresh in [key for key in self._sessions if key[0] not in routed and self._busy[key[0]] <= 0]:
            await self._sessions.pop((uds, is_fresh)).close()
        for uds in [uds for uds, count in self._busy.items() if uds not in routed and count <= 0]:
            del self._busy[uds]

    async def close(self) -> None:
        """Close every pool."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, uds: str, *, is_fresh: bool) -> aiohttp.ClientSession:
        session = self._sessions.get((uds, is_fresh))
        if session is None:
            connector = _connector(uds, is_fresh=is_fresh)
            session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
            self._sessions[uds, is_fresh] = session
        return session


def _is_tcp(uds: str) -> bool:
    return uds.startswith("http://")


def _connector(uds: str, *, is_fresh: bool) -> aiohttp.BaseConnector:
    kept = None if is_fresh else KEEP_ALIVE_SECONDS
    if _is_tcp(uds):
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=kept, force_close=is_fresh)
    return aiohttp.UnixConnector(uds, limit=0, keepalive_timeout=kept, force_close=is_fresh)


def lost_by(error: Exception) -> Lost:
    """What an error of the client means."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, aiohttp.SocketTimeoutError):
        return Lost("silent", f"it was silent for too long ({reason})")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Lost("connect", reason)
    return Lost("reset", reason)


def _aborted(body: bytes) -> bool:
    if b'"abort"' not in body:
        return False
    try:
        choices = json.loads(body).get("choices", [])
    except (ValueError, AttributeError):
        return False
    return any(isinstance(choice, dict) and choice.get("finish_reason") == "abort" for choice in choices)
