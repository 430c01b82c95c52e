"""The agent where the cluster starts the instances: from the ledger's desired state to objects, and to routes.

The order of a switch is the local agent's, and so are the functions that decide it (``wishes.py``), the count-down of
what leaves (``drain.py``) and the acknowledgement (``visibility.py``). Placement, restarts and probes are the
cluster's. The reconciler stands in one pod with the gateway and writes the same file of routes: the volume of a config
map is refreshed by the kubelet about once a minute, a rename is seen in 20 ms. The API server is asked beside the
rounds, so that a slow one delays no switch between instances that stand.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from tasks.domain.errors import InputError, ModelRefused, PipelineError, TransientError
from tasks.domain.records import Desired
from tasks.endpoints.cluster.access import NEEDED
from tasks.endpoints.cluster.client import ClusterClient
from tasks.endpoints.cluster.fleet import Fleet, Listed
from tasks.endpoints.cluster.objects import ClusterPlan
from tasks.endpoints.cluster.room import Room, gives_way
from tasks.endpoints.cluster.watched import Watched
from tasks.endpoints.drain import Drain
from tasks.endpoints.probe import GatewayState, ask_gateway
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.protocol import Artifacts, DesiredState
from tasks.endpoints.rounds import ROUND_SECONDS, Rounds
from tasks.endpoints.routes import InstanceRoute
from tasks.endpoints.wishes import Wish, wishes_of

LOOK_SECONDS = 2.0
"""Between two looks at the cluster: three lists by label. Polled and not watched: a watch that has fallen asleep looks
like a cluster in which nothing happens, and three lists are what a watch needs to begin anew."""

logger = logging.getLogger(__name__)


class Round(NamedTuple):
    """What one visit to the API server has brought."""

    listed: Mapping[str, Listed]
    refusals: Mapping[str, str]


class Reconciler(Rounds):
    """Makes desired state true on a cluster."""

    def __init__(
        self,
        *,
        name: str,
        state: DesiredState,
        client: ClusterClient,
        plan: ClusterPlan,
        artifacts: Artifacts,
        routes: Path,
        gateway: str,
        profile: ServingProfile,
        gateway_key: str = "",
        drain_seconds: float = 60.0,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Put together; nothing is asked yet.

        Args:
            name: of this agent, in the ledger.
            state: the ledger.
            client: the cluster.
            plan: what all instances have in common.
            artifacts: the store, of which only sizes are read here.
            routes: the file that the gateway reads.
            gateway: its address.
            profile: how to serve what brings no profile of its own.
            gateway_key: with which it asks the gateway; "" where no keys are asked for.
            drain_seconds: how long an instance that is out of the routes may finish what it has under way.
            look_seconds: between two looks at the cluster.
        """
        super().__init__(
            name=name, state=state, routes=routes, gateway=gateway, profile=profile, gateway_key=gateway_key
        )
        self.fleet = Fleet(client, plan)
        self.plan = plan
        self.artifacts = artifacts
        self.watched: dict[str, Watched] = {}
        self._listed: Mapping[str, Listed] | None = None
        self._visit: Future[Round] | None = None
        self._visited = 0.0
        self._look_seconds = look_seconds
        self._drain = Drain(self.fleet, self._executor, drain_seconds=drain_seconds)
        self._weights: dict[str, int] = {}
        self._room = Room(plan.room_seconds)
        self._giving_way = ""

    def check(self) -> None:
        """Whether it can work at all.

        Raises:
            InputError: every setting and every permission that is missing.
            EndpointUnavailable: the API server does not answer.
        """
        problems = self.plan.problems()
        account = f"this account may not {{}} in namespace {self.plan.namespace}"
        problems += [account.format(one) for one in self.fleet.client.missing(NEEDED)]
        if problems:
            raise InputError(
                "this cluster cannot be served on. The Role in infra/kubernetes/instances.yaml grants what is needed.",
                problems=problems,
            )

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. Instances and routes are left as they are.

        Raises:
            InputError: see ``check``.
        """
        while not stop.is_set():
            try:
                self.check()
                break
            except TransientError as error:
                self._trouble(str(error))
                stop.wait(self._look_seconds)
        try:
            while not stop.is_set():
                self.step()
                stop.wait(ROUND_SECONDS)
        finally:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def step(self) -> None:
        """One round. Trouble with ledger or cluster is told once and tried again; what runs goes on meanwhile."""
        if (desired := self._read_desired()) is None:
            return
        self._come_back()
        wishes = self._wishes(desired) if self._listed is not None else []
        if self._listed is not None:
            self._make_room(wishes, desired)
        if self._listed is not None:  # until it is known what runs, routes and instances stay as they are
            self._write_routes(desired)
        gateway = ask_gateway(self.gateway, self._gateway_key)
        self._retire(wishes, gateway)
        self._go(wishes)
        try:
            self._visibility.advance(desired, self._routes, gateway)
            if self._listed is not None:
                statuses = [one.status(self.plan.serving_image) for _, one in sorted(self.watched.items())]
                self._report.instances(statuses)
        except TransientError as error:
            self._trouble(str(error))

    def _go(self, wishes: Sequence[Wish]) -> None:
        """Visit the API server, in the background: at once when something is to be made, else when it is time."""
        wanted = (self.watched[wish.name] for wish in wishes)
        going = self._giving_way
        making = [
            one for one in wanted if not (one.given_up or one.wish.name == going or self._drain.has(one.wish.name))
        ]
        is_new = any(self._listed is not None and one.wish.name not in self._listed for one in making)
        waits = min(self._look_seconds, ROUND_SECONDS * 2) if is_new else self._look_seconds
        if self._visit is None and time.monotonic() - self._visited >= waits:
            self._visit = self._executor.submit(self._round, making)

    def _round(self, making: Sequence[Watched]) -> Round:
        listed = self.fleet.look()
        refusals: dict[str, str] = {}
        for one in making:
            there = listed.get(one.wish.name)
            if there is not None and there.uid == one.spent:
                continue  # it has come to nothing, and goes first
            try:
                self.fleet.make(one.wish, one.profile, weights_bytes=self._weights_of(one.wish.digest))
            except ModelRefused as error:
                if there is None:  # one that runs answers from what it has mapped
                    refusals[one.wish.name] = f"the store does not hold it: {error}"
            except InputError as error:
                refusals[one.wish.name] = f"the cluster refuses it: {error}"
        return Round(listed, refusals)

    def _weights_of(self, digest: str) -> int:
        """Asked of the store once: an artifact never changes, and the store may be on another machine."""
        if digest not in self._weights:
            files = self.artifacts.get(digest).files
            self._weights[digest] = sum(f.size for f in files if f.path.endswith(".safetensors"))
        return self._weights[digest]

    def _come_back(self) -> None:
        """Take what the last visit has brought."""
        if self._visit is None or not self._visit.done():
            return
        visit, self._visit, self._visited = self._visit, None, time.monotonic()
        try:
            found = visit.result()
        except PipelineError as error:
            self._trouble(str(error))
            return
        self._listed = found.listed
        for name, one in self.watched.items():
            one.refusal = found.refusals.get(name, "")
            if one.refusal:
                self._trouble(f"{name}: {one.refusal}")

    def _wishes(self, desired: Desired) -> list[Wish]:
        """What should run, each with what is known of it."""
        listed = self._listed or {}
        running = {name for name, one in listed.items() if "Deployment" in one.objects and not one.is_going}
        failing = {name for name, one in self.watched.items() if one.state == "failed"}
        wishes = wishes_of(desired, self._routes, running=running, failing=failing)
        for wish in wishes:
            one = self.watched.get(wish.name)
            if one is None:
                one = self.watched[wish.name] = Watched(wish, self._profile_of(wish))
            before = one.state
            one.renew(wish)
            one.update(listed)
            if one.state != before:
                logger.info("%s: %s %s", wish.name, one.state, one.reason)
        wished = {wish.name for wish in wishes}
        self.watched = {name: one for name, one in self.watched.items() if name in wished}
        return wishes

    def _make_room(self, wishes: Sequence[Wish], desired: Desired) -> None:
        """Let the least important one go when something else has waited for its room long enough, one at a time."""
        if self._giving_way and self._giving_way in (self._listed or {}):
            return
        self._giving_way = ""
        watched = [self.watched[wish.name] for wish in wishes]
        homeless = [one.wish.name for one in watched if one.no_room]
        placed = [one.wish.name for one in watched if one.is_placed]
        self._room.note(homeless, placed)
        waited = self._room.too_long().intersection(homeless)
        if not waited:
            return
        self._giving_way = gives_way(
            wishes,
            homeless=waited,
            standing=placed,
            answering={name: route.instance for name, route in self._routes.channels.items() if route.instance},
            pending={live.channel for live in desired.live if live.acknowledged_generation < live.generation},
        )
        if self._giving_way:
            logger.warning("%s gives way: there is no room for %s", self._giving_way, ", ".join(sorted(waited)))
            return
        for name in waited:
            self.watched[name].wait_for_room()

    def _write_routes(self, desired: Desired) -> None:
        ready = {
            name: InstanceRoute(
                name=name, channel=one.wish.channel, digest=one.wish.digest, uds=one.address, release=one.wish.release
            )
            for name, one in self.watched.items()
            if one.state == "ready" and name != self._giving_way and not self._drain.has(name)
        }
        coming = {name for name, one in self.watched.items() if one.state == "starting"}
        self._route(desired, ready, coming)

    def _retire(self, wishes: Sequence[Wish], gateway: GatewayState | None) -> None:
        """Let go what is not wanted, what has come to nothing, and what nobody knows."""
        gone = set(self._drain.ended())
        if self._listed is None:
            return
        # A deletion that has been asked for is not asked for again before the next look.
        self._listed = {name: one for name, one in self._listed.items() if name not in gone}
        kept = {wish.name for wish in wishes if not self.watched[wish.name].given_up} - {self._giving_way}
        for name, one in self._listed.items():
            watched = self.watched.get(name)
            if one.is_going:
                self._drain.keep(name)
            elif name in kept and (watched is None or watched.spent != one.uid):
                self._drain.keep(name)
            else:
                self._drain.advance(name, self._routes, gateway)
