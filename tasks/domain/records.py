"""What the ledger hands out: claims, promotions, what should be served and what is. All frozen.

A *fact* is appended and never changed. Claims and the agent's desired state are all that moves in the ledger.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from tasks.domain.jobs import Job, PublishRequest
from tasks.domain.models import ChannelState, Digest, ModelRef, Noun, Revision

JobOutcome = Literal["published", "rejected", "kept", "held", "failed", "awaiting"]
BaseChangeKind = Literal["added", "updated", "retired", "packed", "unpacked"]
InstanceState = Literal["starting", "ready", "failed", "stopping", "stopped"]


class RepoState(Noun):
    """The last that was seen of one repository; a changed ``internal_id`` means that it was deleted and made anew."""

    repo_id: str
    internal_id: str
    revision: Revision
    content_digest: Digest | None
    """None where the files could not be read: gated, or half uploaded."""
    at: AwareDatetime


class BaseChange(Noun):
    """One change of a tuned base, as it was recorded."""

    family: str
    language: str
    change: BaseChangeKind
    repo_id: str
    """Of the base, after the change."""
    revision: Revision | None
    digest: Digest | None
    """Content digest, where it was known."""
    details: Mapping[str, Any]
    at: AwareDatetime


class PollState(Noun):
    """How the watches of one family have gone, all of them together."""

    family: str
    polls: int
    failures: int
    calls: int
    """Requests to the source."""
    good_at: AwareDatetime | None
    """When the last one ended that did not fail."""
    failed_at: AwareDatetime | None
    failure: str
    """Why the last one failed; empty if it did not."""


class MergeCost(Noun):
    """What one merge took."""

    seconds: float
    """From opening the inputs to the finished folder."""
    peak_bytes: int | None
    """The most memory of the engine's process; None where it was not measured."""


class Claim(Noun):
    """The right to work on one job until the lease ends. Only the newest fence may switch a channel."""

    job_key: str
    attempt: int
    """1 for the first claim of this job, +1 for each later one."""
    fence: int
    """Increases over all jobs, so of two claims the later one has the higher fence."""
    owner: str
    lease_seconds: float
    lease_until: AwareDatetime
    description: Mapping[str, Any] = Field(default_factory=dict)


class Turn(Noun):
    """The right to act for a name until the lease ends, such as the watch's; no job, and so no attempt."""

    name: str
    number: int
    """1 for the first turn, +1 for each later one."""
    owner: str
    lease_until: AwareDatetime


class Attempt(Noun):
    """One claim of a job, as it was taken."""

    job_key: str
    attempt: int
    fence: int
    owner: str
    """``watch``, or ``run:<flow run id>``."""
    at: AwareDatetime


class JobFact(Noun):
    """What a job_key stands for."""

    job_key: Digest
    job: Job
    at: AwareDatetime


class StageTimes(Noun):
    """When each step of a job was recorded, in the order of the steps; None where it was not."""

    released: AwareDatetime
    """When the Hub says that it last changed; of one that was opened later, the last watch that did not find it."""
    seen: AwareDatetime
    started: AwareDatetime | None = None
    fetched: AwareDatetime | None = None
    merged: AwareDatetime | None = None
    evaluated: AwareDatetime | None = None
    judged: AwareDatetime | None = None
    approved: AwareDatetime | None = None
    switched: AwareDatetime | None = None
    visible: AwareDatetime | None = None
    """When the gateway said that it routes by that generation."""


class Approval(Noun):
    """A candidate that passed and waits for a person, or what was decided about it."""

    job_key: Digest
    state: Literal["waiting", "published", "rejected", "superseded"]
    """``superseded``: the same artifact was asked for again, or decided, as another job: its gate was edited."""
    request: PublishRequest
    """As judged: the generation and the live model may have moved since."""
    by: str
    """Who decided; empty while it waits."""
    reason: str
    """Why it is worth publishing, or the comment of whoever decided."""
    flow_run_id: str | None
    at: AwareDatetime


class JobEnd(Noun):
    """How a job ended last."""

    job_key: str
    outcome: JobOutcome
    reason: str
    artifact_digest: Digest | None
    flow_run_id: str | None
    at: AwareDatetime


class VerdictFact(Noun):
    """A verdict as it was recorded; ``payload`` is ``Verdict.model_dump(mode="json")``."""

    verdict_key: str
    job_key: str
    family: str
    target: str
    outcome: str
    payload: Mapping[str, Any]
    at: AwareDatetime


