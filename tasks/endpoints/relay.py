"""One request on its way to an instance and back: streams as they come, tries again while no byte has been sent.

A draining vLLM answers HTTP 200 with ``finish_reason: "abort"`` and empty text (vllm#57082), so a status code proves
nothing: an abort counts as a lost answer here. An instance is asked by the name of its artifact, never by its
channel's, so that another one in its place cannot answer for it.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from tasks.endpoints import figures
from tasks.endpoints.answers import Header, Send, send_broken, send_error
from tasks.endpoints.board import Board, Target
from tasks.endpoints.hearing import MOST_BYTES, Hearing
from tasks.endpoints.limits import Limits
from tasks.endpoints.lost import Answer, Lost, Tries
from tasks.endpoints.routes import InstanceRoute
from tasks.endpoints.stream import SPOKEN, Listened, first_words, pass_on
from tasks.endpoints.tally import Count
from tasks.endpoints.upstream import Upstream

TELLING_SECONDS = 5.0
BROKEN = "the instance went away in the middle of this answer"

logger = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A request, read whole."""

    path: str
    model: str
    body: bytes
    fields: Mapping[str, Any]
    """The body as JSON."""
    headers: Mapping[str, str]
    session: bytes
    """What requests that belong together have in common: by it a canary is chosen or not."""

    def to(self, model: str) -> bytes:
        """The body that asks for exactly this artifact."""
        if model == self.model:
            return self.body
        return json.dumps({**self.fields, "model": model}, separators=(",", ":")).encode()


