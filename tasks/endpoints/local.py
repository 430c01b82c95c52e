"""The endpoint on this host: agent, instances and gateway, all talked to through the ledger."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from tasks.domain.errors import EndpointUnavailable, ModelRefused
from tasks.domain.models import Artifact, ModelRef
from tasks.domain.records import InstanceStatus, Wanted
from tasks.endpoints.instances import REFUSED
from tasks.endpoints.probe import ask_gateway
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.protocol import Ready, StagingState, Visible
from tasks.endpoints.wishes import instance_name

Found = TypeVar("Found")
POLL_SECONDS = 0.2
FRESH_SECONDS = 15.0
"""A heartbeat older than this is told as the likely reason of a wait."""


class LocalEndpoint:
    """Serving on one host."""

    start_hint = "start it with `empelt up`"
    """What to do about an agent that is not heard of."""

    def __init__(
        self,
        state: StagingState,
        *,
        gateway: str,
        profile: ServingProfile,
        agent: str = "local",
        gateway_key: str = "",
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            state: the ledger.
            gateway: its address, ``http://127.0.0.1:8000``.
            profile: how to serve what is staged here.
            agent: whose heartbeat and instances are meant.
            gateway_key: with which it asks the gateway; "" where no keys are asked for.
            on_wait: told each new reason to wait, for logs and progress.
        """
        self.state = state
        self.gateway = gateway.rstrip("/")
        self.profile = profile
        self.agent = agent
        self._gateway_key = gateway_key
        self._on_wait = on_wait or (lambda _: None)

    def stage(
        self, artifact: Artifact, *, channel: str, owner: str, release: ModelRef | None, lease_seconds: float
    ) -> Wanted:
        """See Endpoint."""
        return self.state.want_staged(
            artifact.digest,
            channel,
            release,
            owner=owner,
            lease_seconds=lease_seconds,
            extra=self.profile.to_extra(),
        )

    def wait_ready(self, wanted: Wanted, *, deadline_seconds: float) -> Ready:
        """See Endpoint."""
        name = instance_name(wanted.channel, wanted.digest)

        def look() -> tuple[Ready | None, str]:
            status = self._status(name)
            if status is None:
                return None, f"no instance of {name} yet"
            if status.state == "failed" and status.since >= wanted.wanted_at:
                self._refuse(status)
            if status.state != "ready":
                return None, f"{name} is {status.state}: {status.reason}"
            gateway = ask_gateway(self.gateway, self._gateway_key)
            if gateway is None:
                return None, f"the gateway at {self.gateway} does not answer"
            if name not in gateway.in_flight:
                return None, f"the gateway does not route {status.model_name} yet"
            return Ready(self.gateway, status.model_name, wanted.digest, dict(status.serving)), ""

        return self._wait(look, what=f"{name} to be ready", deadline_seconds=deadline_seconds)

    def unstage(self, wanted: Wanted) -> None:
        """See Endpoint."""
        self.state.unstage(wanted.digest, wanted.channel, wanted.owner)

    def wait_visible(self, channel: str, *, generation: int, deadline_seconds: float) -> Visible:
        """See Endpoint."""
        started = time.monotonic()

        def look() -> tuple[Visible | None, str]:
            state = self.state.channel(channel)
            if state is None:
                return None, f"channel {channel} was never switched"
            if state.acknowledged_generation >= generation:
                return Visible(channel, state.acknowledged_generation, time.monotonic() - started), ""
            status = self._status(instance_name(channel, state.artifact_digest))
            told = f"its instance is {status.state} {status.reason}".strip() if status else "it has no instance yet"
            return None, f"{channel} is acknowledged at generation {state.acknowledged_generation}; {told}"

        what = f"the gateway to route {channel} by generation {generation}"
        return self._wait(look, what=what, deadline_seconds=deadline_seconds)

    def _wait(self, look: Callable[[], tuple[Found | None, str]], *, what: str, deadline_seconds: float) -> Found:
        until = time.monotonic() + deadline_seconds
        told = ""
        while True:
            found, reason = look()
            if found is not None:
                return found
            if reason != told:
                self._on_wait(reason)
                told = reason
            if time.monotonic() >= until:
                raise EndpointUnavailable(f"waited {deadline_seconds:.0f} s for {what}: {reason}. {self._heard_of()}")
            time.sleep(POLL_SECONDS)

    def _heard_of(self) -> str:
        seen = self.state.agent_last_seen(self.agent)
        if seen is None:
            return f"Agent {self.agent!r} has never been heard of: {self.start_hint}."
        age = (datetime.now(UTC) - seen).total_seconds()
        last = f"Agent {self.agent!r} was last heard of {age:.0f} s ago ({seen.isoformat(timespec='seconds')})"
        return f"{last}: it is gone; {self.start_hint}." if age > FRESH_SECONDS else f"{last} and is alive."

    def _refuse(self, status: InstanceStatus) -> None:
        if status.reason.startswith(REFUSED):
            raise ModelRefused(status.reason.removeprefix(REFUSED))
        raise ModelRefused(f"{status.name} could not be served: {status.reason}")

    def _status(self, name: str) -> InstanceStatus | None:
        return next((s for s in self.state.instances(self.agent) if s.name == name), None)
