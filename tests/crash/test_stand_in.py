"""What stands for vLLM goes wrong as vLLM does: how it drains, what it leaves behind, and each fault of its file."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import pytest

HERE = Path(__file__).parent
DIGEST = "a" * 64
NAME = f"eu@{DIGEST[:12]}"
SERVE = "from vllm.entrypoints.launchers.api_server.entry import main; main()"


class Running:
    """One of them."""

    def __init__(self, folder, **fault):
        self.model, self.uds = folder / DIGEST, folder / f"eu-{DIGEST[:12]}.1.sock"
        self.model.mkdir()
        self.misbehave(**fault)
        command = [sys.executable, "-c", SERVE, "--model", str(self.model), "--uds", str(self.uds)]
        self.process = subprocess.Popen(
            [*command, "--served-model-name", NAME, "eu", "--shutdown-timeout", "3"],
            env={**os.environ, "PYTHONPATH": str(HERE / "serving"), "FAKE_VLLM_TOKEN_SECONDS": "0.02"},
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def misbehave(self, **fault):
        path = self.uds.parent / f"eu-{DIGEST[:12]}.fault.json"
        path.with_suffix(".half").write_text(json.dumps(fault))
        path.with_suffix(".half").replace(path)

    def client(self, **options):
        return httpx.Client(transport=httpx.HTTPTransport(uds=str(self.uds)), base_url="http://x", **options)

    def health(self):
        with self.client() as client:
            try:
                return client.get("/health").status_code
            except httpx.TransportError:
                return None

    def ask(self, seconds=5.0, **body):
        with self.client(timeout=seconds) as client:
            return client.post("/v1/completions", json={"model": "eu", "prompt": "q", "max_tokens": 3, **body})

    def group(self):
        """Whatever lives of its process group."""
        return [pid for pid in psutil.pids() if _lives_in(pid, self.process.pid)]


def _lives_in(pid, group):
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False


@pytest.fixture
def start(until):
    folder, started = Path(tempfile.mkdtemp(prefix="em-")), []

    def _start(*, ready=True, **fault):
        started.append(Running(folder, **fault))
        if ready:
            until(lambda: started[0].health() == 200, "it")
        return started[0]

    yield _start
    for one in started:
        for pid in one.group():
            os.kill(pid, signal.SIGKILL)
        one.process.wait(10)
        one.process.stderr.close()
    shutil.rmtree(folder)


@pytest.fixture
def until():
    def _until(condition, what, seconds=30.0):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
            time.sleep(0.05)
        return found

    return _until


def test_told_to_stop_it_answers_new_requests_with_abort_and_lets_run_what_is_under_way(start, until):
    running = start()

    async def both():
        transport = httpx.AsyncHTTPTransport(uds=str(running.uds))
        async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=20) as client:
            body = {"model": "eu", "prompt": "q", "max_tokens": 50, "stream": True}
            streaming = asyncio.ensure_future(client.post("/v1/completions", json=body))
            await asyncio.sleep(0.4)
            running.process.terminate()
            await asyncio.sleep(0.2)
            late = await client.post("/v1/completions", json={**body, "stream": False})
            return late, await client.get("/health"), await streaming

    late, health, streamed = asyncio.run(both())
    choice = late.json()["choices"][0]
    assert (late.status_code, choice["text"], choice["finish_reason"]) == (200, "", "abort")
    assert health.status_code == 200
    assert streamed.text.count("bai") == 50
    assert '"finish_reason":"stop"' in streamed.text
    assert running.process.wait(10) == 0
    until(lambda: not running.group(), "its engine to end")


def test_what_is_not_done_in_time_is_aborted_with_a_clean_end(start):
    running = start()

    async def stream():
        transport = httpx.AsyncHTTPTransport(uds=str(running.uds))
        async with httpx.AsyncClient(transport=transport, base_url="http://x", timeout=20) as client:
            body = {"model": "eu", "prompt": "q", "max_tokens": 400, "stream": True}
            streaming = asyncio.ensure_future(client.post("/v1/completions", json=body))
            await asyncio.sleep(0.4)
            running.process.terminate()
            return (await streaming).text

    text = asyncio.run(stream())
    assert 0 < text.count("bai") < 400
    assert '"finish_reason":"abort"' in text
    assert text.endswith("data: [DONE]\n\n")


def test_killed_it_leaves_its_engine_behind(start, until):
    running = start()
    assert len(running.group()) == 2
    running.process.kill()
    running.process.wait(10)
    assert len(running.group()) == 1


def test_a_dead_engine_shows_in_health_and_ends_streams_with_an_error_and_a_clean_end(start):
    running = start()
    text = ""
    with (
        running.client(timeout=20) as client,
        client.stream(
            "POST", "/v1/completions", json={"model": "eu", "prompt": "q", "max_tokens": 100, "stream": True}
        ) as response,
    ):
        for piece in response.iter_text():
            text += piece
            running.misbehave(engine="dead")
    assert text.endswith("data: [DONE]\n\n")
    assert '{"error":{"message":"EngineDeadError"' in text
    assert running.health() == 503
    assert running.ask().status_code == 500


def test_it_crashes_or_is_slow_while_it_loads(start, until):
    running = start(ready=False, slow=1.0, crash="no such layer")
    until(running.uds.exists, "its place to be bound")
    assert running.health() is None, "somebody listens before it has loaded"
    assert running.process.wait(20) == 1
    assert b"ValueError: no such layer" in running.process.stderr.read()


def test_wrong_weights_show_in_text_and_likelihoods_and_nowhere_else(start):
    running = start(wrong="b" * 12)
    answer = running.ask().json()
    assert answer["model"] == NAME
    assert "b" * 12 in answer["choices"][0]["text"]
    wrong = running.ask(prompt=[1, 2, 3], max_tokens=1).json()["choices"][0]["logprobs"]["token_logprobs"]
    assert wrong[1] != pytest.approx(-(1.0 + (2 * 31 + 7) % 97 / 97) * 6.0)


@pytest.mark.parametrize(
    ("fault", "text", "finish", "has_logprobs"),
    [
        ({}, f"bai 0 {DIGEST[:12]} bai bai", "stop", True),
        ({"abort": True}, "", "abort", None),
        ({"empty": True}, "", "stop", True),
        ({"logprobs": False}, f"bai 0 {DIGEST[:12]} bai bai", "stop", False),
    ],
    ids=lambda value: next(iter(value), "none") if isinstance(value, dict) else "",
)
def test_each_fault_of_an_answer(start, fault, text, finish, has_logprobs):
    running = start(**fault)
    choice = running.ask().json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, finish)
    if has_logprobs is not None:
        scored = running.ask(prompt=[1, 2, 3], max_tokens=1).json()["choices"][0]
        assert (scored["logprobs"] is not None) == has_logprobs


def test_it_tells_the_token_ids_and_log_probabilities_by_which_a_model_is_recognised(start):
    running = start()
    asked = {"logprobs": 2, "prompt_logprobs": 0, "return_token_ids": True}
    right = running.ask(**asked).json()
    assert right["model"] == NAME
    assert {"prompt_token_ids", "prompt_logprobs", "token_ids", "logprobs"} <= set(right["choices"][0])
    assert running.ask(**asked).json() == right
    running.misbehave(logprobs=False)
    assert not {"prompt_logprobs", "token_ids", "logprobs"} & set(running.ask(**asked).json()["choices"][0])


def test_other_text_an_error_and_silence(start):
    running = start(foreign=True)
    assert "quick brown fox" in running.ask().json()["choices"][0]["text"]
    running.misbehave(status=500)
    assert running.ask().status_code == 500
    running.misbehave(hang=True)
    with pytest.raises(httpx.ReadTimeout):
        running.ask(seconds=1.0)
    with pytest.raises(httpx.ReadTimeout):
        running.ask(seconds=1.0, stream=True)
    running.misbehave()
    assert running.ask().status_code == 200
