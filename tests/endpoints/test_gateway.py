"""The gateway against real upstream processes on Unix sockets."""

import asyncio
import json
import re
import signal
import socket
import time
from pathlib import Path

import aiohttp
import httpx
import pytest

from tasks.domain.errors import AddressInUse
from tasks.endpoints.gateway_config import GatewayConfig
from tasks.endpoints.routes import Routes, read_routes, write_routes
from tasks.endpoints.supervisor import Supervisor, listen

BLUE, GREEN = "b" * 64, "a" * 64


@pytest.fixture(scope="module")
def blue(upstream):
    return upstream("b")[0]


@pytest.fixture(scope="module")
def green(upstream):
    return upstream("a")[0]


def test_a_channel_is_answered_by_its_instance_and_the_headers_say_which(gateway, blue, green):
    gateway.route(blue, green, generation=7)
    answer = gateway.ask()
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"].startswith(BLUE)
    assert answer.headers["x-empelt-artifact"] == BLUE
    assert answer.headers["x-empelt-generation"] == "7"
    assert answer.headers["x-empelt-channel"] == "eu"
    assert answer.headers["x-empelt-release"] == "lab/b"


def test_a_staged_artifact_is_asked_for_by_its_pinned_name_and_has_no_generation(gateway, blue, green):
    gateway.route(blue, green)
    answer = gateway.ask("eu@aaaaaaaaaaaa")
    assert answer.json()["choices"][0]["text"].startswith(GREEN)
    assert answer.headers["x-empelt-artifact"] == GREEN
    assert "x-empelt-generation" not in answer.headers


def test_the_models_that_can_be_asked_for_are_listed(gateway, blue, green):
    gateway.route(blue, green, generation=3)
    listed = {model["id"]: model for model in httpx.get(f"{gateway.url}/v1/models").json()["data"]}
    assert set(listed) == {"eu", "eu@bbbbbbbbbbbb", "eu@aaaaaaaaaaaa"}
    assert (listed["eu"]["root"], listed["eu"]["generation"]) == (BLUE, 3)


def test_an_unknown_model_is_refused_with_the_names_of_the_known_ones(gateway, blue):
    gateway.route(blue)
    answer = gateway.ask("fr")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    assert "`fr`" in error["message"]
    assert "eu, eu@bbbbbbbbbbbb" in error["message"]


@pytest.mark.parametrize("path", ["/tokenize", "/metrics", "/invocations", "/v1/load_lora_adapter", "/behave"])
def test_a_path_that_is_not_listed_never_reaches_an_instance(gateway, blue, path):
    gateway.route(blue)
    answer = httpx.post(f"{gateway.url}{path}", json={"model": "eu", "abort": True})
    assert answer.status_code == 404
    assert path in answer.json()["error"]["message"]
    assert gateway.ask().status_code == 200


