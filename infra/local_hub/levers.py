"""Levers for tests and demonstrations, no part of a Hub's API: failures on demand, and what was asked.

    POST   /admin/failures   {"status": 429 or 503, "count": 3, "path": "/api/models", "retry_after": 2, "limit": false}
    GET    /admin/failures   what is still to come      DELETE: nothing any more
    GET    /admin/requests   method, path, status and bytes of each answer      DELETE: forget them

``path`` is a regular expression that is searched for in the path. ``limit`` tells the wait by the Hub's own RateLimit
headers, and not by Retry-After. Answered on loopback only.
"""

import json
import re
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "::1", "testclient")
REMEMBERED = 10_000


@dataclass
class Failure:
    """Answers that are still to be refused."""

    status: int
    count: int
    path: str = ""
    retry_after: int | None = None
    limit: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """How long to wait, in one of the two ways that the Hub has."""
        if self.retry_after is None:
            return {}
        if self.limit:
            return {
                "RateLimit": f'"api";r=0;t={self.retry_after}',
                "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
            }
        return {"Retry-After": str(self.retry_after)}


class Levers:
    """Stands before the application: fails what it was told to, and counts what was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.failures: list[Failure] = []
        self.requests: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope, receive)
        if scope["path"].startswith("/admin/"):
            return await (await self._pull(request))(scope, receive, send)
        seen: dict[str, Any] = {"method": scope["method"], "path": scope["path"], "status": 0, "bytes": 0}
        self.requests.append(seen)

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            elif message["type"] == "http.response.body":
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        failure = next((f for f in self.failures if f.count > 0 and re.search(f.path, scope["path"])), None)
        if failure is None:
            return await self.app(scope, receive, counting)
        failure.count -= 1
        answer = JSONResponse({"error": "as told by /admin/failures"}, failure.status, headers=failure.headers)
        await answer(scope, receive, counting)

    async def _pull(self, request: Request) -> Response:
        if request.client is None or request.client.host not in LOOPBACK:
            return JSONResponse({"error": "levers are for this host only"}, 403)
        lists: dict[str, list[Failure] | deque[dict[str, Any]]] = {
            "/admin/failures": self.failures,
            "/admin/requests": self.requests,
        }
        kept = lists.get(request.url.path)
        if kept is None:
            return JSONResponse({"error": "there are /admin/failures and /admin/requests"}, 404)
        if request.method == "DELETE":
            kept.clear()
        elif request.method == "POST" and kept is self.failures:
            try:
                failure = Failure(**json.loads(await request.body()))
                re.compile(failure.path)
                if failure.status not in range(400, 600) or failure.count < 1:
                    raise ValueError("status is 400 to 599 and count at least 1")
            except (TypeError, ValueError, re.error) as error:
                return JSONResponse({"error": str(error)}, 400)
            self.failures.append(failure)
        elif request.method != "GET":
            return JSONResponse({"error": f"no {request.method} here"}, 405)
        shown = [f if isinstance(f, dict) else asdict(f) for f in kept]
        return JSONResponse([f for f in shown if f.get("count", 1) > 0])
