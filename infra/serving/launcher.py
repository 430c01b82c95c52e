"""The launcher of vLLM instances: imports vLLM once, then forks each instance when asked to.

    python launcher.py --socket PATH --logs DIR [--plain] [--die-with-parent]

Run by the Python of the serving environment. It speaks JSON lines over a Unix socket (mode 0600), one object asked, one
answered: ping, start, list, stop, shutdown; README.md has the fields. The socket appears when the imports are done. One
thread does everything, since a forked instance lives only as long as the thread that forked it. Killed, however hard,
it takes its instances and their children along; ended by SIGTERM or SIGINT, it stops them first.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HERE = str(Path(__file__).resolve().parent)
sys.path.insert(0, _HERE)
import procfs  # noqa: E402
import shared_segments  # noqa: E402
import vllm_fork  # noqa: E402
from instances import Instance, Instances  # noqa: E402
from refusals import LONGEST_SOCKET_PATH, check_start  # noqa: E402
from serving_environment import serving_environment  # noqa: E402

# vLLM must not find our modules under its own imports.
sys.path[:] = [entry for entry in sys.path if entry != _HERE]

logger = logging.getLogger("empelt.launcher")
LONGEST_LINE = 1 << 20
GRACE_SECONDS = 10.0


class Connection:
    """One caller: what came in and what is still to go out."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.unsent = b""
        self.waiting = False
        """A stop has not ended yet; further lines of this caller stay in `received` until it has."""


