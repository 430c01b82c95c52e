"""The gateway's supervisor: holds the listening socket and one worker, and replaces it without losing a request.

    SIGHUP            a new worker, by the settings as they are now; the old one finishes what it has and goes
    SIGTERM, SIGINT   the worker finishes what it has, for at most ``drain_seconds``, and all ends

The socket never closes meanwhile, so connections wait for the next worker instead of being refused. A worker that dies
is replaced as well.
"""

import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from prometheus_client import start_http_server

from tasks.domain.errors import AddressInUse, PipelineError
from tasks.endpoints.gateway_config import LEAVE, READY, GatewayConfig
from tasks.endpoints.gathered import FIGURES, Asking, Gathered, registry_of, worker_ends
from tasks.endpoints.keys import Keys
from tasks.endpoints.serving_figures import OfServing

WORKER = (sys.executable, "-m", "tasks.endpoints.worker")
READY_SECONDS = 180.0
"""Its imports take 1 s of CPU, and a host that is short of CPU is no reason to give up."""
QUICK_SECONDS = 5.0
"""A worker that lived shorter than this has failed to start; after so many in a row the supervisor gives up."""
MOST_QUICK_ENDS = 5

logger = logging.getLogger(__name__)


class WorkerProcess:
    """One worker, seen from outside."""

    def __init__(self, config: GatewayConfig, bound: socket.socket, command: Sequence[str]) -> None:
        self.started = time.monotonic()
        self._speaking = threading.Lock()
        self._hearing: threading.Thread | None = None
        self.process = subprocess.Popen(
            [*command, str(bound.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[bound.fileno()],
            text=True,
        )
        self.say(config.model_dump_json())

    def wait_ready(self, seconds: float = READY_SECONDS) -> bool:
        """Whether it answers now; False when it has ended, or took too long and was ended."""
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline().strip() == READY
        finally:
            timer.cancel()

    def say(self, line: str) -> None:
        """A line for it; none is heard by one that has ended."""
        assert self.process.stdin is not None
        try:
            with self._speaking:
                self.process.stdin.write(f"{line}\n")
                self.process.stdin.flush()
        except BrokenPipeError:
            logger.warning("worker %d has ended", self.process.pid)

    def hear(self, gathered: Gathered) -> None:
        """Listen to its figures from now on, until it ends."""
        gathered.meet(self.process.pid)
        self._hearing = threading.Thread(target=self._hear, args=(gathered,), daemon=True)
        self._hearing.start()

    def heard(self, seconds: float = 5.0) -> None:
        """It has ended: wait until its last word was heard."""
        if self._hearing is not None:
            self._hearing.join(seconds)

    def _hear(self, gathered: Gathered) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            gathered.hear(self.process.pid, line)


class Supervisor:
    """See the module."""

    def __init__(self, load: Callable[[], GatewayConfig], command: Sequence[str] = WORKER) -> None:
        """Bind the address; start nothing yet.

        Args:
            load: reads the set-up; called again for each new worker.
            command: what starts a worker.

        Raises:
            AddressInUse: naming the port.
            InputError: the keys cannot be used.
        """
        self._load = load
        self._command = command
        self._config = checked(load())
        self.bound = listen(self._config.host, self._config.port)
        self.port = self.bound.getsockname()[1]
        self._gathered = Gathered()
        self._ends = worker_ends()
        self._events: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._current: WorkerProcess | None = None
        self._leaving: list[WorkerProcess] = []
        self._quick_ends = 0

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            PipelineError: no worker comes up.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda caught, _: self._events.put(caught))
        self._show_figures()
        try:
            self._replace(self._config)
            if self._current is None:
                raise PipelineError("the gateway's worker did not start; its reason stands above")
            logger.info("gateway on http://%s:%d, routes from %s", self._config.host, self.port, self._config.routes)
            self._watch()
        finally:
            self._stop()

    def _watch(self) -> None:
        while True:
            try:
                caught = self._events.get(timeout=0.2)
            except queue.Empty:
                self._look_after()
                continue
            if caught != signal.SIGHUP:
                return
            try:
                self._replace(checked(self._load()))
            except PipelineError as error:
                logger.error("not restarted, the old worker goes on: %s", error)

    def _replace(self, config: GatewayConfig) -> None:
        """A new worker first; then the old one leaves."""
        fresh = WorkerProcess(config, self.bound, self._command)
        if not fresh.wait_ready():
            fresh.process.kill()
            fresh.process.wait()
            logger.error("the new worker %d did not come up; the old one goes on", fresh.process.pid)
            return
        fresh.hear(self._gathered)
        old, self._current, self._config = self._current, fresh, config
        logger.info("worker %d answers", fresh.process.pid)
        if old is not None:
            old.say(LEAVE)
            self._leaving.append(old)

    def _look_after(self) -> None:
        """Bury those that have left; replace one that has died."""
        for worker in [one for one in self._leaving if one.process.poll() is not None]:
            self._leaving.remove(worker)
            self._ends.labels("replaced").inc()
            self._bury(worker)
        if self._current is None or self._current.process.poll() is not None:
            if self._current is not None:
                logger.error("worker %d ended with %s", self._current.process.pid, self._current.process.returncode)
                self._ends.labels("died").inc()
                self._bury(self._current)
                is_quick = time.monotonic() - self._current.started < QUICK_SECONDS
                self._quick_ends = self._quick_ends + 1 if is_quick else 0
                self._current = None
            else:
                self._quick_ends += 1
            if self._quick_ends >= MOST_QUICK_ENDS:
                raise PipelineError(f"the gateway's worker ended {self._quick_ends} times within {QUICK_SECONDS} s")
            self._replace(self._config)

    def _bury(self, worker: WorkerProcess) -> None:
        worker.heard()
        self._gathered.bury(worker.process.pid)
        logger.info("worker %d has left", worker.process.pid)

    def _stop(self) -> None:
        """End every worker: each finishes what it has, for as long as it may."""
        workers = [*self._leaving, *([self._current] if self._current else [])]
        for worker in workers:
            worker.process.terminate()
        self.bound.close()
        until = time.monotonic() + self._config.drain_seconds + 5
        for worker in workers:
            try:
                worker.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.error("worker %d had to be killed", worker.process.pid)
                worker.process.kill()
                worker.process.wait()

    def _show_figures(self) -> None:
        if not self._config.metrics_port:
            return
        registry = registry_of(Asking(self._gathered, self._ask_figures), OfServing(self._config.routes), self._ends)
        try:
            start_http_server(self._config.metrics_port, self._config.metrics_host, registry)
        except OSError as error:
            raise AddressInUse(
                f"port {self._config.metrics_port} on {self._config.metrics_host} cannot be used for the gateway's "
                f"metrics: {error.strerror}. Choose another EMPELT_GATEWAY_METRICS_PORT."
            ) from error

    def _ask_figures(self, question: int) -> list[int]:
        """From the thread of a scrape: the workers may change meanwhile."""
        workers = [*list(self._leaving), *([current] if (current := self._current) else [])]
        for worker in workers:
            worker.say(f"{FIGURES} {question}")
        return [worker.process.pid for worker in workers]


def checked(config: GatewayConfig) -> GatewayConfig:
    """The same, if its keys can be used.

    Raises:
        InputError: they cannot.
    """
    if not Keys.parse(config.keys, config.own_key).asked_for and config.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning("no API keys are set: everybody who reaches %s may use this gateway", config.host)
    return config


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, or one clear refusal before anything else is started.

    Raises:
        AddressInUse: naming the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name the protocol; without it each answer took 48 ms instead of 5.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(2048)  # now and not later: with SO_REUSEADDR two can bind, and only one can listen
    except OSError as error:
        bound.close()
        raise AddressInUse(
            f"port {port} on {host} cannot be used by the gateway: {error.strerror}. "
            "Stop what listens there, or choose another port."
        ) from error
    return bound


def run_gateway(load: Callable[[], GatewayConfig], command: Sequence[str] = WORKER) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        AddressInUse: naming the port.
        InputError: the keys cannot be used.
        PipelineError: no worker comes up.
    """
    Supervisor(load, command).run()
