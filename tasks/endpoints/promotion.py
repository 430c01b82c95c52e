"""Trying a staged artifact on a part of its channel's requests, step by step, before the switch. No Prefect here.

Everything that must outlive this process is in the ledger: the canary with its lease, and each step as it ended. So a
run that is started again finds where the one before it stood, and one that dies leaves no canary behind.
"""

import http.client
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from tasks.domain.errors import EndpointUnavailable, PromotionFailed, PromotionRefused, TransientError
from tasks.domain.jobs import PublishRequest
from tasks.domain.models import Digest
from tasks.domain.promotion import AbortRules, CanaryStep, Counted, Judgement, PromotionPolicy, judge
from tasks.domain.records import PromotionStep
from tasks.endpoints.probe import GatewayState, ask_gateway, ask_http
from tasks.endpoints.protocol import PromotionState, Ready
from tasks.endpoints.tally import Reading
from tasks.endpoints.wishes import instance_name

POLL_SECONDS = 0.25
ROUTED_SECONDS = 30.0
"""For agent and gateway to route a canary, and to put it back into the routes when its instance was away."""
WARM_SECONDS = 60.0
"""For one warming request."""
TAKE_BACK = "take back"


class Standing(NamedTuple):
    """Where a promotion stands when a run takes it up."""

    is_live: bool
    """The switch was made already: what is left is to wait until it is visible."""
    is_first: bool
    """The channel serves nothing yet: nobody can be sent elsewhere, and nobody is compared with."""
    passed: tuple[str, ...]
    """Steps that an earlier run has ended well."""

    def left(self, policy: PromotionPolicy) -> list[CanaryStep]:
        """The canary's steps that are still to be made, in their order."""
        if self.is_live or self.is_first:
            return []
        return [step for step in policy.steps if step_name(step) not in self.passed]


def step_name(step: CanaryStep) -> str:
    """``canary 5``."""
    return f"canary {step.weight:g}"


def stands(state: PromotionState, request: PublishRequest) -> Standing:
    """Where the promotion stands, by the ledger alone.

    Raises:
        PromotionFailed: the channel has moved on since the candidate was judged.
    """
    now = state.channel(request.channel)
    generation = now.generation if now else 0
    if now is not None and now.artifact_digest == request.artifact_digest:
        return Standing(is_live=True, is_first=False, passed=())
    if generation != request.expected_generation:
        raise PromotionFailed(
            f"channel {request.channel!r} is at generation {generation}, not at {request.expected_generation}; "
            f"judge {request.artifact_digest[:12]} again against what is live now"
        )
    passed: list[str] = []
    for step in state.promotion_steps(request.channel, digest=request.artifact_digest, generation=generation):
        if step.step == TAKE_BACK:
            passed = []
        elif step.ended == "done":
            passed.append(step.step)
    return Standing(is_live=False, is_first=now is None, passed=tuple(passed))


