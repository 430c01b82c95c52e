"""Takes the Hub's events, and answers Prometheus: one small process, each of the two on a port of its own.

An event only makes the watch look sooner. It is checked in this order, cheapest first: secret, rate, size, form. The
answer does not wait for anything; the run that it asks for is created afterwards, once for all that came meanwhile.
"""

import asyncio
import hmac
import logging
import socket
import time
from collections.abc import Callable, Mapping

import httpx
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.metrics import registry_of
from tasks.domain.errors import AddressInUse, InputError, PipelineError
from tasks.logs import set_up_logging
from tasks.settings import Settings
from tasks.sources.events import Event, parse_event

MAX_BODY_BYTES = 64 * 1024
"""An event of the Hub has about 1 kB."""
BODY_SECONDS = 10
PER_MINUTE = 60
"""Events that are taken, and wrong secrets that are told so; the Hub stops at 1,000 events a day for each webhook."""
PAUSE_SECONDS = 30
"""Between one run of the watch and the next that events ask for."""
logger = logging.getLogger(__name__)


class Bucket:
    """Lets ``per_minute`` through, evenly, and as many at once after a quiet minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def take(self) -> bool:
        """Whether one more may pass now."""
        now = self._clock()
        self._left = min(self.per_minute, self._left + (now - self._at) * self.per_minute / 60)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Nudge:
    """Starts a run of the watch, ``seconds`` after the first event that asks for one; all that come before join it."""

    def __init__(self, start: Callable[[], str], seconds: float, pause: float = PAUSE_SECONDS) -> None:
        self._start, self._seconds, self._pause = start, seconds, pause
        self._waiting: asyncio.Task[None] | None = None
        self._not_before = 0.0

    def ask(self) -> str:
        """``planned`` or ``joined``."""
        if self._waiting is not None:
            return "joined"
        self._waiting = asyncio.create_task(self._later())
        return "planned"

    async def _later(self) -> None:
        await asyncio.sleep(max(self._seconds, self._not_before - time.monotonic()))
        self._waiting = None  # before the start: a watch under way may have listed already what comes now
        self._not_before = time.monotonic() + self._pause
        try:
            logger.info("an event starts the watch: %s", await run_in_threadpool(self._start))
        except (PipelineError, httpx.HTTPError) as error:
            logger.warning("no watch was started, the next one by the clock will see it: %s", error)


class Webhook:
    """``POST /webhook``."""

    def __init__(self, secret: str, nudge: Nudge) -> None:
        self._secret, self._nudge = secret.encode(), nudge
        self._events, self._strangers = Bucket(PER_MINUTE), Bucket(PER_MINUTE)

    def app(self) -> Starlette:
        """The receiver as an application of its own."""
        return Starlette(routes=[Route("/webhook", self.take, methods=["POST"]), Route("/health", healthy)])

    async def take(self, request: Request) -> Response:
        """One event: 202, or 401, 429, 413, 408, 400."""
        told = request.headers.get("x-webhook-secret", "").encode("latin-1")
        if not hmac.compare_digest(told, self._secret):
            return _refused(401, "wrong X-Webhook-Secret") if self._strangers.take() else _too_many()
        if not self._events.take():
            return _too_many()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(request)
        except TimeoutError:
            return _refused(408, f"the body was not there after {BODY_SECONDS} s")
        if body is None:
            return _refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        try:
            event = parse_event(body)
        except InputError as refusal:
            return _refused(400, str(refusal))
        return JSONResponse({"watch": self._act(event)}, status_code=202)

    def _act(self, event: Event) -> str:
        done = self._nudge.ask() if event.concerns_models else "not concerned"
        logger.info("event: %s %s of %s, head %s: %s", event.action, event.scope, event.repo_id, event.head_sha, done)
        return done


class ByPort:
    """One application for each port."""

    def __init__(self, apps: Mapping[int, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to the application of the port that it came to."""
        await self._apps[scope["server"][1]](scope, receive, send)


def metrics_app(settings: Settings) -> Starlette:
    """``GET /metrics``, computed anew for each request."""
    registry = registry_of(settings)

    def metrics(_: Request) -> Response:  # not async: Starlette runs it in a thread
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics), Route("/health", healthy)])


def run_receiver_here(settings: Settings) -> None:
    """Serve what the settings ask for until SIGTERM.

    Raises:
        InputError: if they ask for nothing.
        AddressInUse: naming the port.
    """
    set_up_logging(settings)
    apps: dict[int, ASGIApp] = {}
    sockets = []
    if settings.webhook_secret:
        sockets.append(_listen(settings.webhook_host, settings.webhook_port))
        nudge = Nudge(lambda: _start_watch(settings), settings.webhook_seconds)
        apps[settings.webhook_port] = Webhook(settings.webhook_secret.get_secret_value(), nudge).app()
    if settings.metrics_port:
        sockets.append(_listen(settings.metrics_host, settings.metrics_port))
        apps[settings.metrics_port] = metrics_app(settings)
    if not apps:
        raise InputError("nothing to receive: set EMPELT_WEBHOOK_SECRET_FILE, or EMPELT_METRICS_PORT")
    logger.info("receiver on %s", ", ".join("{}:{}".format(*one.getsockname()[:2]) for one in sockets))
    config = uvicorn.Config(
        ByPort(apps), log_config=None, access_log=False, lifespan="off", server_header=False, limit_concurrency=64
    )
    uvicorn.Server(config).run(sockets=sockets)


def _start_watch(settings: Settings) -> str:
    from deployments.starting import start_on  # imports Prefect, 2 s, for a process that may never need it

    return start_on(settings, "watch-hub/schedule", {}, tags=["webhook"])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise AddressInUse(f"port {port} on {host} cannot be used by the receiver: {error.strerror}") from error


async def healthy(_: Request) -> Response:
    """For whoever asks whether this is up."""
    return PlainTextResponse("ok\n")


async def _body(request: Request) -> bytes | None:
    """The body, or None if it is too large: no more than the limit is ever held."""
    stated = request.headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _refused(status: int, why: str) -> Response:
    logger.info("event refused: %d %s", status, why)
    return JSONResponse({"error": why}, status_code=status)


def _too_many() -> Response:
    answer = _refused(429, f"more than {PER_MINUTE} in a minute")
    answer.headers["retry-after"] = str(60 // PER_MINUTE)
    return answer