class Launcher:
    """The socket, its callers and the loop."""

    def __init__(self, vllm: vllm_fork.ImportedVllm, socket_path: Path, logs: Path, die_with: int | None) -> None:
        self._vllm = vllm
        self._path = socket_path
        self._die_with = die_with
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._instances = Instances(vllm, logs, socket_path, self._close_in_child)
        self._ending = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        self._listener = socket.socket(socket.AF_UNIX)

    def run(self) -> int:
        """Serve until a shutdown was asked for and every instance is gone."""
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.shut_down())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._listen()
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._drain_wakes)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        soon = False
        while not (self._ending and not self._instances.living()):
            for key, events in self._selector.select(0.05 if soon else 0.5):
                key.data(events)
            if self._die_with is not None and procfs.orphaned_from(self._die_with):
                self._die_with = None
                self.shut_down()
            soon = self._instances.tick()
        self._path.unlink(missing_ok=True)
        self._flush_all()
        return 0

    def _listen(self) -> None:
        """Bind beside the path and rename: whoever sees the socket can connect, and its mode is right at once."""
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        self._listener.bind(str(fresh))
        os.chmod(fresh, 0o600)
        self._listener.listen(16)
        self._listener.setblocking(False)
        os.rename(fresh, self._path)

    def _drain_wakes(self, _events: int) -> None:
        self._wake_reader.recv(4096)

    def _accept(self, _events: int) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        connection = Connection(sock)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, lambda events: self._serve(connection, events))

    def _serve(self, connection: Connection, events: int) -> None:
        if events & selectors.EVENT_READ:
            try:
                chunk = connection.sock.recv(65536)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                chunk = b""
            if not chunk:
                self._drop(connection)
                return
            connection.received += chunk
            self._answer_lines(connection)
        if events & selectors.EVENT_WRITE:
            self._flush(connection)

    def _answer_lines(self, connection: Connection) -> None:
        while not connection.waiting and b"\n" in connection.received:
            line, connection.received = connection.received.split(b"\n", 1)
            self._answer(connection, line)
        if len(connection.received) > LONGEST_LINE:
            self._reply(connection, _refusal(f"a request of more than {LONGEST_LINE} bytes was refused: one line each"))
            self._drop(connection)

    def _answer(self, connection: Connection, line: bytes) -> None:
        try:
            request = json.loads(line)
        except ValueError as error:
            self._reply(connection, _refusal(f"the request was refused: not a line of JSON ({error})"))
            return
        operations: dict[str, Callable[[Connection, dict[str, Any]], dict[str, Any] | None]] = {
            "ping": self._ping,
            "start": self._start,
            "list": self._list,
            "stop": self._stop,
            "shutdown": self._shutdown,
        }
        operation = request.get("op") if isinstance(request, dict) else None
        if not isinstance(operation, str) or operation not in operations:
            self._reply(connection, _refusal(f"op {operation!r} was refused: expected one of {', '.join(operations)}"))
            return
        answer = operations[operation](connection, request)
        if answer is not None:
            self._reply(connection, answer)

    def _ping(self, _connection: Connection, _request: dict[str, Any]) -> dict[str, Any]:
        vllm = self._vllm
        facts = {"mode": vllm.mode, "why": vllm.why_plain, "vllm": vllm.version, "device": vllm.device}
        return {"ok": True, **facts, "pid": os.getpid(), "import_seconds": round(vllm.seconds, 1)}

    def _list(self, _connection: Connection, _request: dict[str, Any]) -> dict[str, Any]:
        return {"ok": True, "instances": self._instances.describe()}

    def _start(self, _connection: Connection, request: dict[str, Any]) -> dict[str, Any]:
        if self._ending:
            return _refusal("start was refused: the launcher is shutting down; start another one")
        wanted, problems = check_start(request, self._vllm.known_flags)
        if wanted is not None:
            problems = self._instances.conflicts(wanted)
        if wanted is None or problems:
            name = request.get("name")
            return _refusal(f"start of {name!r} was refused: " + "; ".join(problems), problems)
        try:
            instance = self._instances.start(wanted)
        except OSError as error:
            return _refusal(f"start of {wanted.name} failed: {error}; see to the logs' disk and the process limit")
        identity = {"pid": instance.pid, "start_time": instance.start_time, "log": instance.log}
        return {"ok": True, "name": wanted.name, **identity}

    def _stop(self, connection: Connection, request: dict[str, Any]) -> dict[str, Any] | None:
        name, grace = request.get("name"), request.get("grace_seconds", GRACE_SECONDS)
        instance = self._instances.get(name) if isinstance(name, str) else None
        if instance is None:
            known = ", ".join(item["name"] for item in self._instances.describe()) or "none"
            return _refusal(f"stop of {name!r} was refused: no instance has this name; known: {known}")
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= 3600:
            return _refusal(f"grace_seconds {grace!r} was refused: expected a number from 0 to 3600")
        if instance.ended:
            return {"ok": True, "exit_code": instance.exit_code}
        connection.waiting = True
        self._instances.stop(instance, grace, lambda ended: self._stopped(connection, ended))
        return None

    def _stopped(self, connection: Connection, instance: Instance) -> None:
        connection.waiting = False
        self._reply(connection, {"ok": True, "exit_code": instance.exit_code})
        self._answer_lines(connection)

    def _shutdown(self, _connection: Connection, _request: dict[str, Any]) -> dict[str, Any]:
        self.shut_down()
        return {"ok": True}

    def shut_down(self) -> None:
        """Stop every instance; `run` returns when the last one is gone."""
        self._ending = True
        for instance in self._instances.living():
            self._instances.stop(instance, GRACE_SECONDS)

    def _reply(self, connection: Connection, answer: dict[str, Any]) -> None:
        connection.unsent += json.dumps(answer).encode() + b"\n"
        self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        try:
            sent = connection.sock.send(connection.unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except ConnectionError:
            self._drop(connection)
            return
        connection.unsent = connection.unsent[sent:]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        self._selector.modify(connection.sock, events, self._selector.get_key(connection.sock).data)

    def _flush_all(self) -> None:
        for connection in list(self._connections):
            self._flush(connection)

    def _drop(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._selector.unregister(connection.sock)
            connection.sock.close()

    def _close_in_child(self) -> None:
        """In a fork: let go of the launcher's sockets, or a caller would wait on a dead launcher's connection."""
        self._selector.close()
        for sock in (self._listener, self._wake_reader, self._wake_writer, *(item.sock for item in self._connections)):
            sock.close()


def _refusal(error: str, problems: list[str] | None = None) -> dict[str, Any]:
    return {"ok": False, "error": error, "problems": problems or [error]}


def _hold(path: Path) -> int:
    """Hold the launcher's place for as long as it lives. A record lock: forked instances do not inherit it."""
    if len(os.fsencode(path)) + len(".new") > LONGEST_SOCKET_PATH:
        sys.exit(
            f"--socket {path} was refused: its path is too long for a socket; at most {LONGEST_SOCKET_PATH - 4} bytes"
        )
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"--socket {path} was refused: another launcher holds it; ask that one, or choose another path")
    # What lies at the path is a dead launcher's: nobody may take it for ours before we are ready.
    path.unlink(missing_ok=True)
    return descriptor


def main() -> int:
    """Read the command line, enter the serving environment, import vLLM, serve."""
    parser = argparse.ArgumentParser(description="Imports vLLM once and starts instances of it on request.")
    parser.add_argument("--socket", type=Path, required=True, help="where to listen; appears when the imports are done")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the instances' logs, one file each")
    parser.add_argument("--plain", action="store_true", help="start each instance plainly, without forking")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="shut down when the process that started this ends"
    )
    arguments = parser.parse_args()
    wanted = serving_environment(os.environ)
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)
    parent = os.getppid() if arguments.die_with_parent else None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    arguments.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = _hold(arguments.socket.absolute())
    # Whoever held this place before is gone, and its instances with it.
    if removed := shared_segments.remove_segments(shared_segments.prefix_of(arguments.socket)):
        logger.warning("removed what killed instances have left in %s: %s", shared_segments.FOLDER, ", ".join(removed))
    why_plain = ""
    if arguments.plain:
        why_plain = "--plain was given"
    elif os.environ.get("EMPELT_LAUNCHER") == "plain":
        why_plain = "EMPELT_LAUNCHER=plain is set"
    vllm = vllm_fork.ImportedVllm(why_plain)
    if vllm.mode == "fork":
        procfs.die_with_parent_in_every_fork()
    logger.info("vLLM %s on %s imported in %.1f s; mode %s", vllm.version, vllm.device, vllm.seconds, vllm.mode)
    if vllm.why_plain:
        logger.warning("instances start plainly: %s", vllm.why_plain)
    code = Launcher(vllm, arguments.socket.absolute(), arguments.logs.absolute(), parent).run()
    os.close(held)
    return code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Not sys.exit: at interpreter exit nanobind writes 500 lines about "leaks" in triton to the log.
    os._exit(code)
