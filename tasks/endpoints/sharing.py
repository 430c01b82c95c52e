"""Adapters share an instance: which instances hold which, so that one copy of the instruct model serves many. Pure.

vLLM is told its adapters when it starts, and never later (loading one over HTTP is for development: a restart forgets
it). So another set of adapters is another instance. A staged adapter is put up in an instance of its own beside the
live one, together with all that is live on the same model. When it is switched to, that instance holds everything that
is live: the others' routes move to it, and the one before drains and ends. What a channel served before is in it too,
so going back needs no start. A candidate never shares an instance with another candidate, and is never put into one
that answers for a channel: an adapter that ends vLLM's engine takes nobody with it.

An instance is one for (instruct artifact, flags); the image is the host's.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from tasks.domain.models import Digest
from tasks.endpoints.profile import ServedAdapter, ServingProfile
from tasks.endpoints.wishes import Wish, instance_name

SHARED = "adapters"
"""What stands for the channel of an instance that answers for several."""
_FIRST = ("live", "routed")

Key = tuple[Digest, str]
"""Instruct artifact, and the profile without adapters as JSON."""


class Shares(NamedTuple):
    """What should run, and who answers where."""

    wishes: list[Wish]
    """Instances, in order of importance: those that hold adapters in the place of their first one."""
    of: dict[str, str]
    """Name of an adapter's wish -> the instance that answers for it."""


def is_shared(wish: Wish) -> bool:
    """Whether a wish is for an instance that holds adapters for several channels."""
    return wish.channel == SHARED and bool(members(wish))


def members(wish: Wish) -> tuple[str, ...]:
    """Names of what such an instance answers for, as `instance_name` makes them."""
    held = wish.extra.get("profile", {}).get("adapters", ())
    return tuple(instance_name(channel, digest) for channel, digest in held)


def share(
    wishes: Sequence[Wish],
    models: Mapping[Digest, Digest],
    known: Mapping[str, Wish],
    ready: Collection[str],
    routed: Mapping[str, str],
    default: ServingProfile,
) -> Shares:
    """Put adapters into as few instances as their safety allows; what is no adapter stays as it is.

    Args:
        wishes: as `wishes_of` orders them.
        models: adapter -> the artifact that it is served over.
        known: instances that hold adapters and were started, or are to be, by name; none that fails again and again.
        ready: those of them that answer.
        routed: name of an adapter's wish -> the instance that the routes name for it now.
        default: how what brings no profile is served.
    """
    groups: dict[Key, list[Wish]] = {}
    for wish in wishes:
        if wish.digest in models:
            groups.setdefault(_key(wish, models[wish.digest], known, default), []).append(wish)
    placed: dict[str, Wish] = {}
    for key, group in groups.items():
        placed |= _place(key, group, {n: w for n, w in known.items() if _key_of(w) == key}, ready, routed)
    return _in_order(wishes, models, placed, _together(groups, placed))


def _place(
    key: Key, group: Sequence[Wish], known: Mapping[str, Wish], ready: Collection[str], routed: Mapping[str, str]
) -> dict[str, Wish]:
    """Each wish of one group, and the instance that is to answer for it."""
    core = [wish for wish in group if wish.keep in _FIRST]
    up = {name: wish for name, wish in known.items() if name in ready}
    placed: dict[str, Wish] = {}
    home = _best(up, [wish.name for wish in core], routed) if core else None
    for wish in core:
        held = home or _best(up, [wish.name], routed)
        if held is not None:
            placed[wish.name] = held
    left = [wish.name for wish in core if wish.name not in placed]
    if left:
        new = _best(known, left, routed) or _instance(key, core)
        placed |= dict.fromkeys(left, new)
    for wish in group:
        if wish.name not in placed:
            chosen = {one.name: one for one in placed.values() if one.name in ready}
            found = _best(chosen, [wish.name], routed) or _best(up, [wish.name], routed)
            beside = [] if wish.keep == "previous" else core  # it is what is left when one of these does not come up
            placed[wish.name] = found or _best(known, [wish.name], routed) or _instance(key, [*beside, wish])
    return placed


def _best(among: Mapping[str, Wish], names: Sequence[str], routed: Mapping[str, str]) -> Wish | None:
    """The one that holds all these: which most of them are routed to; then the one that holds least besides."""
    holding = [wish for wish in among.values() if set(names) <= set(members(wish))]
    answering = {wish.name: sum(routed.get(name) == wish.name for name in names) for wish in holding}
    return min(holding, key=lambda one: (-answering[one.name], len(members(one)), one.name), default=None)


def _together(groups: Mapping[Key, Sequence[Wish]], placed: Mapping[str, Wish]) -> list[Wish]:
    """Where what is live has ended up in several instances and nothing is tried now: one instance for all of it."""
    found = []
    for key, group in groups.items():
        core = [wish for wish in group if wish.keep in _FIRST]
        if len({placed[wish.name].name for wish in core}) > 1 and not any(wish.keep == "staged" for wish in group):
            found.append(_instance(key, core)._replace(keep="staged"))
    return found


def _in_order(
    wishes: Sequence[Wish], models: Mapping[Digest, Digest], placed: Mapping[str, Wish], more: Sequence[Wish]
) -> Shares:
    found: dict[str, Wish] = {}
    for wish in wishes:
        if wish.digest not in models:
            found[wish.name] = wish
            continue
        one = placed[wish.name]
        before = found.get(one.name)
        asked = [at for at in (before.asked_at if before else None, wish.asked_at) if at is not None]
        keep = before.keep if before else wish.keep
        found[one.name] = one._replace(keep=keep, asked_at=max(asked, default=None))
    for one in more:
        found.setdefault(one.name, one)
    return Shares(list(found.values()), {name: one.name for name, one in placed.items()})


def _instance(key: Key, wishes: Sequence[Wish]) -> Wish:
    """The wish for an instance that holds the adapters of ``wishes``; the same ones give the same name."""
    held = sorted({ServedAdapter(wish.channel, wish.digest) for wish in wishes})
    profile = {**json.loads(key[1]), "adapters": [list(one) for one in held]}
    told = json.dumps([key, held])
    name = instance_name(SHARED, hashlib.sha256(told.encode()).hexdigest())
    return Wish(name, SHARED, key[0], "", wishes[0].keep, {"profile": profile}, None)


def _key(wish: Wish, model: Digest, known: Mapping[str, Wish], default: ServingProfile) -> Key:
    if not wish.extra.get("profile"):  # how it was served is not on record any more: as whoever holds it serves it
        for one in known.values():
            if one.digest == model and wish.name in members(one):
                return _key_of(one)
    return model, _flags(wish.extra.get("profile") or default.to_extra()["profile"])


def _key_of(wish: Wish) -> Key:
    return wish.digest, _flags(wish.extra["profile"])


def _flags(profile: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in profile.items() if name != "adapters"}, sort_keys=True)
