"""Child processes of one installation: started, recorded, restarted, ended. Never one too many, never one left over.

A process is known by pid *and* start, since pids are used again (``tasks.store.identity``). Every child carries
EMPELT_INSTANCE=<id of this home> in its environment, and so does all that it starts (flow runs, vLLM instances); what a
killed `empelt up` left behind is found by that variable, whoever its parent is now.
"""

import fcntl
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deployments.scratch import remove_unused
from tasks.domain.errors import AddressInUse, EndpointUnavailable, InputError
from tasks.processes import end_processes, marked_processes, same_process
from tasks.store.identity import start_of

MARK = "EMPELT_INSTANCE"
STEADY_SECONDS = 600
"""A child that ran for so long before it died is restarted at once again, without a longer pause."""
TIDY_SECONDS = 3.0


@dataclass
class Child:
    """One process that should be running.

    Attributes:
        name: shown to people and used for the log file.
        argv: command line.
        env: variables on top of our own environment.
        is_ready: asked until it says True.
        ready_seconds: how long that may take.
        grace_seconds: between SIGTERM and SIGKILL when it is ended.
        scratch: its TMPDIR. What one that was killed has left there goes when its successor starts, or later, with the
            last process that works there.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[], bool] = lambda: True
    ready_seconds: float = 120
    grace_seconds: float = 10
    scratch: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    restart_at: float = 0
    started_at: float = 0


class Supervisor:
    """Owns the children of one home folder. Use as a context manager: leaving it ends them all."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.run = home / "run"
        self.logs = home / "logs"
        self.children: list[Child] = []
        self._in_use: set[Path] = set()
        self._looked_at = 0.0
        for folder in (self.run, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.run.chmod(0o700)
        self._record = self.run / "children.json"
        self._lock = self._take_lock()
        self.instance = self._identity()

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, child: Child) -> None:
        """Start ``child`` in a session of its own and record it."""
        log = (self.logs / f"{child.name}.log").open("ab")
        environment = {**os.environ, **child.env, MARK: self.instance}
        if child.scratch is not None:
            child.scratch.mkdir(parents=True, exist_ok=True)
            self._in_use |= remove_unused(child.scratch.iterdir(), self.instance, MARK)
            environment["TMPDIR"] = str(child.scratch)
        child.process = subprocess.Popen(
            list(child.argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        log.close()
        child.started_at = time.monotonic()
        if child not in self.children:
            self.children.append(child)
        self._write_record()

    def wait_ready(self, child: Child) -> None:
        """Return when ``child`` is ready.

        Raises:
            EndpointUnavailable: if it ends first or takes too long; the end of its log is quoted.
        """
        deadline = time.monotonic() + child.ready_seconds
        while time.monotonic() < deadline:
            if child.is_ready():
                return
            if child.process is not None and child.process.poll() is not None:
                code = child.process.returncode
                raise EndpointUnavailable(f"{child.name} ended with code {code} before it was ready{self._tail(child)}")
            time.sleep(0.1)
        raise EndpointUnavailable(f"{child.name} was not ready after {child.ready_seconds:.0f} s{self._tail(child)}")

    def revive(self, say: Callable[[str], None]) -> None:
        """Restart children that have died, with back-off: 1, 2, 4 ... 60 seconds. Remove what the dead have left."""
        self._tidy()
        for child in self.children:
            if child.process is None or child.process.poll() is None:
                continue
            if not child.restart_at:
                if time.monotonic() - child.started_at > STEADY_SECONDS:
                    child.restarts = 0
                child.restart_at = time.monotonic() + min(60, 2**child.restarts)
                say(f"{child.name} ended with code {child.process.returncode}; restarting it")
            elif time.monotonic() >= child.restart_at:
                child.restarts, child.restart_at = child.restarts + 1, 0
                self.start(child)

    def stop(self) -> None:
        """End the children, last started first; then all that they left. Nothing is alive afterwards."""
        for child in reversed(self.children):
            if child.process is not None:
                end_processes(
                    [psutil.Process(child.process.pid)] if child.process.poll() is None else [], child.grace_seconds
                )
                child.process.wait()
        self.children.clear()
        self.end_leftovers()
        self._in_use = remove_unused(self._in_use, self.instance, MARK)
        self._lock.close()

    def _tidy(self) -> None:
        """Every few seconds, and only while there is something: it looks at every process."""
        if self._in_use and time.monotonic() - self._looked_at > TIDY_SECONDS:
            self._looked_at = time.monotonic()
            self._in_use = remove_unused(self._in_use, self.instance, MARK)

    def end_leftovers(self) -> list[str]:
        """End every process of this home that is not one of our children; names of those ended."""
        names: list[str] = []
        for _ in range(3):  # what is told to end may start something more before it does
            left = self._leftovers()
            if not left:
                break
            names += [f"{_name(p)} (pid {p.pid})" for p in left]
            end_processes(left, grace_seconds=10)
        self._write_record()
        return names

    def _leftovers(self) -> list[psutil.Process]:
        ours = {child.process.pid for child in self.children if child.process}
        found = {p.pid: p for p in (*self._recorded(), *marked_processes(self.instance, MARK))}
        return [p for pid, p in found.items() if pid not in ours and pid != os.getpid()]

    def _recorded(self) -> list[psutil.Process]:
        try:
            rows = json.loads(self._record.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return []
        return [p for row in rows if (p := same_process(row["pid"], row["start_time"])) is not None]

    def _write_record(self) -> None:
        rows = [
            {"name": c.name, "pid": c.process.pid, "start_time": started}
            for c in self.children
            if c.process and c.process.poll() is None and (started := start_of(c.process.pid)) is not None
        ]
        half = self._record.with_suffix(".half")
        half.write_text(json.dumps(rows, indent=1))
        half.replace(self._record)

    def _take_lock(self) -> "Lock":
        return Lock(self.run / "up.lock", self.home)

    def _identity(self) -> str:
        path = self.home / "instance-id"
        if not path.exists():
            path.write_text(str(uuid.uuid4()))
        return path.read_text().strip()

    def _tail(self, child: Child) -> str:
        path = self.logs / f"{child.name}.log"
        lines = path.read_text(errors="replace").splitlines()[-12:] if path.exists() else []
        return f"; the end of {path}:\n    " + "\n    ".join(lines) if lines else f"; {path} is empty"


class Lock:
    """One `empelt up` per home. The lock goes with the process, however it ends."""

    def __init__(self, path: Path, home: Path) -> None:
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip()
            raise InputError(
                f"{home} is in use by another `empelt up` (pid {holder}); end that one, or name another EMPELT_HOME"
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def close(self) -> None:
        """Give the lock back."""
        self._file.close()


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:4])[:80] or process.name()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return "a process that has just ended"


def require_free(host: str, port: int, what: str) -> None:
    """Refuse a port that somebody listens on.

    Raises:
        AddressInUse: naming the port, what we want it for, and the process that holds it where that can be seen.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise AddressInUse(
                f"port {port} on {host}, wanted for {what}, is taken{_holder(port)}; end that, or choose another port"
            ) from error


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                return f" by pid {connection.pid} ({_name(psutil.Process(connection.pid))})" if connection.pid else ""
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return ""
    return ""
