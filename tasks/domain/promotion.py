"""How a channel is moved to a new artifact, as a target states it, and when that is broken off. Pure.

    stage -> verify -> warm -> canary (a part of the requests, step by step) -> switch -> confirm -> drain

Until the switch the channel's generation does not move: a canary that is broken off leaves no trace in it.
"""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from tasks.domain.models import Noun

FINEST_SECONDS = 0.001
GROWTH = 1.2
"""Times are counted in buckets, each this much wider than the one before: a percentile is too high by at most 20 %."""
LEAST_SECONDS = 0.05
"""A canary that is quicker than this is never too slow: between 1 and 5 ms nobody waits, and ratios are noise."""
HOPELESS = 3
"""So many answers lost, and none given: nothing is to be waited for."""
STALLED_TIMES = 10.0
STALLED_SECONDS = 10.0
"""A request without a byte for so many times the live one's 95th percentile, and at least so long, counts as lost."""


class CanaryStep(Noun):
    """A part of the channel's requests, until enough have been answered or the time is over."""

    weight: float = Field(gt=0, le=100)
    """Per cent of the requests."""
    seconds: float = Field(gt=0)
    """It ends after so long, however little was asked."""
    requests: int = Field(default=0, ge=0)
    """It ends sooner, when the canary has answered so many; 0: by time alone."""


class AbortRules(Noun):
    """When a canary is taken back. A share is what the canary has beyond the live one in the same time."""

    min_requests: int = Field(default=20, ge=1)
    """Of the canary; before, only one that answers nothing at all is broken off. For latency, of the live one too."""
    errors: float = Field(default=0.02, ge=0, le=1)
    """Share of requests that it lost or answered 5xx, also where another instance then answered the client; and, by
    itself, of those that it answered 4xx."""
    empty: float = Field(default=0.05, ge=0, le=1)
    """Share of its answers without a word."""
    latency: float = Field(default=2.0, gt=1)
    """Its 95th percentile of the time to an answer's first byte, as a ratio to the live one's."""
    foreign: float | None = Field(default=0.2, ge=0, le=1)
    """Share of its answers in another language than the target's. The gateway tells languages apart by itself and
    passes on nothing but the counts; ``null``: it does not look at answers."""


class PromotionPolicy(Noun):
    """How a target's channel is moved. A channel that serves nothing yet has nobody to compare with: no canary."""

    steps: tuple[CanaryStep, ...] = (
        CanaryStep(weight=5, seconds=120, requests=100),
        CanaryStep(weight=50, seconds=120, requests=200),
        CanaryStep(weight=100, seconds=60, requests=100),
    )
    """None: the switch comes at once after the verification."""
    abort: AbortRules = AbortRules()
    warm_requests: int = Field(default=8, ge=0, le=1000)
    """Asked of the new instance before anybody else asks it: first answers are slow."""
    keep_previous_seconds: float = Field(default=86400, ge=0)
    """What the channel served before runs on for so long, where there is room: a roll-back then takes seconds."""
    no_room: Literal["recreate", "refuse"] = "recreate"
    """Where two versions do not fit side by side: the old one is stopped first and requests are held meanwhile, with no
    canary and no check before the switch; or the channel is left alone."""

    @field_validator("steps")
    @classmethod
    def _grow(cls, steps: tuple[CanaryStep, ...]) -> tuple[CanaryStep, ...]:
        weights = [step.weight for step in steps]
        if weights != sorted(set(weights)):
            raise ValueError(f"the weights of promotion steps must grow, and these do not: {weights}")
        return steps


