"""The gateway against what vLLM really does when it goes wrong: what the client gets, and what the headers say.

Each fault is a real upstream process on a Unix socket, asked by a real HTTP client through a real gateway process.
"""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import pytest

BLUE, GREEN = "b" * 64, "a" * 64
SUPERVISED = {"limits": {"hold_seconds": 5.0, "idle_seconds": 4.0, "request_seconds": 20.0}}


@pytest.fixture(scope="module")
def gateway(start_gateway):
    return start_gateway(**SUPERVISED)


@pytest.fixture(scope="module")
def hasty(start_gateway):
    """The same with retries switched off: what a retry is worth is seen in what it loses."""
    return start_gateway(retry=False, **SUPERVISED)


@pytest.fixture(scope="module")
def blue(upstream):
    return upstream("b")[0]


@pytest.fixture(scope="module")
def green(upstream):
    return upstream("a")[0]


@pytest.fixture
def misbehave(behave):
    """Let an instance misbehave until the test has ended."""
    changed = []

    def _misbehave(instance, **fault):
        behave(instance, **fault)
        changed.append(instance)

    yield _misbehave
    for instance in changed:
        behave(instance)


def ask_while_moved(gateway, to, **body):
    """Ask a plain and a streamed request of channel eu; the agent moves it on ``to`` while they are unanswered."""

    async def ask(stream):
        asked = {"model": "eu", "prompt": "q", "stream": stream, **body}
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{gateway.url}/v1/completions", json=asked) as answer:
                return answer.status, await answer.text(), answer.headers

    async def both():
        asked = [asyncio.ensure_future(ask(stream)) for stream in (False, True)]
        await asyncio.sleep(0.5)
        assert not any(one.done() for one in asked)
        gateway.route(to, generation=2, wait=False)
        return await asyncio.gather(*asked)

    return asyncio.run(both())


@pytest.mark.parametrize(
    "fault",
    [{"abort": True}, {"status": 503}, {"reset": True, "times": 2}, {"served": ["ca"]}, {"says": "ca@cccccccccccc"}],
    ids=lambda fault: next(iter(fault)),
)
def test_an_instance_that_is_no_use_is_left_and_the_next_one_answers(gateway, blue, green, misbehave, fault):
    misbehave(blue, **fault)
    gateway.route(blue, green)
    if "times" in fault:  # it recovers by itself
        answer = gateway.ask()
        assert (answer.status_code, answer.headers["x-empelt-artifact"]) == (200, BLUE)
        assert answer.headers["x-empelt-retries"] == "2"
        return
    for status, text, headers in ask_while_moved(gateway, green):
        assert status == 200
        assert GREEN in text
        assert BLUE not in text
        assert (headers["x-empelt-artifact"], headers["x-empelt-generation"]) == (GREEN, "2")
        assert int(headers["x-empelt-retries"]) >= 2


@pytest.mark.parametrize("code", [500, 502, 504])
def test_an_error_is_asked_again_and_in_the_end_passed_on(gateway, blue, misbehave, code):
    gateway.route(blue)
    misbehave(blue, status=code, times=2)
    answer = gateway.ask()
    assert (answer.status_code, answer.headers["x-empelt-retries"]) == (200, "2")
    misbehave(blue, status=code)
    answer = gateway.ask()
    assert answer.status_code == code
    assert answer.json()["error"]["message"] == "it failed"


def test_a_request_that_ends_every_connection_is_not_asked_for_ever(gateway, blue, misbehave):
    gateway.route(blue)
    misbehave(blue, reset=True)
    answer = gateway.ask()
    assert answer.status_code == 503
    assert "eu` cannot be answered at this moment: " in answer.json()["error"]["message"]
    assert gateway.log().count("eu-bbbbbbbbbbbb did not answer (ServerDisconnectedError") >= 3


def test_an_instance_in_whose_place_another_model_answers_is_not_believed(gateway, blue, misbehave):
    gateway.route(blue)
    misbehave(blue, says="ca@cccccccccccc")
    for stream in (False, True):
        answer = gateway.ask(stream=stream)
        assert answer.status_code == 503
        assert "asked as eu@bbbbbbbbbbbb and answers as ca@cccccccccccc" in answer.json()["error"]["message"]


def test_an_instance_is_asked_by_the_name_of_its_artifact(gateway, blue):
    gateway.route(blue)
    assert gateway.ask().json()["model"] == "eu@bbbbbbbbbbbb"


