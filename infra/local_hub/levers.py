"""Levers for tests and demonstrations, no part of a Hub's API: failures on demand, and what was asked.

    POST   /admin/failures   {"status": 429 or 503, "count": 3, "path": "/api/models", "retry_after": 2, "limit": false}
                             {"fault": "cut", "at": 100, "path": "/resolve/"}     the connection ends after 100 bytes
                             {"fault": "flip", "at": 100, "path": "/resolve/"}    byte 100 of the body has one bit wrong
                             {"fault": "silent", "seconds": 2}                    no answer before that
    GET    /admin/failures   what is still to come      DELETE: nothing any more
    GET    /admin/requests   method, path, status, bytes, and whether a token was sent      DELETE: forget them
    POST   /admin/repos      {"repo": "lab/model", "disabled": true}     what the Hub's staff can do, and owners cannot

``path`` is a regular expression that is searched for in the path. ``limit`` tells the wait by the Hub's own RateLimit
headers, and not by Retry-After. A fault of the body befalls GET alone. Answered on loopback only.
"""

import asyncio
import json
import re
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.local_hub.store import Store

LOOPBACK = ("127.0.0.1", "::1", "testclient")
REMEMBERED = 10_000
Fault = Literal["status", "cut", "flip", "silent"]


@dataclass
class Failure:
    """Answers that are still to be spoilt."""

    status: int = 0
    """Of the refusal; 0 where the answer is spoilt in another way."""
    count: int = 1
    path: str = ""
    retry_after: int | None = None
    limit: bool = False
    fault: Fault = "status"
    at: int = 0
    """Byte of the body where it is cut, or which is flipped."""
    seconds: float = 0

    def check(self) -> None:
        """Raise ValueError or re.error, with what is wrong."""
        re.compile(self.path)
        if self.fault not in get_args(Fault) or self.count < 1 or self.at < 0:
            raise ValueError(f"fault is one of {get_args(Fault)}, count at least 1, and at no less than 0")
        if (self.fault == "status") != (self.status in range(400, 600)):
            raise ValueError("status is 400 to 599, and left out where there is another fault")

    def befalls(self, scope: Scope) -> bool:
        """Whether this request is spoilt."""
        spoils_bodies = self.fault in ("cut", "flip")
        return (
            self.count > 0
            and re.search(self.path, scope["path"]) is not None
            and (scope["method"] == "GET" or not spoils_bodies)
        )

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

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self.app = app
        self.store = store
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
        seen["signed"] = "authorization" in request.headers
        self.requests.append(seen)

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            elif message["type"] == "http.response.body":
                seen["bytes"] += len(message.get("body", b""))
            await send(message)

        failure = next((f for f in self.failures if f.befalls(scope)), None)
        if failure is None:
            return await self.app(scope, receive, counting)
        failure.count -= 1
        if failure.fault == "silent":
            await asyncio.sleep(failure.seconds)
        if failure.fault != "status":
            return await self.app(scope, receive, _spoilt(failure, counting))
        answer = JSONResponse({"error": "as told by /admin/failures"}, failure.status, headers=failure.headers)
        await answer(scope, receive, counting)

    async def _pull(self, request: Request) -> Response:
        if request.client is None or request.client.host not in LOOPBACK:
            return JSONResponse({"error": "levers are for this host only"}, 403)
        lists: dict[str, list[Failure] | deque[dict[str, Any]]] = {
            "/admin/failures": self.failures,
            "/admin/requests": self.requests,
        }
        if (request.url.path, request.method) == ("/admin/repos", "POST"):
            return self._set_repo(json.loads(await request.body()))
        kept = lists.get(request.url.path)
        if kept is None:
            return JSONResponse({"error": "there are /admin/failures, /admin/requests and /admin/repos"}, 404)
        if request.method == "DELETE":
            kept.clear()
        elif request.method == "POST" and kept is self.failures:
            try:
                failure = Failure(**json.loads(await request.body()))
                failure.check()
            except (TypeError, ValueError, re.error) as error:
                return JSONResponse({"error": str(error)}, 400)
            self.failures.append(failure)
        elif request.method != "GET":
            return JSONResponse({"error": f"no {request.method} here"}, 405)
        shown = [f if isinstance(f, dict) else asdict(f) for f in kept]
        return JSONResponse([f for f in shown if f.get("count", 1) > 0])

    def _set_repo(self, asked: dict[str, Any]) -> Response:
        """Disable a repository, or enable it again."""
        repo = self.store.repo(str(asked.get("repo")))
        if repo is None or not isinstance(asked.get("disabled"), bool):
            return JSONResponse({"error": f"{asked}: expected a repo that is there, and disabled true or false"}, 400)
        with self.store.locked(repo.repo_id):
            self.store.write_repo(replace(repo, disabled=asked["disabled"]))
        return JSONResponse({"repo": repo.repo_id, "disabled": asked["disabled"]})


def _spoilt(failure: Failure, send: Send) -> Send:
    """``send`` with a body that is cut or has one bit wrong; the headers promise the whole and sound one."""
    sent = 0

    async def spoiling(message: Message) -> None:
        nonlocal sent
        if message["type"] != "http.response.body" or failure.fault == "silent":
            return await send(message)
        body, start = bytearray(message.get("body", b"")), sent
        sent += len(body)
        if failure.fault == "flip" and start <= failure.at < sent:
            body[failure.at - start] ^= 1
        if failure.fault == "cut":
            # The last part is never sent, so the server closes the connection on an answer that is not complete.
            body = body[: max(0, failure.at - start)]
            if not body:
                return None
            return await send({**message, "body": bytes(body), "more_body": True})
        await send({**message, "body": bytes(body)})

    return spoiling
