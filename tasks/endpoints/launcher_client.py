"""Talks to the launcher: the process in vLLM's own environment that has imported vLLM once and forks instances.

One JSON line each way over a Unix socket, one connection for each question. The socket appears when the imports are
done, 17 to 30 s after the start. Instances end with their launcher, so there is never one without it.
"""

import json
import logging
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tasks.domain.errors import EndpointUnavailable, ServingMissing

RESTART_SECONDS = 5.0
"""Between two starts. A second launcher on one socket ends at once, so that a start too many does no harm."""

logger = logging.getLogger(__name__)


class LauncherFacts(NamedTuple):
    """What the launcher says about itself."""

    mode: str
    """``fork``, or ``plain`` where forking is refused."""
    why: str
    vllm: str
    device: str
    pid: int

    @property
    def image(self) -> str:
        """How a measurement names the engine: ``vllm-cpu 0.32.0 fork``."""
        return f"vllm-{self.device} {self.vllm} {self.mode}"


class Listed(NamedTuple):
    """One instance that the launcher has started."""

    name: str
    pid: int
    start_time: float
    model: str
    alive: bool
    exit_code: int | None
    uds: str
    log: str


class LauncherClient:
    """The launcher's operations. Every one raises EndpointUnavailable when the launcher does not answer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ping(self) -> LauncherFacts:
        """Ask what it is."""
        told = self._ask({"op": "ping"}, timeout_seconds=3.0)
        return LauncherFacts(
            mode=str(told.get("mode", "")),
            why=str(told.get("why", "")),
            vllm=str(told.get("vllm", "")),
            device=str(told.get("device", "")),
            pid=int(told.get("pid", 0)),
        )

    def start(
        self,
        name: str,
        *,
        model: str,
        served_names: Sequence[str],
        uds: str,
        flags: Sequence[str],
        env: Mapping[str, str],
        adapters: Mapping[str, str] | None = None,
    ) -> tuple[int, float]:
        """Start an instance; returns its pid and start time. It is not ready yet.

        ``adapters`` are folders by the name under which each answers, beside the model itself.
        """
        asked = {
            "op": "start",
            "name": name,
            "model": model,
            "served_names": list(served_names),
            "uds": uds,
            "flags": list(flags),
            "env": dict(env),
            **({"adapters": [{"name": name, "path": path} for name, path in adapters.items()]} if adapters else {}),
        }
        told = self._ask(asked, timeout_seconds=30.0)
        return int(told["pid"]), float(told["start_time"])

    def list(self) -> dict[str, Listed]:
        """Every instance that it knows, the ended ones too."""
        found = {}
        for one in self._ask({"op": "list"}, timeout_seconds=3.0)["instances"]:
            found[str(one["name"])] = Listed(
                name=str(one["name"]),
                pid=int(one["pid"]),
                start_time=float(one["start_time"]),
                model=str(one["model"]),
                alive=bool(one["alive"]),
                exit_code=one.get("exit_code"),
                uds=str(one.get("uds") or ""),
                log=str(one.get("log") or ""),
            )
        return found

    def stop(self, name: str, *, grace_seconds: float = 10.0) -> None:
        """End an instance and everything that it started; returns when all of it is gone."""
        self._ask({"op": "stop", "name": name, "grace_seconds": grace_seconds}, timeout_seconds=grace_seconds + 30.0)

    def shutdown(self) -> None:
        """End the launcher and all its instances."""
        self._ask({"op": "shutdown"}, timeout_seconds=60.0)

    def _ask(self, asked: dict[str, Any], *, timeout_seconds: float = 10.0) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout_seconds)
                connection.connect(str(self.path))
                connection.sendall(json.dumps(asked).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    told = json.loads(lines.readline() or b"null")
        except (OSError, ValueError) as error:
            raise EndpointUnavailable(
                f"the launcher at {self.path} did not answer {asked['op']!r} "
                f"({type(error).__name__}: {error}). Is it running? `empelt status` tells."
            ) from error
        if not isinstance(told, dict) or not told.get("ok"):
            reason = told.get("error", "no reason given") if isinstance(told, dict) else "it hung up without an answer"
            what = f"{asked['op']} {asked.get('name', '')}".strip()
            raise EndpointUnavailable(f"the launcher refused {what}: {reason}")
        return told


@dataclass
class LauncherProcess:
    """How to start the launcher on this host, and the one that was started from here."""

    python: Path
    """The serving environment's interpreter."""
    script: Path
    socket: Path
    logs: Path
    """Folder for the launcher's own log and one for each instance."""
    arguments: tuple[str, ...] = ()
    supervised: bool = False
    """Somebody else starts it and starts it again (`empelt up`); here it is only waited for."""
    env: Mapping[str, str] = field(default_factory=dict)
    _started: subprocess.Popen[bytes] | None = None
    _not_before: float = 0.0

    @property
    def log(self) -> Path:
        """What the launcher itself says."""
        return self.logs / "launcher.log"

    @property
    def client(self) -> LauncherClient:
        """A client of its socket."""
        return LauncherClient(self.socket)

    def start(self) -> None:
        """Start it unless one answers, is on its way, or has just ended: then after a pause.

        Raises:
            ServingMissing: the environment or the script is not there.
        """
        if self.supervised:
            return
        missing = [str(path) for path in (self.python, self.script) if not path.exists()]
        if missing:
            raise ServingMissing(
                "the serving environment is not installed. Run `make setup`, then try again.",
                problems=[f"missing: {path}" for path in missing],
            )
        if time.monotonic() < self._not_before:
            return
        if self._started is not None:
            code = self._started.poll()
            if code is None:
                return
            logger.error("the launcher ended with code %d. Its log ends:\n%s", code, tail_of(self.log))
        try:
            self.client.ping()
        except EndpointUnavailable:
            self._not_before = time.monotonic() + RESTART_SECONDS
            self.logs.mkdir(parents=True, exist_ok=True)
            self.socket.parent.mkdir(parents=True, exist_ok=True)
            command = [str(self.python), str(self.script), "--socket", str(self.socket), "--logs", str(self.logs)]
            with self.log.open("ab") as log:
                self._started = subprocess.Popen(
                    [*command, *self.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.env},
                    start_new_session=True,
                )
            logger.info("launcher started as pid %d; importing vLLM takes 17 to 30 s", self._started.pid)

    def wait(self, *, deadline_seconds: float = 120.0) -> LauncherFacts:
        """Wait until it answers.

        Raises:
            ServingMissing: it ended instead; with the end of its log.
            EndpointUnavailable: it did not answer in time.
        """
        until = time.monotonic() + deadline_seconds
        while True:
            try:
                return self.client.ping()
            except EndpointUnavailable:
                if self._started is not None and self._started.poll() is not None:
                    raise ServingMissing(
                        f"the launcher ended with code {self._started.returncode} before it could serve. "
                        f"Its log {self.log} ends:\n{tail_of(self.log)}"
                    ) from None
                if time.monotonic() > until:
                    raise EndpointUnavailable(
                        f"the launcher at {self.socket} did not answer within {deadline_seconds:.0f} s; see {self.log}"
                    ) from None
            time.sleep(0.2)


def tail_of(log: str | Path, *, lines: int = 12) -> str:
    """The last lines of a log, or a note that there is none."""
    try:
        with Path(log).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error})"
