"""A serving host for tests: the real agent, ledger, store and gateway; launcher and instances stand for vLLM's part."""

import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tasks.domain.models import ModelRef
from tasks.domain.outputs import ReferenceOutputs, measured_facts, reference_key
from tasks.domain.prompts import prompts_for
from tasks.endpoints.agent import Agent
from tasks.endpoints.launcher_client import LauncherProcess
from tasks.endpoints.local import LocalEndpoint
from tasks.endpoints.outputs import ask_outputs
from tasks.endpoints.placement import GIB, Device
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.routes import read_routes
from tasks.endpoints.status_file import status_beside

HERE = Path(__file__).parent
RELEASE = ModelRef(repo_id="lab/instruct-v2", revision="2" * 40)
ROOMY = Device("cpu", "cpu", memory_bytes=32 * GIB)
ONE_SLOT = Device("cpu", "cpu", memory_bytes=32 * GIB, max_instances=1)


class Host:
    """One serving host: its agent can be stopped and started again, its launcher stays."""

    def __init__(self, folder, store, ledger, gateway):
        self.folder, self.store, self.ledger, self.gateway = folder, store, ledger, gateway
        self.launcher = LauncherProcess(
            python=Path(sys.executable),
            script=HERE / "fake_launcher.py",
            socket=folder / "launcher.sock",
            logs=folder / "logs",
        )
        self.endpoint = LocalEndpoint(ledger, gateway=gateway.url, profile=ServingProfile())
        self.device = ROOMY
        self._thread, self._stop = None, threading.Event()

    def agent(self):
        return Agent(
            name="local",
            state=self.ledger,
            launcher=self.launcher,
            artifacts=self.store,
            run_folder=self.folder / "run",
            routes=self.gateway.routes,
            gateway=self.gateway.url,
            devices=[self.device],
            profile=ServingProfile(),
        )

    def start(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.agent().run, args=(self._stop,))
        self._thread.start()

    def stop(self):
        self._stop.set()
        if self._thread:
            self._thread.join(30)
        self._thread = None

    def stage(self, artifact):
        return self.endpoint.stage(artifact, channel="eu", owner="test", release=RELEASE, lease_seconds=600)

    def ready(self, wanted):
        return self.endpoint.wait_ready(wanted, deadline_seconds=60)

    def switch(self, artifact):
        now = self.ledger.channel("eu")
        return self.ledger.switch_channel(
            "eu",
            digest=artifact.digest,
            release=RELEASE,
            target="eu",
            family="demo",
            expected_generation=now.generation if now else 0,
        ).generation

    def publish(self, artifact):
        wanted = self.stage(artifact)
        self.ready(wanted)
        generation = self.switch(artifact)
        self.endpoint.unstage(wanted)
        return self.endpoint.wait_visible("eu", generation=generation, deadline_seconds=60)

    def route(self, artifact):
        """Its instance, as the gateway knows it."""
        return read_routes(self.gateway.routes).instances[f"eu-{artifact.short}"]

    def judge(self, artifact, *, says=None):
        """Put on record what an artifact says as it is served now, or what another one does."""
        one, heard = self.status(artifact), self.route(says or artifact)
        answers = ask_outputs(heard.uds, f"eu@{heard.digest[:12]}", prompts_for(["eu"])).answers
        key, facts = reference_key(artifact.digest, one.serving), measured_facts(one.serving)
        told = ReferenceOutputs(key=key, artifact_digest=artifact.digest, facts=facts, answers=answers)
        assert self.ledger.record_outputs(told)

    def kill(self, artifact):
        os.kill(self.status(artifact).pid, signal.SIGKILL)

    def status(self, artifact):
        found = [s for s in self.ledger.instances() if s.digest == artifact.digest]
        return found[0] if found else None

    def answer(self, model="eu"):
        answer = self.gateway.ask(model)
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["text"][:64]
        assert text == answer.headers["x-empelt-artifact"]
        return text, answer.headers.get("x-empelt-generation")


@pytest.fixture
def host(store, ledger, gateway):
    for left in (gateway.routes, status_beside(gateway.routes)):
        left.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="em-"))
    running = Host(folder, store, ledger, gateway)
    yield running
    running.stop()
    started = running.launcher._started
    if started is not None:
        started.terminate()
        started.wait(10)
    shutil.rmtree(folder, ignore_errors=True)
