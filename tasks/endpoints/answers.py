"""What the gateway says in its own words: JSON, and errors in the shape that OpenAI's clients expect."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Header = tuple[bytes, bytes]

CODES = {
    401: "invalid_api_key",
    404: "model_not_found",
    408: "request_too_slow",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    503: "no_instance",
    504: "timeout",
}
KINDS = {401: "authentication_error", 429: "rate_limit_error"}


def error_of(message: str, kind: str, code: str | None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def send_error(
    send: Send, status: int, message: str, *, extra: list[Header] | None = None, code: str | None = None
) -> None:
    """An error as OpenAI's clients expect it."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    await send_json(send, status, error_of(message, kind, code or CODES.get(status)), extra=extra)


async def send_json(send: Send, status: int, value: Any, *, extra: list[Header] | None = None) -> None:
    """A whole JSON answer of the gateway's own."""
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_broken(send: Send, sentence: str) -> None:
    """End a stream that cannot be finished: an error event, and no ``[DONE]`` after it."""
    event = json.dumps(error_of(sentence, "server_error", "stream_broken"))
    await send({"type": "http.response.body", "body": f"\n\ndata: {event}\n\n".encode()})