class Told:
    """What the client has been told so far."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.began = time.monotonic()
        self.channel = self.artifact = ""
        self.code = 499
        self.is_stream = False
        self.count: Count | None = None
        """Of the version that is asked at this moment."""
        self._answers: Callable[[], None] = lambda: None

    @property
    def started(self) -> bool:
        """The client has had a byte: nothing can be asked again."""
        return self.code != 499

    async def error(self, status: int, message: str, extra: list[Header] | None = None) -> None:
        """An answer of the gateway's own."""
        self.code = status
        if status >= 500:
            figures.lost.labels(self.channel, self.artifact, "unanswered").inc()
        await send_error(self._send, status, message, extra=extra)

    async def head(self, status: int, headers: list[Header], *, is_stream: bool) -> None:
        """The first byte of an instance's answer."""
        self._answers()
        self.code, self.is_stream = status, is_stream
        figures.first_byte_seconds.labels(self.channel).observe(time.monotonic() - self.began)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The version that is asked has not answered yet: until its first byte, or the end of the block."""
        if self.count is None:
            yield
            return
        with self.count.asked() as self._answers:
            yield

    def note(self, status: int, seconds: float, *, is_empty: bool) -> None:
        """What the version that was asked has answered; a client that hung up in between is not counted."""
        count, self.count = self.count, None
        if count is None:
            return
        if status >= 500:
            count.failed()
        elif status >= 400:
            count.turned_down()
        else:
            count.answered(seconds, is_empty=is_empty)

    async def broken(self, sentence: str) -> None:
        """The stream cannot be finished."""
        figures.lost.labels(self.channel, self.artifact, "stream").inc()
        logger.error("%s: a stream of %s broke off (%s)", self.channel, self.artifact, sentence)
        with suppress(TimeoutError):  # a client that reads nothing is not told either: its place must be free again
            async with asyncio.timeout(TELLING_SECONDS):
                await send_broken(self._send, sentence)


class Relay:
    """Asks instances until one has answered."""

    def __init__(self, board: Board, limits: Limits, *, retry: bool = True) -> None:
        self.board = board
        self.limits = limits
        self.retry = retry
        self.is_ending = False
        """This process is being stopped, and what is cut off now has not hung up by itself."""
        self.upstream = Upstream(idle_seconds=limits.idle_seconds)
        self.hearing = Hearing()

    async def answer(self, asked: Asked, send: Send) -> None:
        """Answer one request, whatever it takes: with the model's answer or with a sentence."""
        told = Told(send)
        try:
            async with asyncio.timeout(self.limits.request_seconds):
                await self._until_answered(asked, told, send)
        except TimeoutError:
            if told.count is not None:
                told.count.failed()
            sentence = f"this request took longer than {self.limits.request_seconds:.0f} s, the limit of this gateway"
            await (told.broken(sentence) if told.started else told.error(504, f"`{asked.model}`: {sentence}."))
        except asyncio.CancelledError:  # the client hung up, or this process has waited for it long enough
            if self.is_ending and told.is_stream:
                await told.broken("this gateway is being stopped")
            elif self.is_ending and not told.started:  # what the server answers to a request that it cuts off
                told.code = 500
                figures.lost.labels(told.channel, told.artifact, "unanswered").inc()
            raise
        finally:
            figures.requests.labels(told.channel, told.artifact, str(told.code)).inc()

    async def _until_answered(self, asked: Asked, told: Told, send: Send) -> None:
        tries = Tries(self.limits.hold_seconds, retry=self.retry)
        while True:
            target = await self._target(asked, tries)
            if target is None:
                served = ", ".join(self.board.names()) or "nothing yet"
                await told.error(404, f"The model `{asked.model}` is not served here. Served: {served}.")
                return
            told.channel = target.channel
            instance = target.instance
            if instance is None or tries.is_over or (tries.count and tries.seconds_left <= 0):
                await self._give_up(asked, target, tries, told, send)
                return
            told.artifact = instance.digest[:12]
            told.count = self.board.count(target)
            try:
                with self._counted(instance), told.waiting():
                    await self._once(asked, target, instance, tries, told, send)
                return
            except Lost as lost:
                if told.count is not None:
                    told.count.failed()
                    told.count = None
                tries.note(instance.uds, lost)
                figures.retried.labels(target.channel, instance.digest[:12], lost.kind).inc()
                logger.warning("%s: %s did not answer (%s)", asked.model, instance.name, lost)

    async def _target(self, asked: Asked, tries: Tries) -> Target | None:
        """Where to ask now. Holds while an instance is coming; after a failure pauses, unless another one is there."""
        paused = False
        while True:
            target = self.board.find(asked.model, asked.session, tries.failed)
            if target is None or tries.is_over or tries.seconds_left <= 0:
                return target
            if target.instance is None:
                if not target.coming and tries.last is None:
                    return target
                await self._hold(target.channel, tries, tries.seconds_left)
                continue
            pause = tries.pause(target.instance.uds)
            if pause == 0.0 or paused or pause is None:
                return target if pause is not None else target._replace(instance=None)
            await self._hold(target.channel, tries, min(pause, tries.seconds_left))
            paused = True

    async def _hold(self, channel: str, tries: Tries, seconds: float) -> None:
        if not tries.has_waited:  # a request counts once, however often routes change meanwhile
            figures.held.labels(channel).inc()
        tries.has_waited = True
        figures.holding.inc()
        try:
            await self.board.changed(seconds)
        finally:
            figures.holding.dec()

    async def _give_up(self, asked: Asked, target: Target, tries: Tries, told: Told, send: Send) -> None:
        lost = tries.last
        if lost is not None and lost.answer is not None and lost.kind == "status":
            told.code = lost.answer.status
            figures.lost.labels(told.channel, told.artifact, "unanswered").inc()
            await _send_whole(send, lost.answer, [(b"x-empelt-channel", target.channel.encode())])
            return
        reason = str(lost) if lost is not None else "no instance is ready for it"
        message = f"`{asked.model}` cannot be answered at this moment: {reason}. Nothing was generated; try again."
        status = 504 if lost is not None and lost.kind == "silent" else 503
        await told.error(status, message, extra=[(b"retry-after", b"2")])

    async def _once(
        self, asked: Asked, target: Target, instance: InstanceRoute, tries: Tries, told: Told, send: Send
    ) -> None:
        is_stream = bool(asked.fields.get("stream"))
        body, began = asked.to(instance.pinned), time.monotonic()
        asking = self.upstream.ask(
            instance, asked.path, body, asked.headers, is_stream=is_stream, is_fresh=tries.count > 0
        )
        async with asking as response:
            if not response.kind.startswith("text/event-stream"):
                answer = await response.whole(instance.pinned)
                self._hear(target, told, answer.body)
                told.note(answer.status, time.monotonic() - began, is_empty=not SPOKEN.search(answer.body))
                head = _head(answer.kind, target, instance, tries.count)
                await told.head(answer.status, [*head, _length(answer.body)], is_stream=False)
                await send({"type": "http.response.body", "body": answer.body})
                return
            first = await first_words(response, instance.pinned)
            seconds, listened = time.monotonic() - began, Listened(response, first, keep=self._keeps(target, told))
            await told.head(response.status, _head(response.kind, target, instance, tries.count), is_stream=True)
            open_streams = figures.streams.labels(told.channel, told.artifact)
            try:
                with open_streams.track_inprogress():
                    broken = await pass_on(first, listened, send)
            except Lost as lost:
                broken = f"{BROKEN} ({lost})"
            self._hear(target, told, listened.heard)
            told.note(500 if broken else response.status, seconds, is_empty=not listened.spoken)
            if broken:
                await told.broken(broken)

    def _keeps(self, target: Target, told: Told) -> int:
        """How much of a stream is listened to."""
        return MOST_BYTES if self.hearing.wants(self.board.canary(target), target.channel, told.count) else 0

    def _hear(self, target: Target, told: Told, answer: bytes) -> None:
        canary = self.board.canary(target)
        if answer and canary and told.count and self.hearing.wants(canary, target.channel, told.count):
            self.hearing.hear(canary, target.channel, told.count, answer)

    @contextmanager
    def _counted(self, instance: InstanceRoute) -> Iterator[None]:
        counted = (instance.name, instance.process) if instance.process else (instance.name,)
        self.board.in_flight.update(counted)
        try:
            yield
        finally:
            self.board.in_flight.subtract(counted)


def _head(kind: str, target: Target, instance: InstanceRoute, retries: int) -> list[Header]:
    """Who answers: enough to attribute every answer to one artifact, as one version, after so many tries."""
    headers = [
        (b"content-type", kind.encode()),
        (b"x-empelt-artifact", instance.digest.encode()),
        (b"x-empelt-channel", target.channel.encode()),
        (b"x-empelt-version", target.version.encode()),
    ]
    if instance.release:
        headers.append((b"x-empelt-release", instance.release.encode()))
    if target.generation is not None:
        headers.append((b"x-empelt-generation", b"%d" % target.generation))
    if retries:
        headers.append((b"x-empelt-retries", b"%d" % retries))
    return headers


def _length(body: bytes) -> Header:
    return b"content-length", b"%d" % len(body)


async def _send_whole(send: Send, answer: Answer, headers: list[Header]) -> None:
    head = [(b"content-type", answer.kind.encode()), _length(answer.body), *headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": head})
    await send({"type": "http.response.body", "body": answer.body})