class Promoter:
    """Carries out what comes before the switch."""

    def __init__(
        self,
        state: PromotionState,
        request: PublishRequest,
        *,
        gateway: str,
        owner: str,
        lease_seconds: float,
        key: str = "",
        run_id: str | None = None,
        on_wait: Callable[[str], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Ask nothing yet.

        Args:
            state: the ledger.
            request: what is to become live.
            gateway: its address; ``key`` with which this installation asks it, "" where it asks for none.
            owner: whose canary it is.
            lease_seconds: a canary goes when nobody has renewed it for so long.
            key: see ``gateway``.
            run_id: of the flow run, recorded with each step.
            on_wait: told what is seen, for logs.
            sleep: for tests.
        """
        self.state, self.request = state, request
        self._gateway, self._key = gateway, key
        self._owner, self._lease_seconds, self._run_id = owner, lease_seconds, run_id
        self._say = on_wait or (lambda _: None)
        self._sleep = sleep
        self._live_before: Counted | None = None
        self._live = Reading(request.channel, self._live_digest())
        self._canary = Reading(request.channel, request.artifact_digest)

    def record(
        self,
        step: str,
        seconds: float,
        said: str = "",
        *,
        ended: str = "done",
        figures: Mapping[str, Any] | None = None,
    ) -> PromotionStep:
        """Append how a step ended."""
        return self.state.record_step(
            self.request.channel,
            step,
            generation=self.request.expected_generation,
            digest=self.request.artifact_digest,
            ended=ended,
            seconds=round(seconds, 3),
            said=said,
            figures=figures,
            flow_run_id=self._run_id,
        )

    def warm(self, ready: Ready, requests: int) -> PromotionStep:
        """Ask the new instance until it is warm, by its pinned name: nobody else asks it yet.

        Raises:
            PromotionRefused: it answers otherwise than 200.
            EndpointUnavailable: the gateway does not answer.
        """
        began, times = time.monotonic(), []
        for number in range(requests):
            asked = time.monotonic()
            body = {"model": ready.model, "prompt": f"{number + 1}", "max_tokens": 8, "temperature": 0}
            try:
                reply = ask_http(
                    self._gateway, "POST", "/v1/completions", body=body, key=self._key, timeout_seconds=WARM_SECONDS
                )
            except (OSError, http.client.HTTPException) as error:
                raise EndpointUnavailable(
                    f"{ready.model} was asked {number} times and did not answer the next request within "
                    f"{WARM_SECONDS:.0f} s ({type(error).__name__}: {error})"
                ) from error
            if reply.status != 200:
                shown = reply.body[:200].decode(errors="replace")
                told = f"it answered {reply.status} to warming request {number + 1}: {shown}"
                self.refuse("warm", time.monotonic() - began, (told,), {})
            times.append(time.monotonic() - asked)
        said = f"{requests} requests; the first took {times[0]:.3f} s, the last {times[-1]:.3f} s" if times else "none"
        return self.record("warm", time.monotonic() - began, said, figures={"seconds": [round(t, 4) for t in times]})

    def canary(self, step: CanaryStep, rules: AbortRules, languages: tuple[str, ...] = ()) -> PromotionStep:
        """One step: a part of the requests, until enough were answered or the time is over.

        Raises:
            PromotionRefused: by the rules, or since its instance went away. The canary is taken back, and the channel
                never moved.
            PromotionFailed: the channel moved on, the claim was superseded, or another canary is under way.
            EndpointUnavailable: it was not routed in time; it is taken back.
        """
        name, began = step_name(step), time.monotonic()
        looked_at = languages if rules.foreign is not None else ()
        renewed = self._want(step, looked_at)
        try:
            gateway = self._until_routed(step.weight)
            routed = time.monotonic()
            before = self._canary.read(gateway.tallies)
            live = self._live.read(gateway.tallies)
            if self._live_before is None:
                self._live_before = live
            seen = time.monotonic()
            while True:
                tried = self._canary.read(gateway.tallies).minus(before)
                beside = self._live.read(gateway.tallies).minus(self._live_before)
                told, elapsed = judge(rules, tried, beside), time.monotonic() - routed
                figures = {"canary": tried.as_json(), "live": beside.as_json(), "weight": step.weight}
                if told.reasons:
                    self.refuse(name, time.monotonic() - began, told.reasons, figures)
                if (away := time.monotonic() - seen) > ROUTED_SECONDS:
                    gone = f"its instance was out of the routes for {away:.0f} s, or the gateway did not answer"
                    self.refuse(name, time.monotonic() - began, (gone,), figures)
                if elapsed >= step.seconds or 0 < step.requests <= tried.requests:
                    return self.record(name, time.monotonic() - began, _said(step, tried, told), figures=figures)
                self._sleep(min(POLL_SECONDS, max(0.01, step.seconds - elapsed)))
                if time.monotonic() - renewed > self._lease_seconds / 4:
                    try:
                        renewed = self._want(step, looked_at)
                    except (
                        TransientError
                    ) as error:  # asked again at once; should the lease end, it is out of the routes
                        self._say(f"the canary was not renewed, and is asked for again: {error}")
                found = ask_gateway(self._gateway, self._key)
                if found is not None and found.canaries.get(self.request.channel) == self._as_routed(step.weight):
                    gateway, seen = found, time.monotonic()
        except BaseException:
            self.state.end_canary(self.request.channel, self.request.artifact_digest, owner=self._owner)
            raise

    def drained(self, previous: Digest, *, deadline_seconds: float, keep_seconds: float) -> PromotionStep:
        """Wait until what was served before has nothing under way; it is out of its channel already.

        Args:
            previous: the artifact that was served before.
            deadline_seconds: after so long it is left to the agent, which waits as long before it stops it.
            keep_seconds: for how long it then stays warm; told only.
        """
        began, name, most = time.monotonic(), instance_name(self.request.channel, previous), 0
        while True:
            found = ask_gateway(self._gateway, self._key)
            under_way = found.in_flight.get(name, 0) if found is not None else 0
            most, seconds = max(most, under_way), time.monotonic() - began
            if (found is not None and not under_way) or seconds >= deadline_seconds:
                break
            self._sleep(POLL_SECONDS)
        left = f", {under_way} of them not yet" if under_way else ""
        is_up = found is not None and name in found.in_flight
        then = f"it stays warm for {keep_seconds:.0f} s, where there is room" if is_up else "it is stopped"
        said = f"{most} requests were under way and ended{left}; {then}"
        return self.record("drain", seconds, said, figures={"under_way": most, "left": under_way})

    def refuse(self, step: str, seconds: float, reasons: tuple[str, ...], figures: Mapping[str, Any]) -> NoReturn:
        """Take the canary back, record why, and say so.

        Raises:
            PromotionRefused: always.
        """
        self.state.end_canary(self.request.channel, self.request.artifact_digest, owner=self._owner)
        self.record(step, seconds, "; ".join(reasons), ended="refused", figures=figures)
        self.record(TAKE_BACK, 0.0, "the channel never moved")
        raise PromotionRefused(
            f"{self.request.release} was not switched to on {self.request.channel!r}: refused at {step!r}, artifact "
            f"{self.request.artifact_digest[:12]}. The channel stays at generation {self.request.expected_generation}",
            problems=reasons,
        )

    def _want(self, step: CanaryStep, languages: tuple[str, ...]) -> float:
        self.state.set_canary(
            self.request.channel,
            digest=self.request.artifact_digest,
            weight=step.weight,
            generation=self.request.expected_generation,
            owner=self._owner,
            lease_seconds=self._lease_seconds,
            languages=languages,
            fence=self.request.fence,
            claim_key=self.request.claim_key,
        )
        return time.monotonic()

    def _until_routed(self, weight: float) -> GatewayState:
        until = time.monotonic() + ROUTED_SECONDS
        while True:
            found = ask_gateway(self._gateway, self._key)
            if found is not None and found.canaries.get(self.request.channel) == self._as_routed(weight):
                return found
            if time.monotonic() > until:
                name, at = self._as_routed(weight)
                raise EndpointUnavailable(
                    f"waited {ROUTED_SECONDS:.0f} s for {name} to be sent {at:g} % of {self.request.channel}; "
                    f"the gateway says {dict(found.canaries) if found else 'nothing'}"
                )
            self._sleep(0.05)

    def _as_routed(self, weight: float) -> tuple[str, float]:
        return instance_name(self.request.channel, self.request.artifact_digest), weight

    def _live_digest(self) -> Digest:
        now = self.state.channel(self.request.channel)
        return now.artifact_digest if now else ""


def _said(step: CanaryStep, tried: Counted, told: Judgement) -> str:
    enough = f"{tried.requests} requests answered by it at {step.weight:g} %"
    left = f". Not judged: {'; '.join(told.unjudged)}" if told.unjudged else ", nothing against it"
    return f"{enough}{left}"
