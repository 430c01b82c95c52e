"""One installation as its users see it: the command, the endpoint, Prefect's API. Nothing of ours is imported."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
FAMILY, TARGET, CHANNEL = "llama-tiny", "eu", "eu"


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: Any


def ask(url: str, body: dict[str, Any] | None = None, seconds: float = 60) -> Answer:
    """One request; refusals are answers too.

    Again while Prefect is too busy to write (503, `database is locked` on SQLite), as Prefect's own client does.
    """
    deadline = time.monotonic() + 60
    while True:
        answer = _ask_once(url, body, seconds)
        if answer.status != 503 or "/api/" not in url or time.monotonic() > deadline:
            return answer
        time.sleep(1)


def _ask_once(url: str, body: dict[str, Any] | None, seconds: float) -> Answer:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    try:
        response = urllib.request.urlopen(request, timeout=seconds)
    except urllib.error.HTTPError as refusal:
        response = refusal
    with response:
        text = response.read().decode()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, json.loads(text) if text.startswith(("{", "[")) else text)


@dataclass(frozen=True)
class Installation:
    """Where everything is; as EMPELT_HOME, EMPELT_PREFECT_PORT and EMPELT_GATEWAY_PORT say."""

    home: Path
    prefect_port: int
    gateway_port: int

    @property
    def ui(self) -> str:
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Our own environment, with this installation named."""
        named = {
            "EMPELT_HOME": str(self.home),
            "EMPELT_PREFECT_PORT": str(self.prefect_port),
            "EMPELT_GATEWAY_PORT": str(self.gateway_port),
        }
        return {**os.environ, **named}

    def is_up(self) -> bool:
        """Whether gateway and Prefect answer."""
        try:
            return all(
                ask(url, seconds=5).status == 200 for url in (f"{self.endpoint}/health", f"{self.ui}/api/health")
            )
        except OSError:
            return False

    def empelt(self, *arguments: str, seconds: float = 240) -> dict[str, Any]:
        """What ``empelt ... --json`` prints."""
        command = [sys.executable, "-m", "deployments", *arguments, "--json"]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stderr}"
        return dict(json.loads(done.stdout))

    def channel(self) -> dict[str, Any]:
        """The channel's line of ``empelt status``."""
        rows = self.empelt("status")["channels"]
        return next(row for row in rows if row["channel"] == CHANNEL)

    def chat(self, question: str) -> Answer:
        """One question to the channel."""
        body = {
            "model": CHANNEL,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 40,
        }
        return ask(f"{self.endpoint}/v1/chat/completions", body)

    def runs(self, flow: str, **more: Any) -> list[dict[str, Any]]:
        """Runs of a flow, the newest first; ``more`` narrows them as Prefect's API has it."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "flow_runs": more, "sort": "START_TIME_DESC", "limit": 200}
        return list(ask(f"{self.ui}/api/flow_runs/filter", wanted).body)

    def run(self, identity: str) -> dict[str, Any]:
        """One flow run."""
        return dict(ask(f"{self.ui}/api/flow_runs/{identity}").body)

    def has_running_task(self, run: str, word: str) -> bool:
        """Whether a task of this run whose name begins with ``word`` is running."""
        wanted = {"flow_runs": {"id": {"any_": [run]}}, "task_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        return any(task["name"].startswith(word) for task in ask(f"{self.ui}/api/task_runs/filter", wanted).body)

    def artifact(self, key: str) -> dict[str, Any]:
        """The newest artifact with this key."""
        wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
        return dict(ask(f"{self.ui}/api/artifacts/filter", wanted).body[0])

    def processes(self) -> list[psutil.Process]:
        """Every process that carries this home's EMPELT_INSTANCE."""
        identity, found = (self.home / "instance-id").read_text().strip(), []
        for process in psutil.process_iter():
            try:
                if process.environ().get("EMPELT_INSTANCE") == identity and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def named_installation() -> Installation:
    """The one that EMPELT_* names; the demo's, with the default ports, if none is named."""
    return Installation(
        home=Path.cwd() / os.environ.get("EMPELT_HOME", ".empelt/demo"),
        prefect_port=int(os.environ.get("EMPELT_PREFECT_PORT", "4200")),
        gateway_port=int(os.environ.get("EMPELT_GATEWAY_PORT", "8700")),
    )


def until(condition: Callable[[], Any], *, seconds: float, what: str, every: float = 0.5) -> Any:
    """Wait for a condition and return what it found; fails with what it was waiting for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(every)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def names(runs: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Name and state of each run, for assertions that say what they saw."""
    return [(run["name"], run["state"]["name"]) for run in runs]
