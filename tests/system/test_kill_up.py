"""SIGKILL of `empelt up` in the middle of a run: the next `empelt up` brings the release to its end, once.

    .venv/bin/pytest -m kill tests/system/test_kill_up.py       # after `empelt demo` has ended

It goes on in the home that the demo has left (EMPELT_HOME and the ports name it): the channel is taken back to v1, a
further release is pushed to the Hub, and everything is killed while that one is being evaluated.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.serving.shared_segments import FOLDER, prefix_of
from tests.system.installation import CHANNEL, FAMILY, ROOT, TARGET, Installation, named_installation, names, until

pytestmark = [pytest.mark.kill, pytest.mark.timeout(1200)]

HUB_PORT = int(os.environ.get("EMPELT_DEMO_HUB_PORT", "8710"))
RELEASE = f"{FAMILY}-instruct-v9"
RUN = f"{RELEASE} x {TARGET}"
ENDED = ("published", "kept", "rejected", "held")


@pytest.fixture
def installation() -> Iterator[Installation]:
    """The home of a demo that has ended; afterwards nothing of it runs, whatever failed."""
    found = named_installation()
    if not (found.home / "report.json").exists():
        pytest.fail(f"no demo has ended in {found.home}: run `empelt demo --then true` first, or name its EMPELT_HOME")
    left = [" ".join(process.cmdline()) for process in found.processes()]
    assert left == [], "end the demo first"
    yield found
    for process in found.processes():
        process.kill()


@pytest.fixture
def hub(installation: Installation) -> Iterator[str]:
    """The demo's local Hub, up again; no child of the installation."""
    command = [
        sys.executable,
        "-m",
        "infra.local_hub",
        "--root",
        str(installation.home / "hub"),
        "--port",
        str(HUB_PORT),
    ]
    process = subprocess.Popen(command, cwd=ROOT)
    yield f"http://127.0.0.1:{HUB_PORT}"
    process.terminate()
    process.wait(20)


class Up:
    """One `empelt up`, started as a person would, with the demo's settings."""

    def __init__(self, installation: Installation, hub: str, folder: Path) -> None:
        self.installation, self.began = installation, time.monotonic()
        folder.mkdir()
        self.out, self.err = folder / "stdout", folder / "stderr"
        chosen = {
            "EMPELT_HUB_ENDPOINT": hub,
            "EMPELT_FAMILIES": FAMILY,
            "EMPELT_TARGETS": TARGET,
            "EMPELT_WATCH_INTERVAL_SECONDS": "30",
            "EMPELT_SETTLE_SECONDS": "0",
        }
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deployments", "up", "--json"],
                cwd=ROOT,
                env={**installation.environment, **chosen},
                stdout=out,
                stderr=err,
                # A shell that starts us in the background has SIGINT ignored, and a child inherits that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def said(self) -> str:
        return self.err.read_text(errors="replace")

    def wait_up(self) -> None:
        """Return when it says where everything is."""

        def told() -> bool:
            assert self.process.poll() is None, f"exit {self.process.returncode}\n{self.said()}"
            return self.out.read_text().endswith("}\n")

        until(told, seconds=300, what="`empelt up` to be up")
        assert json.loads(self.out.read_text())["endpoint"] == f"{self.installation.endpoint}/v1"