@pytest.mark.parametrize(
    ("body", "words"), [(b"{nonsense", "not JSON"), (b"[1]", "names no `model`"), (b'{"model": 3}', "names no `model`")]
)
def test_a_body_without_a_model_is_refused(gateway, blue, body, words):
    gateway.route(blue)
    answer = httpx.post(f"{gateway.url}/v1/completions", content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(gateway, blue, chunked):
    gateway.route(blue)
    body = json.dumps({"model": "eu", "prompt": "x" * 100_001}).encode()
    content = (body[i : i + 10_000] for i in range(0, len(body), 10_000)) if chunked else body
    answer = httpx.post(f"{gateway.url}/v1/completions", content=content)
    assert answer.status_code == 413
    assert "100000 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_is_passed_on_as_it_comes(gateway, blue, path):
    gateway.route(blue)
    body = {"model": "eu", "stream": True, "max_tokens": 5, "wait": 0.1}
    arrived, sent, text = [], [], ""
    with httpx.stream("POST", f"{gateway.url}{path}", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-empelt-artifact"] == BLUE
        for piece in answer.iter_text():
            text += piece
            if found := re.findall(rf"{BLUE} \d+ ([\d.]+)", piece):
                arrived.append(time.monotonic())
                sent.append(float(found[0]))
    assert len(arrived) == 5
    assert arrived[0] < sent[-1], "the first piece arrived after the last was sent: the stream was held back"
    assert text.endswith("data: [DONE]\n\n")


def test_a_switch_under_load_loses_no_request_and_never_goes_back(gateway, blue, green):
    gateway.route(blue, green, generation=1)
    found: list[tuple[float, int, str, str]] = []

    async def client(session, number, stop):
        while not stop.is_set():
            asked = f"{number}-{len(found)}-{time.monotonic_ns()}"
            at = time.monotonic()
            body = {"model": "eu", "prompt": asked, "wait": 0.02}
            async with session.post(f"{gateway.url}/v1/completions", json=body) as answer:
                text = (await answer.json())["choices"][0]["text"]
                assert text.endswith(asked)
                assert text.startswith(answer.headers["x-empelt-artifact"])
                found.append((at, answer.status, answer.headers["x-empelt-generation"], text[:64]))

    async def load():
        stop = asyncio.Event()
        async with aiohttp.ClientSession() as session:
            clients = [asyncio.ensure_future(client(session, number, stop)) for number in range(16)]
            await asyncio.sleep(0.8)
            gateway.route(green, blue, generation=2, wait=False)
            await asyncio.sleep(0.8)
            gateway.route(green, generation=2, wait=False)  # blue leaves
            await asyncio.sleep(0.5)
            stop.set()
            await asyncio.gather(*clients)

    asyncio.run(load())
    assert len(found) > 200
    assert {status for _, status, _, _ in found} == {200}
    assert {(generation, name) for _, _, generation, name in found} == {("1", BLUE), ("2", GREEN)}
    first_green = min(at for at, _, generation, _ in found if generation == "2")
    late = [at - first_green for at, _, generation, _ in found if generation == "1" and at > first_green]
    assert max(late, default=0.0) < 0.1, "blue was asked after green had answered"


def test_what_is_under_way_is_counted_on_the_instance_that_does_it(gateway, blue, green):
    gateway.route(blue, green)

    async def ask():
        async with aiohttp.ClientSession() as session:
            body = {"model": "eu", "prompt": "q", "wait": 1.5}
            asked = asyncio.ensure_future(session.post(f"{gateway.url}/v1/completions", json=body))
            await asyncio.sleep(0.5)
            gateway.route(green, generation=2, wait=False)
            await asyncio.sleep(0.3)
            async with session.get(f"{gateway.url}/empelt/routes") as answer:
                state = await answer.json()
            return state, await asked

    state, answer = asyncio.run(ask())
    assert state["channels"]["eu"]["instance"] == green.name
    assert state["in_flight"] == {green.name: 0, blue.name: 1}
    assert answer.status == 200
    assert gateway.state()["in_flight"] == {green.name: 0}


def test_an_aborted_answer_is_not_passed_on_but_asked_again_elsewhere(gateway, blue, green, behave):
    behave(blue, abort=True)
    gateway.route(blue, green)

    async def ask(stream):
        body = {"model": "eu", "prompt": "q", "stream": stream}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{gateway.url}/v1/completions", json=body) as answer:
                return answer.status, await answer.text()

    async def both():
        asked = [asyncio.ensure_future(ask(stream)) for stream in (False, True)]
        await asyncio.sleep(0.4)
        gateway.route(green, generation=2, wait=False)
        return await asyncio.gather(*asked)

    answers = asyncio.run(both())
    behave(blue, abort=False)
    for status, text in answers:
        assert status == 200
        assert GREEN in text
        assert "abort" not in text


def test_an_abort_that_nobody_else_can_answer_is_a_503_and_not_an_empty_answer(gateway, blue, behave):
    behave(blue, abort=True)
    gateway.route(blue)
    answer = gateway.ask()
    behave(blue, abort=False)
    assert answer.status_code == 503
    assert "finish_reason abort" in answer.json()["error"]["message"]
    assert answer.headers["retry-after"]


def test_a_stream_that_breaks_off_in_the_middle_ends_in_an_error_and_never_cleanly(gateway, upstream):
    instance, _ = upstream("c")
    gateway.route(instance)
    for fault in ("abort_at", "die_at"):
        body = {"model": "eu", "stream": True, "max_tokens": 5, "wait": 0.05, fault: 2}
        text = httpx.post(f"{gateway.url}/v1/completions", json=body).text
        assert f"{instance.digest} 1 " in text
        assert '"error"' in text
        assert "[DONE]" not in text
        assert '"abort"' not in text


def test_an_instance_that_is_gone_is_a_503_with_a_sentence(gateway, upstream):
    instance, process = upstream("d")
    gateway.route(instance)
    assert gateway.ask().status_code == 200
    process.kill()
    process.wait()
    answer = gateway.ask()
    assert answer.status_code == 503
    message = answer.json()["error"]["message"]
    assert "`eu` cannot be answered at this moment" in message
    assert "try again" in message


def test_a_request_waits_for_an_instance_that_is_coming(gateway, blue):
    gateway.route(None)

    async def ask():
        async with aiohttp.ClientSession() as session:
            body = {"model": "eu", "prompt": "q"}
            asked = asyncio.ensure_future(session.post(f"{gateway.url}/v1/completions", json=body))
            await asyncio.sleep(0.5)
            assert not asked.done()
            gateway.route(blue, wait=False)
            return (await asked).status

    assert asyncio.run(ask()) == 200


def test_a_client_that_hangs_up_ends_its_generation(gateway, blue, until):
    gateway.route(blue)
    body = {"model": "eu", "stream": True, "max_tokens": 500, "wait": 0.05}
    with httpx.stream("POST", f"{gateway.url}/v1/completions", json=body) as answer:
        words = answer.iter_text()
        next(words)
        assert gateway.state()["in_flight"] == {blue.name: 1}
    until(lambda: gateway.state()["in_flight"] == {blue.name: 0}, seconds=5, what="the stream to be given up")


@pytest.mark.parametrize("content", [b"", b"{half", b'{"serial": 9, "unknown": 1}'])
def test_routes_that_cannot_be_read_leave_the_last_ones_in_force(gateway, blue, content):
    gateway.route(blue)
    gateway.routes.write_bytes(content)
    time.sleep(0.2)
    assert gateway.ask().status_code == 200
    gateway.routes.unlink()
    time.sleep(0.2)
    assert gateway.ask().status_code == 200


def test_routes_are_replaced_whole(tmp_path: Path):
    path = tmp_path / "deep" / "routes.json"
    write_routes(path, Routes(serial=1))
    before = path.stat().st_ino
    write_routes(path, Routes(serial=2))
    assert path.stat().st_ino != before
    assert read_routes(path) == Routes(serial=2)
    assert [p.name for p in path.parent.iterdir()] == ["routes.json"]


def test_a_busy_port_is_refused_by_its_number(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"port {port} on 127.0.0.1 cannot be used.*another port"):
            Supervisor(lambda: GatewayConfig(routes=tmp_path / "routes.json", port=port))


def test_answers_are_sent_without_waiting_for_an_acknowledgement():
    # asyncio sets TCP_NODELAY only where the socket names its protocol; without it an answer took 48 ms.
    with listen("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_a_gateway_that_is_told_to_stop_finishes_what_is_under_way(gateway, blue):
    gateway.route(blue)

    async def ask():
        async with aiohttp.ClientSession() as session:
            body = {"model": "eu", "prompt": "q", "wait": 1.0}
            asked = asyncio.ensure_future(session.post(f"{gateway.url}/v1/completions", json=body))
            await asyncio.sleep(0.3)
            gateway.process.send_signal(signal.SIGTERM)
            answer = await asked
            return answer.status, await answer.text()

    status, text = asyncio.run(ask())
    assert status == 200
    assert BLUE in text
    assert gateway.process.wait(10) in (0, -signal.SIGTERM)