class Counted(NamedTuple):
    """What one version of a channel has answered in a stretch of time."""

    requests: int = 0
    """Answered or lost; clients that hung up are not counted."""
    errors: int = 0
    refused: int = 0
    """Answered 4xx: by a fault of the client's, or since it has no chat template. The live one's show which."""
    empty: int = 0
    sampled: int = 0
    """Answers that were long enough to say in which language they are."""
    foreign: int = 0
    """Of those, in another one than the target's."""
    seconds: Mapping[int, int] = {}
    """Bucket -> answers whose first byte came in it; see ``bucket_of``."""
    waiting: Mapping[int, int] = {}
    """Bucket -> requests that have waited so long for their first byte, now."""

    def plus(self, other: "Counted") -> "Counted":
        """Both together."""
        return Counted(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            refused=self.refused + other.refused,
            empty=self.empty + other.empty,
            sampled=self.sampled + other.sampled,
            foreign=self.foreign + other.foreign,
            seconds=dict(Counter(self.seconds) + Counter(other.seconds)),
            waiting=dict(Counter(self.waiting) + Counter(other.waiting)),
        )

    def minus(self, before: "Counted") -> "Counted":
        """Since ``before``, of which these counts have grown; what waits, waits now."""
        return Counted(
            requests=self.requests - before.requests,
            errors=self.errors - before.errors,
            refused=self.refused - before.refused,
            empty=self.empty - before.empty,
            sampled=self.sampled - before.sampled,
            foreign=self.foreign - before.foreign,
            seconds=dict(Counter(self.seconds) - Counter(before.seconds)),
            waiting=self.waiting,
        )

    def with_stalled(self, usual: float | None) -> "Counted":
        """The same, with what waits for far too long counted as lost; ``usual``: the live one's 95th percentile."""
        least = max(STALLED_SECONDS, STALLED_TIMES * (usual or 0.0))
        stalled = sum(count for at, count in self.waiting.items() if seconds_of(at) > least)
        return self._replace(requests=self.requests + stalled, errors=self.errors + stalled)

    @property
    def p95(self) -> float | None:
        """Seconds within which 95 % of the answers began; None without any."""
        total, seen = sum(self.seconds.values()), 0
        for at in sorted(self.seconds):
            seen += self.seconds[at]
            if seen >= 0.95 * total:
                return seconds_of(at)
        return None

    def as_json(self) -> dict[str, float | int | None]:
        """For the record: shares are left to whoever reads it."""
        counts = {name: count for name, count in self._asdict().items() if name not in ("seconds", "waiting")}
        return {
            **counts,
            "waiting": sum(self.waiting.values()),
            "p95": None if self.p95 is None else round(self.p95, 4),
        }


class Judgement(NamedTuple):
    """What the figures say of a canary."""

    reasons: tuple[str, ...]
    """Why it is taken back, each with the value and the limit; none if nothing speaks against it."""
    unjudged: tuple[str, ...]
    """What could not be said, and why."""


def bucket_of(seconds: float) -> int:
    """The bucket that a time is counted in."""
    return max(0, math.ceil(math.log(max(seconds, FINEST_SECONDS) / FINEST_SECONDS) / math.log(GROWTH) - 1e-9))


def seconds_of(bucket: int) -> float:
    """The longest time that is counted in a bucket."""
    return float(FINEST_SECONDS * GROWTH**bucket)


def judge(rules: AbortRules, canary: Counted, live: Counted) -> Judgement:
    """Whether a canary is taken back.

    Args:
        rules: the target's limits.
        canary: what it has answered in this step.
        live: what the live version has answered since the canary began. Without any, shares are compared with 0.
    """
    canary = canary.with_stalled(live.p95)
    if canary.errors >= HOPELESS and canary.errors == canary.requests:
        return Judgement((f"it has answered none of its {canary.requests} requests",), ())
    if canary.requests < rules.min_requests:
        told = f"it was asked {canary.requests} times, and {rules.min_requests} are needed to judge it"
        return Judgement((), (told,))
    answered = canary.requests - canary.errors - canary.refused
    answered_live = max(0, live.requests - live.errors - live.refused)
    found = [
        _beyond("lost or failed requests", canary.errors, canary.requests, live.errors, live.requests, rules.errors),
        _beyond("requests answered 4xx", canary.refused, canary.requests, live.refused, live.requests, rules.errors),
        _beyond("empty answers", canary.empty, answered, live.empty, answered_live, rules.empty),
    ]
    unjudged = []
    if rules.foreign is None:
        unjudged.append("its language: the target's policy does not ask")
    elif canary.sampled >= rules.min_requests:
        what = "answers in another language"
        found.append(_beyond(what, canary.foreign, canary.sampled, live.foreign, live.sampled, rules.foreign))
    else:
        unjudged.append(
            f"its language: {canary.sampled} answers were long enough to tell, and {rules.min_requests} are needed"
        )
    slow, slow_live = canary.p95, live.p95
    if slow is None or slow_live is None or answered_live < rules.min_requests or answered < rules.min_requests:
        unjudged.append(
            f"its latency: it has answered {answered} requests and the live one {answered_live}, and "
            f"{rules.min_requests} of each are needed"
        )
    elif slow > LEAST_SECONDS and slow > rules.latency * slow_live:
        found.append(
            f"95 % of its answers began within {slow:.3f} s, {slow / slow_live:.1f} times the live one's "
            f"{slow_live:.3f} s; the limit is {rules.latency:g} times"
        )
    return Judgement(tuple(filter(None, found)), tuple(unjudged))


def _beyond(what: str, count: int, total: int, live_count: int, live_total: int, limit: float) -> str:
    share = count / total if total > 0 else 0.0
    share_live = live_count / live_total if live_total > 0 else 0.0
    if share - share_live <= limit:
        return ""
    beside = f"the live one {share_live:.1%} ({live_count} of {live_total})" if live_total > 0 else "the live one none"
    return f"{what}: {share:.1%} ({count} of {total}), {beside}; the limit is {limit:.1%} more"
