"""One serving host as `empelt up` starts it: gateway, launcher and agent, by the product's own commands.

Prefect's server and the workers are left out: flows only write what they want into the ledger and wait, and that is
done here directly. With `fake` instances the launcher is the real one, and what it imports as vLLM stands for it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tasks.domain.models import ChannelState, ModelRef
from tasks.doors import open_ledger, open_store
from tasks.endpoints.launcher_client import LauncherClient
from tasks.endpoints.local import LocalEndpoint
from tasks.endpoints.probe import ask_gateway
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.routes import read_routes
from tasks.processes import end_processes, marked_processes
from tasks.settings import settings
from tasks.store.artifacts import ArtifactStore
from tasks.store.ledger import Ledger
from tests.soak.records import Loaded, Written

ROOT = Path(__file__).parents[2]
FAKE_PYTHON = ROOT / "tests" / "crash" / "serving" / "python"
REAL_PYTHON = ROOT / ".venv-serving" / "bin" / "python"
LAUNCHER = ROOT / "infra" / "serving" / "launcher.py"
MARK = "EMPELT_INSTANCE"
CHANNEL = "eu"
TOKEN_SECONDS = "0.04"
"""Of a fake instance: a stream of 60 tokens takes 2.4 s."""
PROFILE = ServingProfile(dtype="float32", max_model_len=512, max_num_seqs=64, kv_mib=128)
MEMORY_GIB = 4
"""Room for two instances, not for three: what is staged takes the place of what is kept warm."""


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition found.

    Raises:
        TimeoutError: naming what was waited for.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise TimeoutError(f"waited {seconds:.0f} s for {what}")


class Host:
    """The processes, and how one talks to them."""

    def __init__(self, home: Path, port: int, *, instances: str, variables: Mapping[str, str] | None = None) -> None:
        """Start nothing yet; what is in the home is removed. ``variables`` are of all its processes."""
        shutil.rmtree(home, ignore_errors=True)
        for folder in (home / "run", home / "logs"):
            folder.mkdir(parents=True)
        self.home, self.url, self.is_fake = home, f"http://127.0.0.1:{port}", instances == "fake"
        self.mark = str(uuid.uuid4())
        self.python = FAKE_PYTHON if self.is_fake else REAL_PYTHON
        self.environment = {
            **os.environ,
            "EMPELT_HOME": str(home),
            "EMPELT_GATEWAY_PORT": str(port),
            "EMPELT_SERVING_PYTHON": str(self.python),
            "EMPELT_DEVICE_MEMORY_GIB": str(MEMORY_GIB),
            "FAKE_VLLM_TOKEN_SECONDS": TOKEN_SECONDS,
            "CRASH_MATRIX_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            MARK: self.mark,
            **(variables or {}),
        }
        self.ledger = Ledger.open(f"sqlite:///{home / 'ledger.db'}")
        self.store = ArtifactStore(home / "store")
        self.endpoint = LocalEndpoint(self.ledger, gateway=self.url, profile=PROFILE)
        self.launcher = LauncherClient(home / "run" / "launcher.sock")
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """All of it, until the gateway answers and the agent has been heard of."""
        self._begin("gateway")
        self._begin("launcher")
        until(self._answers, 120, "the gateway")
        until((self.home / "run" / "launcher.sock").exists, 240, "the launcher")
        self._begin("agent")
        until(self.ledger.agent_last_seen, 120, "the agent")

    def kill_agent(self) -> float:
        """SIGKILL; a new one as `empelt up` starts it again. Returns when it was killed."""
        self.children["agent"].kill()
        at = time.monotonic()
        self.children["agent"].wait()
        seen = self.ledger.agent_last_seen()
        self._begin("agent")
        until(lambda: self.ledger.agent_last_seen() != seen, 120, "a heartbeat of the new agent")
        return at

    def restart_gateway(self) -> float:
        """SIGHUP, until the new worker answers and the old one has left. Returns when it was asked."""
        log = self.home / "logs" / "gateway.out"
        before = log.read_text(errors="replace")
        at = time.monotonic()
        self.children["gateway"].send_signal(signal.SIGHUP)

        def has_left() -> bool:
            fresh = log.read_text(errors="replace")[len(before) :]
            return " answers" in fresh and " has left" in fresh

        until(has_left, 240, "the gateway's new worker to answer and the old one to leave")
        return at

    def kill_instance(self, digest: str, *, seconds: float = 240.0) -> float:
        """SIGKILL of its first process, until it answers again, for at most so long. Returns when it was killed."""
        pid = until(lambda: self.pid_of(digest), 60, f"a process of {digest[:12]}")
        os.kill(pid, signal.SIGKILL)
        at = time.monotonic()
        until(lambda: self.pid_of(digest) not in (None, pid), seconds, f"{digest[:12]} to be started again")
        until(lambda: self.answers_for() == digest, seconds, f"{digest[:12]} to answer for {CHANNEL} again")
        return at

    def switch(self, digest: str, release: ModelRef, expected: int) -> ChannelState:
        """Point the channel at an artifact, in the ledger."""
        return self.ledger.switch_channel(
            CHANNEL, digest=digest, release=release, target="eu", family="soak", expected_generation=expected
        )

    def confirm(self, generation: int, seconds: float) -> None:
        """Wait until the gateway routes by it, and a real request was answered by it."""
        self.endpoint.wait_visible(CHANNEL, generation=generation, deadline_seconds=seconds)

    def answers_for(self) -> str | None:
        """The digest that the gateway routes the channel to."""
        state = ask_gateway(self.url)
        routes = read_routes(self.home / "run" / "routes.json")
        if state is None or routes is None:
            return None
        name = state.channels.get(CHANNEL, (0, None))[1]
        return routes.instances[name].digest if name is not None and name in routes.instances else None

    def switch_seconds(self, generation: int) -> float:
        """How long the gateway took to send by this generation, from the writing of the routes on.

        Raises:
            TimeoutError: the gateway does not say so.
        """

        def said() -> tuple[float] | None:
            state = ask_gateway(self.url)
            told = state.switches.get(CHANNEL) if state is not None else None
            return (told[1],) if told is not None and told[0] == generation else None

        found: tuple[float] = until(said, 10, f"the gateway to say how long the switch to generation {generation} took")
        return found[0]

    def until_not_tried(self) -> None:
        """Until the gateway sends nobody to a canary any more."""
        until(lambda: (state := ask_gateway(self.url)) is not None and not state.canaries, 30, "the canary to be gone")

    def misbehave(self, digest: str, **fault: object) -> None:
        """Tell every fake instance of an artifact what to do wrong from now on; nothing: it recovers."""
        path = self.home / "run" / f"{CHANNEL}-{digest[:12]}.fault.json"
        half = path.with_suffix(".half")
        half.write_text(json.dumps(fault))
        half.replace(path)

    def end(self) -> list[str]:
        """SIGTERM to all, in the order of `empelt up`; then whatever is left is killed. What that was."""
        for name in ("agent", "gateway", "launcher"):
            child = self.children.get(name)
            if child is not None and child.poll() is None:
                child.terminate()
                try:
                    child.wait(90)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        self.ledger.close()
        left = marked_processes(self.mark, MARK)
        names = [_described(process) for process in left]
        end_processes(left, grace_seconds=0)
        return names

    def pid_of(self, digest: str) -> int | None:
        """Of the first process of a ready instance."""
        found = [one for one in self.ledger.instances() if one.digest == digest and one.state == "ready"]
        return found[0].pid if found else None

    def _begin(self, name: str) -> None:
        command = [sys.executable, "-m", "deployments", name]
        if name == "launcher":
            sockets = ("--socket", str(self.launcher.path), "--logs", str(self.home / "logs"))
            command = [str(self.python), str(LAUNCHER), "--die-with-parent", *sockets]
        with (self.home / "logs" / f"{name}.out").open("ab") as out:
            self.children[name] = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def named(host: Host) -> Iterator[None]:
    """What the product does in this process is done in this host's home meanwhile."""
    names = ("EMPELT_HOME", "EMPELT_GATEWAY_PORT")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: host.environment[name] for name in names})
    for door in (settings, open_ledger, open_store):
        door.cache_clear()
    try:
        yield
    finally:
        open_ledger().close()
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {name: value} if value is not None else {}
        for door in (settings, open_ledger, open_store):
            door.cache_clear()