def test_a_slow_first_byte_is_waited_for(gateway, blue):
    gateway.route(blue)
    answer = gateway.ask(stream=True, first_wait=1.0)
    assert answer.status_code == 200
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_an_instance_that_never_answers_is_a_504(gateway, blue, misbehave, stream):
    misbehave(blue, hang=True)
    gateway.route(blue)
    answer = gateway.ask(stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert ("silent for too long" if stream else "longer than 20 s") in answer.json()["error"]["message"]


def test_a_request_that_meets_kept_connections_that_are_closed_is_asked_again_over_a_new_one(gateway, upstream, behave):
    live, _ = upstream("e")
    gateway.route(live)
    with ThreadPoolExecutor(8) as many:  # so that as many connections are kept
        list(many.map(lambda _: gateway.ask(wait=0.5), range(8)))
    behave(live, stale=True)
    answer = gateway.ask()
    assert (answer.status_code, answer.headers.get("x-empelt-retries")) == (200, "1"), answer.text


@pytest.mark.parametrize("fault", ["die_at", "cut_at", "abort_at", "error_at", "end_at", "hang_at"])
def test_a_stream_that_is_not_whole_ends_in_an_error_event_and_never_cleanly(gateway, upstream, blue, behave, fault):
    instance = upstream("c")[0] if fault == "die_at" else blue
    behave(instance)
    gateway.route(instance)
    asked = {"model": "eu", "prompt": "q", "stream": True, "max_tokens": 5, fault: 2, "when_told": True}
    text = ""
    with httpx.stream("POST", f"{gateway.url}/v1/completions", json=asked, timeout=60) as answer:
        for piece in answer.iter_text():
            if f"{instance.digest} 1 " in text + piece and f"{instance.digest} 1 " not in text:
                behave(instance, go=True)  # the client has had a part
            text += piece
    events = [event for event in text.split("\n\n") if event]
    assert answer.headers["x-empelt-artifact"] == instance.digest
    assert f"{instance.digest} 1 " in text
    last = json.loads(events[-1].removeprefix("data: "))
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "stream_broken")
    assert "[DONE]" not in text
    assert '"abort"' not in text


def test_an_error_before_the_first_word_of_a_stream_is_asked_again(gateway, blue):
    gateway.route(blue)
    answer = gateway.ask(stream=True, error_at=0)
    assert answer.status_code == 503
    assert "EngineDeadError" in answer.json()["error"]["message"]


def test_an_instance_that_is_gone_is_waited_for_and_its_channel_then_answered(gateway, upstream, green):
    instance, process = upstream("d")
    gateway.route(instance)
    assert gateway.ask().status_code == 200
    process.kill()
    process.wait()
    for status, _, headers in ask_while_moved(gateway, green):
        assert (status, headers["x-empelt-artifact"]) == (200, GREEN)


@pytest.mark.parametrize("fault", [{"abort": True}, {"status": 500, "times": 1}, {"reset": True, "times": 1}])
def test_without_retries_the_first_lost_answer_is_the_last(hasty, blue, misbehave, fault):
    hasty.route(blue)
    misbehave(blue, **fault)
    assert hasty.ask().status_code in (500, 503)


# --- two versions -----------------------------------------------------------------------------------------------------
def versions(gateway, count=40, **headers):
    """Who answers each of so many requests: id -> (version, artifact)."""
    found = {}
    with httpx.Client() as client:
        for number in range(count):
            sent = {"x-request-id": f"r{number}", **headers}
            asked = {"model": "eu", "prompt": "q"}
            answer = client.post(f"{gateway.url}/v1/completions", json=asked, headers=sent)
            assert answer.status_code == 200
            said = answer.headers
            assert answer.json()["choices"][0]["text"].startswith(said["x-empelt-artifact"])
            assert ("x-empelt-generation" in said) == (said["x-empelt-version"] == "live")
            found[number] = said["x-empelt-version"], said["x-empelt-artifact"]
    return found


def test_a_canary_answers_its_share_the_same_one_each_time_and_more_as_its_weight_grows(gateway, blue, green):
    seen = []
    for weight in (0, 25, 25, 50, 100):
        gateway.route(blue, green, canary=(green, weight))
        found = versions(gateway)
        assert set(found.values()) <= {("live", BLUE), ("canary", GREEN)}
        seen.append({number for number, (version, _) in found.items() if version == "canary"})
    assert seen[0] == set()
    assert seen[1] == seen[2]
    assert set() < seen[2] < seen[3] < seen[4]
    assert len(seen[4]) == 40


def test_a_session_stays_with_one_version(gateway, blue, green):
    gateway.route(blue, green, canary=(green, 50))
    for session in ("anna", "jon", "mar"):
        assert len({*versions(gateway, 6, **{"x-session-id": session}).values()}) == 1


def test_a_canary_that_fails_costs_nobody_an_answer(gateway, blue, green, misbehave):
    misbehave(green, abort=True)
    gateway.route(blue, green, canary=(green, 100))
    assert set(versions(gateway, 5).values()) == {("live", BLUE)}