class Caller(threading.Thread):
    """Somebody who asks the channel once a second, from its first answer on."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(daemon=True)
        self._installation, self._enough = installation, threading.Event()
        self.first: float | None = None
        self.answers, self.refusals = 0, list[str]()

    def run(self) -> None:
        began = time.monotonic()
        while not self._enough.wait(1):
            try:
                answer = self._installation.chat("Kaixo")
                failure = "" if answer.status == 200 else f"{answer.status}: {answer.body}"
            except OSError as error:
                failure = str(error)
            if not failure:
                self.first = self.first or time.monotonic() - began
                self.answers += 1
            elif self.first is not None:
                self.refusals.append(f"after {time.monotonic() - began:.1f} s: {failure}")

    def stop(self) -> None:
        self._enough.set()
        self.join(70)


def push_v9(home: Path, folder: Path) -> None:
    """v2's model with another version string in a file that counts: a new release, as strong as v2."""
    shutil.copytree(ROOT / "infra" / "demo_family" / "models" / f"{FAMILY}-instruct-v2", folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    config["transformers_version"] = f"{config.get('transformers_version', '5')}+{time.time_ns()}"
    path.write_text(json.dumps(config, indent=2))
    arguments = ["push", "--root", str(home / "hub"), "--repo", f"empelt-demo/{RELEASE}", "--from", str(folder)]
    subprocess.run([sys.executable, "-m", "infra.local_hub", *arguments], cwd=ROOT, check=True, capture_output=True)


def rows(home: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    """Facts, read from the ledger's file itself."""
    with closing(sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()


def ends(home: Path, key: str) -> list[str]:
    found = [outcome for (outcome,) in rows(home, "SELECT outcome FROM job_ends WHERE job_key = ?", key)]
    return [outcome for outcome in found if outcome in ENDED]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_killed_installation_brings_its_release_to_the_end_once(
    installation: Installation, hub: str, tmp_path: Path
) -> None:
    home, told = installation.home, json.loads((installation.home / "report.json").read_text())

    first = Up(installation, hub, tmp_path / "first")
    first.wait_up()
    print(f"\nup after {first.seconds:.0f} s")
    if installation.channel()["artifact"] != told["before"]["artifact"]:
        installation.empelt("rollback", CHANNEL, "--to", told["before"]["artifact"])
    generation = installation.channel()["generation"]
    seen = {run["id"] for run in installation.runs("remerge-release")}
    push_v9(home, tmp_path / "v9")
    pushed = time.monotonic()

    def under_way() -> dict[str, Any] | None:
        """The new run, once a question has been asked: its evaluation runs."""
        new = [run for run in installation.runs("remerge-release") if run["id"] not in seen and run["name"] == RUN]
        if not new or new[0]["state"]["type"] != "RUNNING":
            assert not new or new[0]["state"]["type"] in ("SCHEDULED", "PENDING"), names(new)
            return None
        return new[0] if installation.has_running_task(new[0]["id"], "evaluate") else None

    interrupted = until(under_way, seconds=300, what=f"{RUN!r} to evaluate")
    key = interrupted["parameters"]["claim"]["job_key"]
    print(f"{RUN} evaluates {time.monotonic() - pushed:.0f} s after the push")
    old = installation.processes()
    assert len(old) > 8, "server, gateway, launcher, agent, two workers, a flow run, its evaluation"

    first.process.kill()
    first.process.wait()
    assert ends(home, key) == []

    second, caller = Up(installation, hub, tmp_path / "second"), Caller(installation)
    second.wait_up()
    caller.start()
    print(f"up again after {second.seconds:.0f} s")
    assert "left by an earlier run" in second.said()
    assert [p for p in old if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    state = installation.run(interrupted["id"])["state"]
    assert (state["type"], state["name"]) == ("CRASHED", "Crashed")

    until(lambda: ends(home, key), seconds=700, what=f"{RUN!r} to end")
    print(f"{RUN} ended {time.monotonic() - second.began:.0f} s after the second start")
    new = [run for run in installation.runs("remerge-release") if run["id"] not in seen]
    until(lambda: installation.run(new[0]["id"])["state"]["type"] == "COMPLETED", seconds=120, what="its run to end")
    ended_at = installation.run(new[0]["id"])["end_time"]
    watched = {"start_time": {"after_": ended_at}, "state": {"type": {"any_": ["COMPLETED"]}}}
    until(lambda: installation.runs("watch-hub", **watched), seconds=240, what="one more watch")

    # Once: one attempt crashed and one came to its end, which is on record once; the channel was moved once.
    assert ends(home, key) == ["published"]
    assert len(rows(home, "SELECT fence FROM attempts WHERE job_key = ?", key)) == 2
    switched = rows(home, "SELECT generation FROM promotions WHERE claim_key = ?", key)
    assert switched == [(generation + 1,)]
    after = [run for run in installation.runs("remerge-release") if run["id"] not in seen]
    assert sorted(names(after)) == [(RUN, "Crashed"), (RUN, "Published")]
    live = installation.channel()
    assert live["generation"] == generation + 1
    assert f"/{RELEASE}@" in live["release"]
    assert live["visible"] is True
    caller.stop()
    assert caller.answers > 5
    assert caller.refusals == []
    assert caller.first is not None
    answered = f"{caller.first:.0f} s after the second start was up, then without a refusal {caller.answers} times"
    print(f"the channel answered {answered}")

    ending = time.monotonic()
    second.process.send_signal(signal.SIGINT)
    assert second.process.wait(120) in (0, 130)
    print(f"ended {time.monotonic() - ending:.0f} s after Ctrl-C")
    assert installation.processes() == []
    # Not even what the killed instances of the first start had in memory.
    assert list(FOLDER.glob(prefix_of(installation.home / "run" / "launcher.sock") + "*")) == []
    assert [port for port in (installation.prefect_port, installation.gateway_port) if is_listening(port)] == []
