"""Was anything lost, or answered by what should not have answered? A pure function of what a soak has written down.

What the routes allowed at a moment is bounded from both sides, so no tolerance is needed: not older than the newest
serial that the gateway had said to have loaded before the request was sent, not newer than the last one written before
the first byte of the answer.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from tests.soak.records import Event, Record, Soak, Written

SHOWN = 3


class Wanted(NamedTuple):
    """How much a soak must have asked for its word to count."""

    requests: int = 2000
    streams: int = 200
    in_flight: int = 20
    """Requests under way at the moment of each event."""
    acknowledged_seconds: float | None = 2.0
    """At most, from the last check's end to the gateway's acknowledgement; None: told, and not judged."""
    switch_seconds: float | None = 0.05
    """At most, from the writing of the routes until the gateway sends by them; None: told, and not judged."""


class Finding(NamedTuple):
    """One rule."""

    rule: str
    seen: str
    problems: tuple[str, ...]


def judge(soak: Soak, wanted: Wanted) -> list[Finding]:
    """Every rule, each with what was seen and what breaks it."""
    rules: list[tuple[str, Callable[[Soak, Wanted], tuple[str, list[str]]]]] = [
        ("load", _load),
        ("nothing lost", _nothing_lost),
        ("kills", _kills),
        ("attributable", _attributable),
        ("right model", _right_model),
        ("refused artifacts", _refused),
        ("switches", _switches),
        ("switch times", _times),
        ("events", _events),
        ("processes", _processes),
    ]
    return [Finding(name, seen, tuple(problems)) for name, rule in rules for seen, problems in [rule(soak, wanted)]]


def under_way(records: Sequence[Record], at: float) -> list[Record]:
    """What was asked and not yet ended at a moment."""
    return [one for one in records if one.sent <= at < one.ended]


def switches_of(soak: Soak, event: Event) -> int:
    """How many times another artifact answered for the channel than before, while an event lasted."""
    before = [one for one in soak.written if one.at <= event.began]
    seen = [*before[-1:], *(one for one in soak.written if event.began < one.at <= event.ended)]
    return sum(one.instance != other.instance for one, other in pairwise(seen))


def broken_streams(soak: Soak, event: Event) -> list[Record]:
    """Streams of the killed artifact that were open when its instance was killed, and were not answered whole."""
    return [one for one in _open_streams(soak, event) if one.end != "whole"]


def lost_of(soak: Soak) -> list[Record]:
    """What was not answered whole, but for streams that were open on an instance when it was killed."""
    excused = {one.number for event in soak.events if event.killed for one in broken_streams(soak, event)}
    return [one for one in soak.records if one.end != "whole" and one.number not in excused]


def _open_streams(soak: Soak, event: Event) -> list[Record]:
    """Its first byte may have been read after the kill: it lay in a buffer. Without one it is asked again."""
    mine = [one for one in under_way(soak.records, event.at) if one.is_stream and one.artifact == event.killed]
    return [one for one in mine if one.first is not None]


def _load(soak: Soak, wanted: Wanted) -> tuple[str, list[str]]:
    streams = sum(one.is_stream for one in soak.records)
    problems = []
    if len(soak.records) < wanted.requests:
        problems.append(f"{len(soak.records)} requests, at least {wanted.requests} are expected")
    if streams < wanted.streams:
        problems.append(f"{streams} streams, at least {wanted.streams} are expected")
    for event in soak.events:
        count = len(under_way(soak.records, event.at))
        if count < wanted.in_flight:
            problems.append(f"{count} under way at {event.name}, at least {wanted.in_flight} are expected")
    return f"{len(soak.records)} requests, {streams} of them streams", problems


def _nothing_lost(soak: Soak, _: Wanted) -> tuple[str, list[str]]:
    lost = lost_of(soak)
    return f"{len(lost)} lost", [_lost(one) for one in lost]


def _kills(soak: Soak, _: Wanted) -> tuple[str, list[str]]:
    """What was open on a killed instance may break off; it must say so."""
    counted, problems = [], list[str]()
    for event in soak.events:
        if not event.killed:
            continue
        broken = broken_streams(soak, event)
        counted.append(f"{len(broken)} of {len(_open_streams(soak, event))} open streams broken by {event.name}")
        problems += [f"{_lost(one)}: expected an error event" for one in broken if one.end != "error event"]
    return "; ".join(counted) or "none", problems


def _attributable(soak: Soak, _: Wanted) -> tuple[str, list[str]]:
    problems = []
    for one in _answered(soak):
        known = soak.releases.get(one.artifact)
        if known is None:
            problems.append(f"request {one.number} was answered by artifact {one.artifact[:12] or '(no header)'}")
        elif one.release != known:
            problems.append(f"request {one.number} of {one.artifact[:12]} says release {one.release}, it is {known}")
        elif one.version == "live" and one.generation is None:
            problems.append(f"request {one.number} was answered by the live version without its generation")
    return f"{len({one.artifact for one in _answered(soak)})} artifacts", problems


def _right_model(soak: Soak, _: Wanted) -> tuple[str, list[str]]:
    problems = [f"routes {gap} were written and not seen" for gap in _gaps(soak.written)]
    for one in _answered(soak):
        asked = f"{soak.channel}@{one.artifact[:12]}"
        allowed = allowed_for(soak, one)
        if one.said != asked:
            problems.append(f"request {one.number}: the header says {asked}, the answer {one.said}")
        elif one.mark and one.mark != one.artifact[:12]:
            problems.append(f"request {one.number}: the header says {asked}, the text was written by {one.mark}")
        elif not any(_permits(routes, one) for routes in allowed):
            told = "; ".join(f"{r.serial}: {(r.instance or '-')[:12]} g{r.generation}" for r in allowed)
            told = told or "no routes"
            problems.append(
                f"request {one.number}: {asked} g{one.generation} as {one.version} answered, allowed: {told}"
            )
    return f"{len(_answered(soak))} answers compared with {len(soak.written)} routes", problems


def allowed_for(soak: Soak, record: Record) -> list[Written]:
    """The routes by which this request may have been answered."""
    least = max((one.serial for one in soak.loaded if one.at <= record.sent), default=0)
    until = record.ended if record.first is None else record.first
    last = bisect_right([one.at for one in soak.written], until)
    earlier = [one for one in soak.written[:last] if one.serial <= least]
    return [*earlier[-1:], *(one for one in soak.written[:last] if one.serial > least)]


def _permits(routes: Written, record: Record) -> bool:
    if record.version == "canary":
        return record.artifact == routes.canary and record.generation is None
    return record.artifact == routes.instance and record.generation == routes.generation


def _refused(soak: Soak, _: Wanted) -> tuple[str, list[str]]:
    problems = []
    for event in soak.events:
        since = event.ended if event.may_answer else event.began
        strange = [
            one for one in _answered(soak) if event.refused and one.artifact == event.refused and one.sent >= since
        ]
        problems += [
            f"request {one.number} was answered by {event.refused[:12]}, refused by {event.name}" for one in strange
        ]
    return f"{sum(bool(event.refused) for event in soak.events)} refused", problems


def _switches(soak: Soak, _: Wanted) -> tuple[str, list[str]]:
    expected = [event for event in soak.events if event.switches is not None]
    found = [(event, switches_of(soak, event)) for event in expected]
    problems = [
        f"{seen} switches in {one.name}, {one.switches} expected" for one, seen in found if seen != one.switches
    ]
    return f"{sum(seen for _, seen in found)} in {len(found)} events", problems


def _times(soak: Soak, wanted: Wanted) -> tuple[str, list[str]]:
    """Only the longest counts: each promotion is waited for by somebody."""
    problems, told = [], []
    limits = (wanted.acknowledged_seconds, wanted.switch_seconds)
    names = ("from the last check to the acknowledgement", "the switch itself")
    for name, limit, attribute in zip(names, limits, ("acknowledged_seconds", "switch_seconds"), strict=True):
        found = [(seconds, one.name) for one in soak.events if (seconds := getattr(one, attribute)) is not None]
        longest = f"{max(found)[0]:.3f} s" if found else "not measured"
        told.append(f"{name} {longest} at most" + ("" if limit is None else f" ({limit:g} s allowed)"))
        if limit is None:
            continue
        problems += [f"{event}: {name} took {seconds:.3f} s" for seconds, event in found if seconds > limit]
        problems += [] if found else [f"{name} was not measured"]
    return "; ".join(told), problems


def _events(soak: Soak, _: Wanted) -> tuple[str, list[str]]:
    return f"{len(soak.events)}", [f"{one.name}: {problem}" for one in soak.events for problem in one.problems]


def _processes(soak: Soak, _: Wanted) -> tuple[str, list[str]]:
    return f"{len(soak.left)} left", [f"still alive: {one}" for one in soak.left]


def _answered(soak: Soak) -> list[Record]:
    return [one for one in soak.records if one.status == 200 and one.first is not None]


def _gaps(written: Sequence[Written]) -> Iterator[str]:
    for one, following in pairwise(written):
        if following.serial != one.serial + 1:
            yield f"{one.serial + 1} to {following.serial - 1}"


def _lost(one: Record) -> str:
    kind = "stream" if one.is_stream else "request"
    return f"{kind} {one.number} to {one.artifact[:12] or 'nobody'} ended: {one.end} {one.status} {one.error}".strip()
