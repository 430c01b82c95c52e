"""Processes for the endpoint tests: our gateway, and upstreams that stand for vLLM. All end with their tests."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tasks.endpoints.routes import Canary, ChannelRoute, InstanceRoute, Routes, write_routes
from tasks.store.artifacts import ArtifactStore
from tasks.store.ledger import Ledger
from tests.endpoints.serving_host import host  # noqa: F401  a fixture of several files

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


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


@pytest.fixture(scope="module")
def start_gateway(spawn, short_folder):
    """Start a gateway, supervisor and worker, with a folder of its own; returns how to talk to it."""
    count = iter(range(100))

    def _start(limits=None, **config):
        folder = short_folder / f"g{next(count)}"
        folder.mkdir()
        limits = {"body_bytes": 100_000, "hold_seconds": 5.0, **(limits or {})}
        config = {"routes": str(folder / "routes.json"), "port": free_port(), "limits": limits, **config}
        running = Running(folder, config)
        with (folder / "log").open("wb") as log:
            running.process = spawn(
                *(sys.executable, HERE / "start_gateway.py", running.setup),
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=log,
            )
        until(running.answers, seconds=120, what="the gateway")
        return running

    return _start


@pytest.fixture(scope="module")
def gateway(start_gateway):
    """A gateway for the tests of one file."""
    return start_gateway()


class Running:
    """A gateway that runs."""

    def __init__(self, folder, config):
        self.folder, self.config, self.setup = folder, config, folder / "setup.json"
        self.url, self.routes = f"http://127.0.0.1:{config['port']}", Path(config["routes"])
        self.process, self.serial, self.headers = None, 0, {}
        self.write()

    def write(self, **changes):
        """The set-up that the next start or restart reads."""
        self.config |= changes
        self.setup.write_text(json.dumps(self.config))

    def answers(self):
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def log(self):
        return (self.folder / "log").read_text()

    def worker(self):
        """The pid of the worker that was started last."""
        return int(until(lambda: re.findall(r"worker (\d+) answers", self.log()), what="the supervisor to say so")[-1])

    def route(self, live, *others, generation=1, canary=None, wait=True):
        """Route channel eu to ``live``, with ``others`` beside it, as the agent would; ``canary``: instance, weight, languages."""
        self.serial += 1
        known = {one.name: one for one in (live, *others) if one}
        tried = Canary(instance=canary[0].name, weight=canary[1], languages=canary[2:]) if canary else None
        name = live.name if live else None
        channel = ChannelRoute(generation=generation, instance=name, coming=live is None, canary=tried)
        write_routes(self.routes, Routes(serial=self.serial, channels={"eu": channel}, instances=known))
        if wait:
            until(lambda: self.state()["serial"] == self.serial, what="the gateway to load its routes")

    def state(self):
        return httpx.get(f"{self.url}/empelt/routes", headers=self.headers).json()

    def ask(self, model="eu", **body):
        asked = {"model": model, "prompt": "q", **body}
        return httpx.post(f"{self.url}/v1/completions", json=asked, headers=self.headers, timeout=30)

    def figures(self):
        """(name, labels) -> value, of its metrics."""
        text = httpx.get(f"http://127.0.0.1:{self.config['metrics_port']}/metrics").text
        families = text_string_to_metric_families(text)
        return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


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