class Watch(threading.Thread):
    """Writes down every file of routes, and what the gateway says to have loaded."""

    def __init__(self, routes: Path, url: str) -> None:
        super().__init__(daemon=True)
        self._path, self._url = routes, url
        self._over = threading.Event()
        self._ahead = time.time() - time.monotonic()
        self.written: list[Written] = []
        self.loaded: list[Loaded] = []

    def run(self) -> None:
        """Until stopped."""
        next_look = 0.0
        while not self._over.wait(0.01):
            self._look_at_routes()
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + 0.2
                state = ask_gateway(self._url)
                if state is not None and state.serial >= 0:
                    self.loaded.append(Loaded(time.monotonic(), state.serial))

    def stop(self) -> None:
        """End it."""
        self._over.set()
        if self.is_alive():
            self.join(30)

    def _look_at_routes(self) -> None:
        try:
            written = self._path.stat().st_mtime
            routes = read_routes(self._path)
            again = self._path.stat().st_mtime
        except OSError:
            return
        if routes is None or written != again or (self.written and self.written[-1].serial == routes.serial):
            return
        route = routes.channels.get(CHANNEL)
        names = {name: one.digest for name, one in routes.instances.items()}
        canary = route.canary.instance if route and route.canary and route.canary.weight > 0 else ""
        self.written.append(
            Written(
                at=written - self._ahead,
                serial=routes.serial,
                instance=names.get(route.instance) if route and route.instance else None,
                generation=route.generation if route else 0,
                canary=names.get(canary, ""),
            )
        )


def _described(process: psutil.Process) -> str:
    try:
        return f"{' '.join(process.cmdline()[:6])[:120]} (pid {process.pid})"
    except psutil.Error:
        return f"pid {process.pid}"
