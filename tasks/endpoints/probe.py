"""Short questions over HTTP: is an instance up, what does the gateway route by, who answers a channel.

The standard library's client: the agent asks every 0.3 s, and an httpx client made anew spends 20 ms on TLS it does
not need.
"""

import http.client
import json
import logging
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, uds: str, timeout: float) -> None:
        super().__init__("instance", timeout=timeout)
        self._uds = uds

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._uds)


class Reply(NamedTuple):
    """An HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask_http(
    where: str,
    method: str,
    path: str,
    *,
    body: dict[str, Any] | None = None,
    key: str = "",
    timeout_seconds: float = 2.0,
) -> Reply:
    """One request to ``http://host:port`` or to the Unix socket at the path ``where``, with an API key if there is one.

    Raises:
        OSError: nobody answered (refused, gone, timed out).
        http.client.HTTPException: something that is not HTTP answered, or hung up in the middle.
    """
    connection: http.client.HTTPConnection
    if where.startswith("/"):
        connection = UnixConnection(where, timeout_seconds)
    else:
        parts = urlsplit(where)
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_seconds)
    try:
        sent = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json"} if sent else {}
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        connection.request(method, path, body=sent, headers=headers)
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Health(NamedTuple):
    """What ``/health`` of one instance says. Neither up nor dead: it loads, or is too busy to answer in time."""

    up: bool
    dead: bool


def ask_health(uds: str, *, timeout_seconds: float = 1.0) -> Health:
    """Ask an instance. vLLM listens only when its engine is up; 503 means that the engine is dead."""
    try:
        status = ask_http(uds, "GET", "/health", timeout_seconds=timeout_seconds).status
    except TimeoutError:
        return Health(up=False, dead=False)
    except (OSError, http.client.HTTPException):
        return Health(up=False, dead=True)
    return Health(up=status == 200, dead=status == 503)


class GatewayState(NamedTuple):
    """What the gateway has loaded, and what is under way."""

    serial: int
    channels: dict[str, tuple[int, str | None]]
    """generation and instance, by channel."""
    in_flight: dict[str, int]
    canaries: Mapping[str, tuple[str, float]] = {}
    """instance and weight, by channel."""
    tallies: Mapping[str, Any] = {}
    """See ``tally.Reading``."""
    switches: Mapping[str, tuple[int, float]] = {}
    """By channel: the generation that it was switched to last, and the seconds from the routes' writing until then."""


HANGING = GatewayState(-1, {}, {})
"""It may still be sending to everything that it ever knew."""


def ask_gateway(url: str, key: str = "") -> GatewayState | None:
    """The gateway's state; None when nobody listens there. HANGING when somebody does and does not answer."""
    try:
        reply = ask_http(url, "GET", "/empelt/routes", key=key)
        if reply.status == 401:
            logger.error("the gateway at %s does not know this installation's key: see EMPELT_GATEWAY_KEY", url)
            return HANGING  # somebody may be served by it
        told = json.loads(reply.body)
        channels = {name: (int(c["generation"]), c["instance"]) for name, c in told["channels"].items()}
        tried = {name: c["canary"] for name, c in told["channels"].items() if c.get("canary")}
        return GatewayState(
            int(told["serial"]),
            channels,
            dict(told["in_flight"]),
            {name: (canary["instance"], float(canary["weight"])) for name, canary in tried.items()},
            dict(told.get("tallies", {})),
            {name: (int(g), float(s)) for name, (g, s) in told.get("switches", {}).items()},
        )
    except TimeoutError:
        return HANGING
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def confirm_channel(
    url: str, channel: str, *, digest: str, generation: int, key: str = "", timeout_seconds: float = 30.0
) -> str:
    """One real request through the gateway. Empty when ``digest`` answered as ``generation``, else what was wrong."""
    body = {"model": channel, "prompt": "1", "max_tokens": 1, "temperature": 0}
    try:
        reply = ask_http(url, "POST", "/v1/completions", body=body, key=key, timeout_seconds=timeout_seconds)
    except (OSError, http.client.HTTPException) as error:
        return f"the gateway at {url} did not answer a request for {channel} ({type(error).__name__}: {error})"
    if reply.status != 200:
        return f"a request for {channel} was answered {reply.status}: {reply.body[:300].decode(errors='replace')}"
    artifact, answered = reply.headers.get("x-empelt-artifact"), reply.headers.get("x-empelt-generation")
    if (artifact, answered) != (digest, str(generation)):
        return (
            f"{channel} was answered by artifact {artifact} as generation {answered}, "
            f"expected {digest} as generation {generation}"
        )
    return ""
