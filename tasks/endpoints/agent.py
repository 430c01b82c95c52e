"""The agent: one on each serving host. Reads what should be served, makes it true, and says what is.

It owns no request: the gateway goes on without it, and the launcher keeps the instances. So it may be killed at any
moment; the next one adopts what the launcher lists and reads the routes that stand. Order of a switch: new instance
ready -> routes written -> loaded by the gateway -> one real request answered by the new artifact -> acknowledged in the
ledger. An instance goes when the gateway has loaded routes without it and has counted it down to nothing under way.
"""

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.domain.errors import EndpointUnavailable, InputError, TransientError
from tasks.domain.records import Desired
from tasks.endpoints.drain import Drain
from tasks.endpoints.instances import Instance
from tasks.endpoints.launcher_client import LauncherFacts, LauncherProcess, Listed
from tasks.endpoints.placement import Device, Placement, place
from tasks.endpoints.probe import GatewayState, ask_gateway
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.protocol import Artifacts, DesiredState
from tasks.endpoints.proving import Proving
from tasks.endpoints.rounds import ROUND_SECONDS, Rounds
from tasks.endpoints.shared_instances import Sharing
from tasks.endpoints.told import Told
from tasks.endpoints.wishes import WAITS_FOR_ROOM, Wish, channel_of, wishes_of

MAX_SOCKET_PATH = 107
"""Linux's limit for a Unix socket's path."""

logger = logging.getLogger(__name__)


