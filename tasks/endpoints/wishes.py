"""From desired state to wishes in order of importance, and from what is ready to routes. Pure functions.

The order is the policy: what is live comes first, then what a channel still answers with while its new artifact loads,
then what is staged, then the previous artifact kept warm so that a rollback takes seconds.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from tasks.domain.models import Digest
from tasks.domain.records import Desired
from tasks.endpoints.routes import ChannelRoute, InstanceRoute, Routes

Keep = Literal["live", "routed", "staged", "previous"]


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


def instance_name(channel: str, digest: Digest) -> str:
    """``eu-3f2a00112233``: names sockets and logs too."""
    return f"{channel}-{digest[:12]}"


def channel_of(name: str) -> str:
    """The channel of an instance's name."""
    return name.rpartition("-")[0]


def wishes_of(desired: Desired, routed: Routes, *, running: Collection[str], failing: Collection[str]) -> list[Wish]:
    """Every wish once, the most important first.

    Args:
        desired: from the ledger.
        routed: the routes as they are now.
        running: names of instances that run. A previous artifact is kept warm, not started for its own sake ...
        failing: ... unless the live one (named here) fails to come up: then it is what the channel falls back to.
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

    for live in desired.live:
        add(live.channel, live.digest, str(live.release), "live", live.extra)
    for live in desired.live:
        route = routed.channels.get(live.channel)
        instance = routed.instances.get(route.instance) if route and route.instance else None
        if instance is not None and instance.digest != live.digest and instance.name in running:
            add(live.channel, instance.digest, instance.release, "routed", {})
    for wanted in desired.staged:
        release = str(wanted.release) if wanted.release else ""
        add(wanted.channel, wanted.digest, release, "staged", wanted.extra, wanted.wanted_at)
    for live in desired.live:
        if live.previous_digest is None:
            continue
        name = instance_name(live.channel, live.previous_digest)
        if name in running or instance_name(live.channel, live.digest) in failing:
            known = routed.instances.get(name)
            add(live.channel, live.previous_digest, known.release if known else "", "previous", {})
    return list(found.values())


def choose_routes(
    desired: Desired, ready: Mapping[str, InstanceRoute], coming: Collection[str], current: Routes
) -> Routes:
    """The routes that should be written now. The old instance keeps a channel until the new one is ready.

    Args:
        desired: from the ledger.
        ready: instances that answer and are not about to be stopped, by name.
        coming: names of instances that are on their way.
        current: the routes as they are.
    """
    channels: dict[str, ChannelRoute] = {}
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
    return Routes(serial=current.serial, channels=channels, instances=dict(ready))
