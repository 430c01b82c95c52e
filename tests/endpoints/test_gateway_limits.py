"""Who is let in, and how much of what: keys, size, time and number, each refused in OpenAI's error shape."""

import asyncio
import socket

import aiohttp
import httpx
import pytest

ANNA, JON, OWN = "anna-0123456789abcdef", "jon-0123456789abcdef", "own-0123456789abcdef"
LIMITS = {"body_bytes": 1000, "upload_seconds": 1.0, "request_seconds": 3.0, "in_flight": 4}


@pytest.fixture(scope="module")
def gateway(start_gateway):
    running = start_gateway(keys=f"anna:{ANNA}:2,jon:{JON}", own_key=OWN, limits=LIMITS)
    running.headers = {"authorization": f"Bearer {OWN}"}
    return running


@pytest.fixture(scope="module")
def blue(upstream):
    return upstream("b")[0]


def by(key):
    return {"authorization": f"Bearer {key}"}


def post(gateway, headers, **body):
    asked = {"model": "eu", "prompt": "q", **body}
    return httpx.post(f"{gateway.url}/v1/completions", json=asked, headers=headers, timeout=30)


def error(answer, status, code):
    """The sentence of an error, when it has the shape that OpenAI's clients read."""
    assert answer.status_code == status, answer.text
    told = answer.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert told["code"] == code
    return told["message"]


@pytest.mark.parametrize("headers", [{}, by("nobody-0123456789abcdef"), {"authorization": ANNA}])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_without_a_known_key_nobody_is_let_in(gateway, blue, headers, path):
    gateway.route(blue)
    asked = {"model": "eu", "prompt": "q"}
    message = error(httpx.post(f"{gateway.url}{path}", json=asked, headers=headers), 401, "invalid_api_key")
    assert "Authorization: Bearer" in message
    error(httpx.get(f"{gateway.url}/v1/models", headers=headers), 401, "invalid_api_key")
    assert httpx.get(f"{gateway.url}/health").status_code == 200


def test_each_known_key_is_let_in_and_only_our_own_sees_the_routes(gateway, blue):
    gateway.route(blue)
    for key in (ANNA, JON, OWN):
        assert post(gateway, by(key)).status_code == 200
        seen = httpx.get(f"{gateway.url}/empelt/routes", headers=by(key)).status_code
        assert seen == (200 if key == OWN else 401)


def test_no_key_is_written_or_shown_anywhere(gateway, blue):
    gateway.route(blue)
    post(gateway, by(ANNA))
    post(gateway, by("wrong-0123456789abcdef"))
    pids = [gateway.process.pid, gateway.worker()]
    for shown in [gateway.log(), *(open(f"/proc/{p}/{f}").read() for p in pids for f in ("cmdline", "environ"))]:
        assert not any(key in shown for key in (ANNA, JON, OWN, "wrong-0123456789abcdef"))


def test_a_body_that_is_too_large_is_a_413(gateway, blue):
    gateway.route(blue)
    assert "1000 bytes" in error(post(gateway, by(ANNA), prompt="x" * 1000), 413, "request_too_large")


def test_a_body_that_does_not_arrive_is_a_408(gateway, blue):
    gateway.route(blue)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ANNA}\r\ncontent-length: 50\r\n\r\n{{"
    with socket.create_connection(("127.0.0.1", gateway.config["port"])) as connection:
        connection.sendall(head.encode())
        connection.settimeout(20)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "request_too_slow"' in answer


def test_a_request_that_takes_too_long_is_a_504(gateway, blue):
    gateway.route(blue)
    assert "longer than 3 s" in error(post(gateway, by(ANNA), wait=10), 504, "timeout")


@pytest.mark.parametrize(
    ("keys", "let_in", "said"),
    [((ANNA,) * 4, 2, "2 requests of key 'anna' are under way"), ((JON,) * 6, 4, "the limit of this gateway is 4")],
)
def test_too_many_at_once_are_a_429_for_a_key_and_for_all(gateway, blue, keys, let_in, said):
    gateway.route(blue)

    async def ask(session, key):
        asked = {"model": "eu", "prompt": "q", "wait": 2.0}
        async with session.post(f"{gateway.url}/v1/completions", json=asked, headers=by(key)) as answer:
            return answer.status, await answer.json(), answer.headers

    async def all_of_them():
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(ask(session, key) for key in keys))

    answers = asyncio.run(all_of_them())
    refused = [(told, headers) for status, told, headers in answers if status == 429]
    assert [status for status, _, _ in answers].count(200) == let_in
    assert len(refused) == len(keys) - let_in
    for told, headers in refused:
        assert said in told["error"]["message"]
        assert (told["error"]["code"], told["error"]["type"]) == ("rate_limit_exceeded", "rate_limit_error")
        assert headers["retry-after"]
    assert post(gateway, by(ANNA)).status_code == 200, "the places were not given back"
