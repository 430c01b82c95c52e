"""Processes for the endpoint tests: our gateway, and upstreams that stand for vLLM. All end with their tests."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest

from tasks.endpoints.routes import ChannelRoute, InstanceRoute, Routes, write_routes
from tasks.store.artifacts import ArtifactStore
from tasks.store.ledger import Ledger

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def until(condition, *, seconds=40.0, what="it"):
    """Wait for a condition; fails with what it was waiting for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"waited {seconds} s for {what}")


@pytest.fixture(name="until")
def _until():
    return until


@pytest.fixture(scope="module")
def short_folder():
    """Unix sockets allow 107 characters, and pytest's folders are longer."""
    folder = Path(tempfile.mkdtemp(prefix="em-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def spawn():
    """Start processes that end with the tests of this file."""
    started = []

    def _spawn(*command, **options):
        process = subprocess.Popen([str(part) for part in command], cwd=ROOT, **options)
        started.append(process)
        return process

    yield _spawn
    for process in started:
        process.kill()
    for process in started:
        process.wait(10)


@pytest.fixture(scope="module")
def upstream(spawn, short_folder):
    """Start an upstream whose answers begin with the 64-digit name of its model folder."""

    def _upstream(letter):
        digest = letter * 64
        model = short_folder / digest
        model.mkdir(exist_ok=True)
        uds = short_folder / f"{letter}.{time.monotonic_ns() % 10**6}.sock"
        process = spawn(sys.executable, HERE / "fake_vllm.py", "--uds", uds, "--model", model)
        until(lambda: up(uds), what=f"upstream {letter}")
        instance = InstanceRoute(
            name=f"eu-{digest[:12]}", channel="eu", digest=digest, uds=str(uds), release=f"lab/{letter}"
        )
        return instance, process

    return _upstream


def up(uds):
    if not uds.exists():
        return False
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(uds))) as client:
        try:
            return client.get("http://x/health").status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture(scope="module")
def gateway(spawn, short_folder, free_port):
    """Start the gateway in a process of its own; returns its address and its routes file."""
    routes = short_folder / "routes.json"
    code = (
        "import sys; from pathlib import Path; from tasks.endpoints.gateway import run_gateway; "
        "run_gateway(Path(sys.argv[1]), port=int(sys.argv[2]), max_body_bytes=100_000, hold_seconds=5.0)"
    )
    process = spawn(sys.executable, "-c", code, routes, free_port, env={**os.environ, "PYTHONPATH": str(ROOT)})
    url = f"http://127.0.0.1:{free_port}"

    def answers():
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.TransportError:
            return False

    until(answers, what="the gateway")
    return Running(url, routes, process)


class Running:
    """A gateway that runs."""

    def __init__(self, url, routes, process):
        self.url, self.routes, self.process, self.serial = url, routes, process, 0

    def route(self, live, *others, generation=1, wait=True):
        """Route channel eu to ``live``, with ``others`` beside it, as the agent would."""
        self.serial += 1
        known = {one.name: one for one in (live, *others) if one}
        channel = ChannelRoute(generation=generation, instance=live.name if live else None, coming=live is None)
        write_routes(self.routes, Routes(serial=self.serial, channels={"eu": channel}, instances=known))
        if wait:
            until(lambda: self.state()["serial"] == self.serial, what="the gateway to load its routes")

    def state(self):
        return httpx.get(f"{self.url}/empelt/routes").json()

    def ask(self, model="eu", **body):
        return httpx.post(f"{self.url}/v1/completions", json={"model": model, "prompt": "q", **body}, timeout=30)


def behave(instance, **behaviour):
    with httpx.Client(transport=httpx.HTTPTransport(uds=instance.uds)) as client:
        client.post("http://x/behave", content=json.dumps(behaviour)).raise_for_status()


@pytest.fixture(name="behave")
def _behave():
    return behave


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "store")


@pytest.fixture
def make_artifact(store, tmp_path):
    """Put a small model folder into the store; ``fault`` is what the fake vLLM does with it."""

    def _make(text, **config):
        folder = tmp_path / f"made-{text}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(text.encode() * 100)
        (folder / "config.json").write_text(json.dumps({"text": text, **config}))
        (folder / "tokenizer.json").write_text("{}")
        return store.adopt(folder)

    return _make


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened
