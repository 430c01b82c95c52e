"""The instances of one launcher: started, watched, ended. Nothing here waits; `tick` moves each along.

An instance is a session of its own, so its processes can be counted and ended as one. Its first process is not reaped
before the whole group is gone: as long as it is a zombie, its number cannot name anybody else, and killing the group
cannot hit a stranger.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import procfs
import shared_segments
import vllm_fork
from refusals import StartRequest
from serving_environment import instance_environment

logger = logging.getLogger("empelt.launcher")
_PLAIN = Path(__file__).resolve().parent / "vllm_plain.py"
# After the first process ended, the others of its group usually follow in 0.1 s. Then they are killed.
SECONDS_FOR_THE_REST = 2.0


@dataclass
class Instance:
    """One vLLM: the process that answers HTTP, and the group behind it."""

    request: StartRequest
    pid: int
    start_time: str
    started_at: str
    log: str
    exit_code: int | None = None
    """Set when no process of the group is left, negative for a signal, as subprocess does."""
    kill_at: float | None = None
    leader_ended: bool = False
    killed: list[int] = field(default_factory=list)
    on_end: list[Callable[[Instance], None]] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether no process of the group is left."""
        return self.exit_code is not None

    def describe(self) -> dict[str, Any]:
        """What `list` says of it."""
        place = {"uds": self.request.uds} if self.request.uds else {"port": self.request.port}
        return {
            "name": self.request.name,
            "pid": self.pid,
            "start_time": self.start_time,
            "model": str(self.request.model),
            "alive": not self.leader_ended,
            "exit_code": self.exit_code,
            "started_at": self.started_at,
            "log": self.log,
            **place,
        }