class Agent(Rounds):
    """Makes desired state true for its host."""

    def __init__(
        self,
        *,
        name: str,
        state: DesiredState,
        launcher: LauncherProcess,
        artifacts: Artifacts,
        run_folder: Path,
        routes: Path,
        gateway: str,
        devices: Sequence[Device],
        profile: ServingProfile,
        gateway_key: str = "",
        drain_seconds: float = 60.0,
    ) -> None:
        """Put together; nothing is started yet.

        Args:
            name: of this host's agent, in the ledger.
            state: the ledger.
            launcher: the launcher's process; started when nothing answers on its socket.
            artifacts: the store of this host.
            run_folder: for the instances' sockets.
            routes: the file that the gateway reads.
            gateway: its address, ``http://127.0.0.1:8000``.
            devices: what this host may use.
            profile: how to serve what brings no profile of its own.
            gateway_key: with which it asks the gateway; "" where no keys are asked for.
            drain_seconds: how long an instance that is out of the routes may finish what it has under way.

        Raises:
            InputError: the run folder is too deep for Unix sockets.
        """
        longest = len(str(run_folder.absolute())) + len("/") + 48
        if longest > MAX_SOCKET_PATH:
            raise InputError(
                f"sockets under {run_folder} would have paths of up to {longest} characters; Linux allows "
                f"{MAX_SOCKET_PATH}. Choose a shorter folder."
            )
        super().__init__(
            name=name, state=state, routes=routes, gateway=gateway, profile=profile, gateway_key=gateway_key
        )
        self.launcher = launcher
        self.client = launcher.client
        self.artifacts = artifacts
        self.run_folder = run_folder.absolute()
        self.devices = tuple(devices)
        self.instances: dict[str, Instance] = {}
        self._sharing = Sharing(artifacts, self.run_folder, profile)
        mark = os.environ.get("EMPELT_INSTANCE")  # by which `empelt up` finds leftovers; instances inherit it
        self._env = {"EMPELT_INSTANCE": mark} if mark else {}
        self._facts: LauncherFacts | None = None
        self._told = Told(state, name, routes, self._executor)
        self._drain = Drain(
            self.client,
            self._executor,
            drain_seconds=drain_seconds,
            on_drained=lambda name, ended, seconds: self._told.drained(channel_of(name), ended, seconds),
        )
        self._proving = Proving(state, self._executor)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. Instances and routes are left as they are: they outlive the agent.

        Raises:
            ServingMissing: the serving environment is not installed.
        """
        self.run_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.launcher.start()
        logger.info("agent %s: devices %s", self.name, ", ".join(d.name for d in self.devices))
        try:
            while not stop.is_set():
                self.step()
                stop.wait(ROUND_SECONDS)
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def step(self) -> None:
        """One round. Trouble with the ledger is told once and tried again; what runs goes on meanwhile."""
        if (desired := self._read_desired()) is None:
            return
        listed = self._listed()
        for instance in self.instances.values():
            instance.watch(listed, self._prove)
        if listed is None and not self.instances:
            return  # just begun: until it is known what runs, the routes stay as they are
        placement, wishes = self._place(desired, listed or {})
        self._start(wishes, placement, listed)
        self._write_routes(desired, placement)
        gateway = ask_gateway(self.gateway, self._gateway_key)
        self._retire(wishes, placement, listed or {}, gateway)
        try:
            self._visibility.advance(desired, self._routes, gateway)
            image = self._facts.image if self._facts else "vllm unknown"
            self._report.instances([one.status(image) for one in self._seen()])
        except TransientError as error:
            self._trouble(str(error))
        self._told.advance(desired, self._seen())

    def _seen(self) -> list[Instance]:
        """Every instance, and once more for each adapter that one answers for, as that is asked for by name."""
        return [*(one for _, one in sorted(self.instances.items())), *self._sharing.answering(self.instances)]

    def _prove(self, one: Instance) -> str | None:
        """Whether a start that no flow checks is the judged model; None while it is asked, or its image is unknown."""
        if self._facts is None:
            return None
        return self._proving.problem(one.uds, *one.judged_as(image=self._facts.image))

    def _listed(self) -> Mapping[str, Listed] | None:
        """What the launcher runs; None while it does not answer, and then it is started again if it has ended."""
        try:
            if self._facts is None:
                self._facts = self.client.ping()
                logger.info("launcher: %s %s", self._facts.image, self._facts.why)
            return self.client.list()
        except EndpointUnavailable as error:
            if self._facts is not None:
                self._trouble(str(error))
            self._facts = None
            self.launcher.start()
            return None

    def _place(self, desired: Desired, listed: Mapping[str, Listed]) -> tuple[Placement, list[Wish]]:
        """What should run, and where. Adopts what runs already."""
        alive = {name for name, entry in listed.items() if entry.alive}
        for wish in self._sharing.recall(alive - set(self.instances)):
            one = self.instances[wish.name] = Instance(wish, self._profile_of(wish))
            one.adopt(listed[wish.name], self.artifacts, is_routed=self._routes.has(wish.name))
        running = alive | {name for name, one in self.instances.items() if one.started}
        failing = {name for name, one in self.instances.items() if one.state == "failed"}
        hopeless = {name for name, one in self.instances.items() if one.is_hopeless}
        told = {"running": self._sharing.held_by(running, self.instances)}
        told |= {"failing": self._sharing.asked_of(failing | hopeless), "hopeless": self._sharing.asked_of(hopeless)}
        wishes = self._sharing.arrange(wishes_of(desired, self._routes, **told), self.instances, self._routes)
        needs = []
        for wish in wishes:
            instance = self.instances.get(wish.name)
            if instance is None:
                instance = self.instances[wish.name] = Instance(wish, self._profile_of(wish))
                if wish.name in alive and not self._drain.has(wish.name):
                    instance.adopt(listed[wish.name], self.artifacts, is_routed=self._routes.has(wish.name))
            instance.renew(wish)
            instance.prepare(self.artifacts, self._executor)
            if not instance.given_up:
                needs.append(instance.need())
        placement = place(self.devices, needs)
        for name, device in placement.placed.items():
            if self.instances[name].started and self.instances[name].device is None:
                self.instances[name].device = device
        return placement, wishes

    def _start(self, wishes: Sequence[Wish], placement: Placement, listed: Mapping[str, Listed] | None) -> None:
        """Start what may start: one at a time on each device, and not while something there is being stopped."""
        busy = {
            one.device.name
            for name, one in self.instances.items()
            if one.device and (one.is_loading or self._drain.has(name))
        }
        for wish in wishes:
            instance = self.instances[wish.name]
            device = placement.placed.get(wish.name)
            if device is None:
                instance.wait_for(f"{WAITS_FOR_ROOM}: {placement.waiting.get(wish.name, 'given up')}")
            elif listed is None or self._drain.has(wish.name):
                instance.wait_for("waits for the launcher")
            elif instance.state == "failed" and instance.started and not self._routes.has(wish.name):
                self._drain.stop(wish.name)  # it hangs, or its engine is dead: its group must be gone first
            elif instance.may_start and device.name in busy:
                instance.wait_for(f"waits for its turn on {device.name}")
            elif instance.may_start:
                if instance.failures:
                    self._told.restarted(wish.channel)
                self._sharing.remember(wish)
                instance.start(self.client, device, self.run_folder, self._env)
                busy.add(device.name)

    def _write_routes(self, desired: Desired, placement: Placement) -> None:
        up = {name for name, one in self.instances.items() if one.state == "ready" and name in placement.placed}
        coming = self._sharing.asked_of({name for name, one in self.instances.items() if one.is_coming})
        self._route(desired, self._sharing.routes(up, self.instances), coming)

    def _retire(
        self,
        wishes: Sequence[Wish],
        placement: Placement,
        listed: Mapping[str, Listed],
        gateway: GatewayState | None,
    ) -> None:
        """Let go what is not wanted, or has no room any more."""
        for name in self._drain.ended():
            if name in self.instances:
                self.instances[name].stopped()
        unknown = [name for name, entry in listed.items() if entry.alive and name not in self.instances]
        started = [name for name, one in self.instances.items() if one.started]
        for name in (*unknown, *started):
            if name in placement.placed:
                self._drain.keep(name)
            elif self._drain.advance(name, self._routes, gateway) and name in self.instances:
                self.instances[name].stop()
        wished = {wish.name for wish in wishes}
        for name, one in list(self.instances.items()):
            if name not in wished and not one.started:
                del self.instances[name]
                self._sharing.forget(name)
