"""What the pipeline asks of a serving target, and what the agent asks of the ledger.

A flow never starts a server: it states in the ledger what it wants, waits until that is so, and reads who answers. The
switch itself is a compare-and-swap in the ledger, so there is no ``switch`` here: an endpoint only makes it visible.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from tasks.domain.models import Artifact, ChannelState, Digest, ModelRef
from tasks.domain.outputs import ReferenceOutputs
from tasks.domain.records import CanaryWish, Desired, InstanceStatus, PromotionFact, PromotionStep, Wanted


class Ready(NamedTuple):
    """A staged artifact that answers."""

    base_url: str
    """Of an OpenAI-compatible server: append ``/v1/completions``."""
    model: str
    """The name that asks for exactly this artifact: ``eu@3f2a00112233``."""
    digest: Digest
    serving: Mapping[str, str]
    """Image, flags, device class: part of the eval_key of whatever is measured here."""


class Visible(NamedTuple):
    """The gateway routes a channel by the generation that was asked for."""

    channel: str
    generation: int
    """The one asked for, or a later one."""
    seconds: float
    """How long it took to become visible, from the moment of asking."""


class Endpoint(Protocol):
    """A place where models are served."""

    def stage(
        self,
        artifact: Artifact,
        *,
        channel: str,
        owner: str,
        release: ModelRef | None,
        lease_seconds: float,
    ) -> Wanted:
        """Ask for an instance of the artifact beside whatever is live. Asking again renews the lease."""

    def wait_ready(self, wanted: Wanted, *, deadline_seconds: float) -> Ready:
        """Wait until the staged artifact answers through the public address under its pinned name.

        Raises:
            ModelRefused: its files are not what was recorded, or the server cannot load it.
            EndpointUnavailable: not in time; names what it waited for and the agent's last heartbeat.
        """

    def unstage(self, wanted: Wanted) -> None:
        """Take the wish back. What is live stays."""

    def wait_visible(self, channel: str, *, generation: int, deadline_seconds: float) -> Visible:
        """Wait until the gateway has acknowledged this generation, or a later one.

        Raises:
            EndpointUnavailable: not in time; names the agent's last heartbeat and why the instance is not ready.
        """


class DesiredState(Protocol):
    """What the agent needs of the ledger."""

    def desired(self) -> Desired:
        """All that should be running, read in one transaction."""

    def report_instances(self, statuses: Iterable[InstanceStatus], agent: str = ...) -> object:
        """Replace what this agent has said before."""

    def acknowledge(self, channel: str, generation: int) -> object:
        """The gateway routes the channel by this generation, and a real request was answered by it."""

    def agent_heartbeat(self, at: datetime | None = None, agent: str = ...) -> object:
        """This agent is alive."""

    def outputs_of(self, key: Digest) -> ReferenceOutputs | None:
        """What a model said when it was judged; None where nothing is on record."""

    def promotions(self, channel: str) -> Sequence[PromotionFact]:
        """Every switch of the channel, newest first; this and what follows is for people to see."""

    def served_before(self, channel: str) -> Sequence[PromotionFact]:
        """What it could be rolled back to, newest first."""

    def visible_since(self, channel: str) -> Mapping[int, datetime]:
        """Generation -> when the gateway first said that it routes by it."""

    def scores_of(self, artifact_digest: Digest) -> Sequence[Mapping[str, Any]]:
        """The newest score of each benchmark of an artifact, without items."""

    def promotion_steps(self, channel: str) -> Sequence[PromotionStep]:
        """Every step of the channel's promotions, oldest first."""


class StagingState(Protocol):
    """What the local endpoint needs of the ledger."""

    def want_staged(
        self,
        digest: Digest,
        channel: str,
        release: ModelRef | None = None,
        *,
        owner: str,
        lease_seconds: float,
        extra: Mapping[str, Any] | None = None,
    ) -> Wanted:
        """Want an artifact beside the live one until the lease ends; asking again renews."""

    def unstage(self, digest: Digest, channel: str, owner: str) -> object:
        """No longer want it."""

    def instances(self, agent: str | None = None) -> Sequence[InstanceStatus]:
        """What the agents said last."""

    def channel(self, name: str) -> ChannelState | None:
        """What a channel points at."""

    def agent_last_seen(self, agent: str = ...) -> datetime | None:
        """When the agent was last heard of."""


class PromotionState(Protocol):
    """What a promotion needs of the ledger; see ``tasks.store.canaries``."""

    def channel(self, name: str) -> ChannelState | None:
        """What a channel points at."""

    def set_canary(
        self,
        channel: str,
        *,
        digest: Digest,
        weight: float,
        generation: int,
        owner: str,
        lease_seconds: float,
        languages: tuple[str, ...] = (),
        fence: int | None = None,
        claim_key: str | None = None,
    ) -> CanaryWish:
        """Begin, change or renew a canary."""

    def end_canary(self, channel: str, digest: Digest, *, owner: str | None = None) -> bool:
        """Take it back, if it is this owner's."""

    def record_step(
        self,
        channel: str,
        step: str,
        *,
        generation: int,
        digest: Digest,
        ended: str,
        seconds: float,
        said: str = "",
        figures: Mapping[str, Any] | None = None,
        flow_run_id: str | None = None,
    ) -> PromotionStep:
        """Append how a step ended."""

    def promotion_steps(
        self, channel: str, *, digest: Digest | None = None, generation: int | None = None
    ) -> list[PromotionStep]:
        """The steps so far."""


class Artifacts(Protocol):
    """What the agent needs of the store of its host."""

    def get(self, digest: str) -> Artifact:
        """The artifact; ModelRefused if this host does not hold it."""

    def verify(self, digest: str) -> Artifact:
        """Hash every file again; ModelRefused listing every one that differs, with both hashes."""