class Instances:
    """Every instance that this launcher started, ended ones included until their name is used again."""

    def __init__(
        self, vllm: vllm_fork.ImportedVllm, logs: Path, socket_path: Path, close_in_child: Callable[[], None]
    ) -> None:
        self._vllm = vllm
        self._socket_path = socket_path
        self._logs = logs
        self._close_in_child = close_in_child
        self._by_name: dict[str, Instance] = {}

    def conflicts(self, request: StartRequest) -> list[str]:
        """Why a request cannot be met beside what runs: vLLM may take seconds to bind what it was given."""
        problems = []
        for other in self.living():
            if other.request.name == request.name:
                problems.append(
                    f"name {request.name} was refused: it runs as pid {other.pid}; stop it or choose another"
                )
            if request.port is not None and other.request.port == request.port:
                problems.append(
                    f"port {request.port} was refused: instance {other.request.name} has it; choose another"
                )
            if request.uds is not None and other.request.uds == request.uds:
                problems.append(f"uds {request.uds} was refused: instance {other.request.name} has it; choose another")
        return problems

    def living(self) -> list[Instance]:
        """Those of which any process may be left."""
        return [instance for instance in self._by_name.values() if not instance.ended]

    def describe(self) -> list[dict[str, Any]]:
        """What `list` answers."""
        return [instance.describe() for instance in self._by_name.values()]

    def get(self, name: str) -> Instance | None:
        """The instance of this name, ended or not."""
        return self._by_name.get(name)

    def start(self, request: StartRequest) -> Instance:
        """Make the process. It must be the main thread that calls this: the child dies with the thread that made it."""
        path = self._logs / f"{request.name}.log"
        environment = instance_environment(os.environ, request.env, request.flags)
        log = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(log, f"empelt: {self._vllm.mode} start of {' '.join(request.arguments())}\n".encode())
            begin = self._fork if self._vllm.mode == "fork" else self._spawn
            pid = begin(request, environment, log)
        finally:
            os.close(log)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        instance = Instance(request, pid, procfs.start_time(pid), now, str(path))
        self._by_name[request.name] = instance
        logger.info("started %s as pid %d (%s) with %s", request.name, pid, self._vllm.mode, request.model)
        return instance

    def _fork(self, request: StartRequest, environment: dict[str, str], log: int) -> int:
        if pid := os.fork():
            return pid
        code = 1
        try:
            self._close_in_child()
            _become_instance(environment, log)
            _set_title(request.name)
            shared_segments.name_segments(shared_segments.prefix_of(self._socket_path, os.getpid()))
            # Kept for the life of the process: a local of the frame that vLLM's server runs in.
            witness = procfs.map_weights(request.model)
            logger.info("mapped %d weight files of %s, serving from a fork", len(witness), request.model)
            code = vllm_fork.serve(self._vllm.main, request.arguments())
        except BaseException:  # the outermost edge of the forked process: its parent's stack lies above
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # Not sys.exit: that would run on into the launcher's own loop and its atexit handlers.
            os._exit(code)

    def _spawn(self, request: StartRequest, environment: dict[str, str], log: int) -> int:
        command = [sys.executable, str(_PLAIN), str(os.getpid()), str(request.model), *request.arguments()]
        process = subprocess.Popen(
            command,
            env=environment | {"EMPELT_SEGMENTS": shared_segments.prefix_of(self._socket_path)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            umask=0o077,
        )
        # Waited for by pid with the forked ones; told so that its destructor does not complain.
        process.returncode = 0
        return process.pid

    def stop(self, instance: Instance, grace_seconds: float, on_end: Callable[[Instance], None] | None = None) -> None:
        """Ask an instance to end; after the grace its group is killed. `on_end` is called when nothing is left."""
        if on_end is not None:
            instance.on_end.append(on_end)
        # One that does not serve yet has nothing to drain, and vLLM 0.32 sat out a SIGTERM during its start until it
        # was killed, in three of four tries.
        deadline = time.monotonic() + (grace_seconds if _is_listening(instance.request) else 0)
        instance.kill_at = deadline if instance.kill_at is None else min(deadline, instance.kill_at)
        if not instance.leader_ended:
            # Only the first process: it tells its children, in an order of its own. Not reaped yet, so it is the one.
            os.kill(instance.pid, signal.SIGTERM)

    def tick(self) -> bool:
        """Move every living instance along; returns whether one is on its way out (then call again soon)."""
        for instance in self.living():
            self._move(instance)
        return any(instance.kill_at is not None for instance in self.living())

    def _move(self, instance: Instance) -> None:
        now = time.monotonic()
        if not instance.leader_ended and os.waitid(os.P_PID, instance.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            instance.leader_ended = True
            instance.kill_at = min(now + SECONDS_FOR_THE_REST, instance.kill_at or now + SECONDS_FOR_THE_REST)
        if instance.leader_ended and not procfs.group_members(instance.pid):
            _, status = os.waitpid(instance.pid, 0)
            instance.exit_code = os.waitstatus_to_exitcode(status)
            _remove_socket(instance.request.uds)
            shared_segments.remove_segments(shared_segments.prefix_of(self._socket_path, instance.pid))
            logger.info(
                "%s (pid %d) ended with %d, its group is gone", instance.request.name, instance.pid, instance.exit_code
            )
            for tell in instance.on_end:
                tell(instance)
        elif instance.kill_at is not None and now >= instance.kill_at:
            killed = procfs.kill_group(instance.pid, trackers_too=now >= instance.kill_at + SECONDS_FOR_THE_REST)
            if killed and killed != instance.killed:
                logger.warning("%s did not end by itself: killed %s", instance.request.name, killed)
            instance.killed = killed


def _become_instance(environment: dict[str, str], log: int) -> None:
    """Turn a fresh fork into a process of its own: session, signals, environment, files."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def _is_listening(request: StartRequest) -> bool:
    """Whether vLLM serves: it binds its place first of all, and listens when the engine is up."""
    with socket.socket(socket.AF_UNIX if request.uds else socket.AF_INET) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(request.uds or ("127.0.0.1", request.port))
        except (ConnectionError, FileNotFoundError):
            return False
        except TimeoutError:
            return True
    return True


def _set_title(name: str) -> None:
    import setproctitle

    setproctitle.setproctitle(f"empelt::{name}")


def _remove_socket(path: str | None) -> None:
    if path is not None:
        Path(path).unlink(missing_ok=True)