class Hold(Noun):
    """A job (or any other key) that the watch leaves alone until the hold is released."""

    key: str
    reason: str
    at: AwareDatetime


class PromotionFact(Noun):
    """One switch of a channel."""

    channel: str
    generation: int
    artifact_digest: Digest
    previous_digest: Digest | None
    release: ModelRef
    target: str
    family: str
    at: AwareDatetime
    reason: str
    flow_run_id: str | None
    claim_key: str | None
    fence: int | None
    """None where no claim was needed: a rollback by hand."""
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """How it is served (flags, device): kept, so that a rollback serves the same thing again."""


class Live(Noun):
    """What one channel should answer with."""

    channel: str
    generation: int
    digest: Digest
    previous_digest: Digest | None
    release: ModelRef
    target: str
    family: str
    switched_at: AwareDatetime
    acknowledged_generation: int
    extra: Mapping[str, Any] = Field(default_factory=dict)
    previous_release: ModelRef | None = None
    previous_extra: Mapping[str, Any] = Field(default_factory=dict)
    """How the previous artifact was served; what it falls back to is served as it was."""


class Wanted(Noun):
    """An artifact that somebody wants up beside the live one, until the lease ends."""

    digest: Digest
    channel: str
    release: ModelRef | None
    owner: str
    wanted_at: AwareDatetime
    lease_until: AwareDatetime
    extra: Mapping[str, Any] = Field(default_factory=dict)


class CanaryWish(Noun):
    """A part of a channel's requests that another artifact should answer, until the lease ends."""

    channel: str
    digest: Digest
    weight: float
    """Per cent."""
    languages: tuple[str, ...] = ()
    """In which it is expected to answer; none: nobody looks."""
    generation: int
    """Of the channel when it began; once that has moved, nobody wants this any more."""
    owner: str
    at: AwareDatetime
    """When this weight was asked for first."""
    lease_until: AwareDatetime


class PromotionStep(Noun):
    """One step of a promotion as it ended, so that a later run finds where it stands."""

    channel: str
    generation: int
    """Of the channel when the promotion began: the one that it would replace."""
    digest: Digest
    step: str
    """``stage``, ``verify``, ``warm``, ``canary 5``, ``switch``, ``confirm``, ``drain``, ``take back``."""
    ended: Literal["done", "refused", "skipped"]
    seconds: float
    said: str
    """For people: what was seen, or why it was refused."""
    figures: Mapping[str, Any] = Field(default_factory=dict)
    flow_run_id: str | None = None
    at: AwareDatetime
    """When it ended."""


class Desired(Noun):
    """All that should be running, read in one transaction."""

    live: tuple[Live, ...]
    staged: tuple[Wanted, ...]
    """One for each (digest, channel), the longest lease where several owners want the same."""
    canaries: tuple[CanaryWish, ...] = ()
    """At most one for each channel."""
    at: AwareDatetime

    def digests(self) -> frozenset[str]:
        """Every artifact that is live or staged. Previous ones are not among them."""
        return frozenset(live.digest for live in self.live) | frozenset(wanted.digest for wanted in self.staged)


class InstanceStatus(Noun):
    """What an agent says about one running vLLM."""

    name: str
    digest: Digest
    channel: str
    state: InstanceState
    reason: str = ""
    pid: int | None = None
    start_time: float | None = None
    """With ``pid`` the identity of a process: pids are used again."""
    uds: str | None = None
    port: int | None = None
    since: AwareDatetime
    mode: str = ""
    """How it was started: ``fork`` or ``plain``."""
    serving: Mapping[str, Any] = Field(default_factory=dict)
    """Image, flags, device: what goes into an eval_key."""
    model_name: str = ""
    """As in ``eu@abcdef123456``."""
    mapped: str = ""
    """What was seen of the weight files that its processes have mapped, or why nothing was."""


def live_of(
    state: ChannelState,
    extra: Mapping[str, Any],
    previous_release: ModelRef | None = None,
    previous_extra: Mapping[str, Any] | None = None,
) -> Live:
    """The desired state that a channel's pointer stands for."""
    return Live(
        channel=state.channel,
        generation=state.generation,
        digest=state.artifact_digest,
        previous_digest=state.previous_digest,
        release=state.release,
        target=state.target,
        family=state.family,
        switched_at=state.switched_at,
        acknowledged_generation=state.acknowledged_generation,
        extra=extra,
        previous_release=previous_release,
        previous_extra=previous_extra or {},
    )
