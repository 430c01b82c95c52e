"""A Hub that is busy, broken or silent: a stub answers, since the local Hub is never any of these."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tasks.domain.errors import HubUnavailable, InputError, ModelRefused
from tasks.domain.models import ModelRef
from tasks.sources.failures import HubBusy
from tasks.sources.hub import HubSource

REF = ModelRef(repo_id="lab/m", revision="a" * 40)
ROW = {"_id": "0" * 24, "id": "lab/m", "sha": "a" * 40}
DATES = {"createdAt": "2026-11-20T09:00:00.000Z", "lastModified": "2026-11-20T09:00:00.000Z"}


@contextlib.contextmanager
def stub(answer: Callable[[Request], Response]) -> Iterator[HubSource]:
    """A server that gives ``answer`` to whatever it is asked."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "HEAD"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield HubSource(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_seconds=1)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def test_a_busy_hub_that_says_when_to_come_back_soon_is_asked_again() -> None:
    asked: list[float] = []

    def answer(_: Request) -> Response:
        asked.append(time.monotonic())
        if len(asked) == 1:
            return Response(status_code=429, headers={"Retry-After": "1"})
        return JSONResponse([ROW | DATES])

    with stub(answer) as source:
        assert [state.repo_id for state in source.list_organisation("lab")] == ["lab/m"]
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 1


@pytest.mark.parametrize("headers", [{"Retry-After": "120"}, {"RateLimit": '"api";r=0;t=120'}])
def test_a_hub_that_asks_for_a_long_wait_is_not_waited_for_in_the_worker(headers: dict[str, str]) -> None:
    started = time.monotonic()
    with stub(lambda _: Response(status_code=429, headers=headers)) as source:
        with pytest.raises(HubBusy, match="HTTP 429; it asks to come back in 120 s") as busy:
            source.list_organisation("lab")
        assert busy.value.retry_after_seconds == 120
    assert time.monotonic() - started < 10


def test_a_broken_hub_is_unavailable_after_a_few_tries() -> None:
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.url.path)
        return Response(status_code=503)

    with stub(answer) as source, pytest.raises(HubUnavailable, match="HTTP 503"):
        source.state("lab/m")
    assert len(asked) == 3


def test_a_silent_hub_is_unavailable_after_the_time_out() -> None:
    def answer(_: Request) -> Response:
        time.sleep(2)
        return Response()

    with stub(answer) as source, pytest.raises(HubUnavailable, match="Timeout"):
        source.read_small(REF, "config.json", 100)


def test_a_refusal_is_final_at_once() -> None:
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.url.path)
        return Response(status_code=403)

    with stub(answer) as source, pytest.raises(ModelRefused, match="HTTP 403"):
        source.state("lab/m")
    assert len(asked) == 1


def test_a_listing_without_what_a_watch_needs_is_refused_with_what_is_missing() -> None:
    with stub(lambda _: JSONResponse([ROW])) as source, pytest.raises(InputError, match="lastModified, createdAt"):
        source.list_organisation("lab")


def test_a_web_page_is_no_hub() -> None:
    with stub(lambda _: Response("<html>")) as source, pytest.raises(InputError, match="is it a Hub"):
        source.list_organisation("lab")


def test_the_token_is_not_taken_to_another_host() -> None:
    link = {"Link": '<http://localhost:9/api/models?cursor=2>; rel="next"'}
    with stub(lambda _: JSONResponse([], headers=link)) as source, pytest.raises(InputError, match="localhost:9"):
        source.list_organisation("lab")


def test_no_token_is_sent_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_home")
    seen: list[str | None] = []

    def answer(request: Request) -> Response:
        seen.append(request.headers.get("authorization"))
        return JSONResponse([])

    with stub(answer) as source:
        source.list_organisation("lab")
        HubSource(source.endpoint, token="hf_given").list_organisation("lab")
    assert seen == [None, "Bearer hf_given"]


def test_a_server_that_ignores_ranges_is_read_no_further_than_needed() -> None:
    sent: list[int] = []

    def answer(_: Request) -> Response:
        def body() -> Iterator[bytes]:
            for _ in range(2000):
                sent.append(1)
                yield bytes(65536)

        return StreamingResponse(body(), headers={"Content-Length": str(2000 * 65536)})

    with stub(answer) as source, pytest.raises(ModelRefused):
        source.read_small(REF, "config.json", 1000)
    assert len(sent) < 1000
