"""From desired state to wishes in order of importance, and from what is ready to routes. Pure functions.

The order is the policy: what is live comes first, then what a channel still answers with while its new artifact loads,
then what is staged, then the previous artifact kept warm so that a rollback takes seconds.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from tasks.domain.models import Digest
from tasks.domain.records import CanaryWish, Desired, Live
from tasks.endpoints.routes import Canary, ChannelRoute, InstanceRoute, Routes

Keep = Literal["live", "routed", "staged", "previous"]
UNTIL_SECONDS = 1.0
"""The end of a canary's lease is written anew when it has moved by so much."""
KEEP_PREVIOUS = "keep_previous_seconds"
"""Of a promotion's ``extra``: how long the instance that it replaced is kept warm."""


class Wish(NamedTuple):
    """One instance that should run."""

    name: str
    channel: str
    digest: Digest
    release: str
    keep: Keep
    extra: Mapping[str, Any]
    """How to serve it; ``extra["profile"]`` when the host's own profile is not meant."""
    asked_at: datetime | None = None
    """Of a staged one: asked again after it had failed, it is tried again."""


WAITS_FOR_ROOM = "waits for room"
"""How the reason of an instance begins that does not fit beside the others."""


def instance_name(channel: str, digest: Digest) -> str:
    """``eu-3f2a00112233``: names sockets and logs too."""
    return f"{channel}-{digest[:12]}"


def channel_of(name: str) -> str:
    """The channel of an instance's name."""
    return name.rpartition("-")[0]


def wishes_of(
    desired: Desired,
    routed: Routes,
    *,
    running: Collection[str],
    failing: Collection[str],
    hopeless: Collection[str] = (),
) -> list[Wish]:
    """Every wish once, the most important first.

    Args:
        desired: from the ledger.
        routed: the routes as they are now.
        running: names of instances that run. A previous artifact is kept warm for as long as its target's policy says,
            not started for its own sake ...
        failing: ... unless the live one (named here) fails to come up: then it is what the channel falls back to.
        hopeless: of those, what has failed more than once: the previous one comes first then, and where only one of
            them fits, it is not stopped for another try.
    """
    found: dict[str, Wish] = {}

    def add(
        channel: str,
        digest: Digest,
        release: str,
        keep: Keep,
        extra: Mapping[str, Any],
        asked_at: datetime | None = None,
    ) -> None:
        name = instance_name(channel, digest)
        found.setdefault(name, Wish(name, channel, digest, release, keep, extra, asked_at))

    def add_previous(live: Live) -> None:
        if live.previous_digest is not None:
            release = str(live.previous_release) if live.previous_release else ""
            add(live.channel, live.previous_digest, release, "previous", live.previous_extra)

    for live in desired.live:
        if instance_name(live.channel, live.digest) in hopeless:
            add_previous(live)
        add(live.channel, live.digest, str(live.release), "live", live.extra)
    for live in desired.live:
        route = routed.channels.get(live.channel)
        instance = routed.instances.get(route.instance) if route and route.instance else None
        if instance is not None and instance.digest != live.digest and instance.name in running:
            extra = live.previous_extra if instance.digest == live.previous_digest else {}
            add(live.channel, instance.digest, instance.release, "routed", extra)
    for wanted in desired.staged:
        release = str(wanted.release) if wanted.release else ""
        add(wanted.channel, wanted.digest, release, "staged", wanted.extra, wanted.wanted_at)
    for live in desired.live:
        is_warm = live.previous_digest is not None and instance_name(live.channel, live.previous_digest) in running
        if (is_warm and is_kept(live, desired.at)) or instance_name(live.channel, live.digest) in failing:
            add_previous(live)
    return list(found.values())


def is_kept(live: Live, now: datetime) -> bool:
    """Whether what was served before runs on for a roll-back; for ever where no policy says how long."""
    seconds = live.extra.get(KEEP_PREVIOUS)
    return seconds is None or (now - live.switched_at).total_seconds() < float(seconds)


def choose_routes(
    desired: Desired,
    ready: Mapping[str, InstanceRoute],
    coming: Collection[str],
    current: Routes,
    *,
    ahead_seconds: float = 0.0,
) -> Routes:
    """The routes that should be written now. The old instance keeps a channel until the new one is ready.

    A canary is only beside it: its instance is staged by whoever tries it.

    Args:
        desired: from the ledger.
        ready: instances that answer and are not about to be stopped, by name.
        coming: names of instances that are on their way.
        current: the routes as they are.
        ahead_seconds: how far this host's clock is ahead of the ledger's, by which the lease of a canary goes.
    """
    channels: dict[str, ChannelRoute] = {}
    tried = {wish.channel: wish for wish in desired.canaries}
    for live in desired.live:
        wanted = instance_name(live.channel, live.digest)
        before = current.channels.get(live.channel)
        if wanted in ready:
            channels[live.channel] = ChannelRoute(generation=live.generation, instance=wanted)
        elif before is not None and before.instance in ready:
            channels[live.channel] = before
        elif live.previous_digest and (previous := instance_name(live.channel, live.previous_digest)) in ready:
            channels[live.channel] = ChannelRoute(generation=live.generation - 1, instance=previous)
        else:
            channels[live.channel] = ChannelRoute(generation=live.generation, instance=None, coming=wanted in coming)
        canary = _canary(tried.get(live.channel), live, ready, before.canary if before else None, ahead_seconds)
        channels[live.channel] = channels[live.channel].model_copy(update={"canary": canary})
    return Routes(serial=current.serial, channels=channels, instances=dict(ready))


def _canary(
    wish: CanaryWish | None,
    live: Live,
    ready: Mapping[str, InstanceRoute],
    before: Canary | None,
    ahead_seconds: float,
) -> Canary | None:
    """What is tried on a channel. Its instance must answer, and it began before any later switch."""
    if wish is None or wish.generation != live.generation or wish.digest == live.digest:
        return None
    name = instance_name(wish.channel, wish.digest)
    if name not in ready:
        return None
    until = wish.lease_until.timestamp() + ahead_seconds
    if before is not None and before.until is not None and abs(before.until - until) < UNTIL_SECONDS:
        until = before.until  # not new routes for each reading of two clocks
    return Canary(instance=name, weight=wish.weight, languages=wish.languages, until=until)
