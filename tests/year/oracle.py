"""What is true of a history, found out without a line of the product, and what a lived year must then look like.

The rules are those of the design: a release is a repository of the family's names whose files are whole, public and
unchanged for an hour; the same files are never a second one; whoever took over a name is not trusted; the newest release
is merged for every target, and an older one only if nothing newer came while it waited.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.year.clock import START
from tests.year.contents import Content
from tests.year.history import Event, History
from tests.year.simulation import SETTLE, Year
from tests.year.workers import outcome_of

SOON = timedelta(minutes=45)
"""By when a settled release is on record if nothing fails: a first sight, a second one, and what rounding adds."""
LATE = timedelta(hours=12)
"""The same with faults: the longest time without a watch is seven hours, and the Hub may fail right after it."""
OVERTAKEN = timedelta(hours=48)
"""A release that is followed by another within this time need not be merged: it may have waited for a worker or a person."""
FINISHED = ("published", "rejected", "kept")
EXCUSED = ("stalls", "late", "dies")
"""Fates of runs that lost their lease: such a run may finish, and another one finishes the job."""
FOREVER = datetime.max.replace(tzinfo=START.tzinfo)


@dataclass
class Segment:
    """A time in which nothing happened to one repository."""

    key: str
    begins: datetime
    ends: datetime
    name: str
    content: Content
    changed: datetime
    """When its last commit was made."""
    private: bool
    gated: bool
    disabled: bool
    deleted: bool
    strange: bool
    """Its name was another repository's before, and nobody has looked."""

    @property
    def quiet(self) -> datetime:
        """From when on it is settled."""
        return max(self.begins, self.changed + SETTLE)


@dataclass
class True_:
    """One true release."""

    family: str
    digest: str
    due: datetime
    certain: bool
    """False where it was settled too shortly for it to be found without doubt."""


@dataclass
class Truth:
    """All that follows from a history."""

    releases: dict[tuple[str, str], True_] = field(default_factory=dict)
    """(family, content digest) -> it."""
    holds: set[tuple[str, str]] = field(default_factory=set)
    """Repository and kind of each hold that is left at the end."""


def segments(history: History, end: datetime) -> Iterator[Segment]:
    """Every repository's life until ``end``, piece by piece."""
    by_key: dict[str, list[Event]] = defaultdict(list)
    owners: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for event in history.events:
        if event.at < end:
            by_key[event.key].append(event)
            if event.kind in ("create", "rename"):
                owners[event.name].append((event.at, event.key))
    for key, events in by_key.items():
        now = Segment(key, events[0].at, FOREVER, "", events[0].content, events[0].at, *[False] * 5)  # type: ignore[arg-type]
        for place, event in enumerate(events):
            now.begins, now.ends = event.at, events[place + 1].at if place + 1 < len(events) else FOREVER
            if event.kind in ("create", "rename"):
                now.name = event.name
                now.strange = any(at < event.at and other != key for at, other in owners[event.name])
            if event.kind == "create":
                now.private, now.gated = event.private, event.gated
            if event.content is not None:
                now.content, now.changed = event.content, event.at
            now.private = now.private and event.kind != "open"
            now.gated = now.gated and event.kind != "grant"
            now.strange = now.strange and event.kind != "trust"
            now.disabled = now.disabled or event.kind == "disable"
            now.deleted = event.kind == "delete"
            yield Segment(**vars(now))


def truth_of(history: History, end: datetime) -> Truth:
    """What must be on record and held when the year is over."""
    truth = Truth()
    found = [s for s in segments(history, end) if s.name in history.rule_names and not s.private]
    for s in sorted(found, key=lambda s: s.quiet):
        usable = not (s.deleted or s.disabled or s.strange or s.gated) and s.content.label == "good"
        if usable and s.quiet < s.ends:
            family = history.rule_names[s.name]
            new = True_(family, s.content.identity, s.quiet, s.ends - s.quiet > LATE)
            known = truth.releases.setdefault((family, new.digest), new)
            if not known.certain and new.certain:
                truth.releases[family, new.digest] = new
    gone = {s.name for s in found if s.deleted}
    for s in found:
        if s.ends == FOREVER and (kind := _held(s, truth, history)):
            truth.holds.add((s.name, kind))
    for name in gone:
        back = [s for s in found if s.name == name and s.ends == FOREVER and not s.deleted]
        released = any(
            s.name == name and (history.rule_names[name], s.content.identity) in truth.releases for s in found
        )
        if released and all(s.strange for s in back):
            truth.holds.add((name, "vanished"))
    return truth


def _held(s: Segment, truth: Truth, history: History) -> str:
    if s.deleted:
        return ""
    if s.disabled:
        return "disabled"
    if s.strange:
        return "identity"
    if s.gated:
        return "gated"
    return "" if s.content.label == "good" else s.content.label


def kind_of(reason: str) -> str:
    """The word that a hold's reason stands for."""
    return "preflight" if "cannot be merged with base" in reason else reason.partition(":")[0]


def violations(year: Year, end: datetime, *, faults: bool) -> list[str]:
    """Every way in which the lived year is not as it must be, one line each."""
    truth = truth_of(year.history, end)
    return [
        *year.problems,
        *_releases(year, truth, LATE if faults else SOON),
        *_jobs(year, truth),
        *_channels(year, truth),
        *_holds(year, truth),
        *([f"{year.working} runs have not come to an end"] if year.working else []),
    ]


def _releases(year: Year, truth: Truth, bound: timedelta) -> Iterator[str]:
    recorded = {(family, r.content_digest): r for family, found in year.releases.items() for r in found}
    for key, true in truth.releases.items():
        if key not in recorded:
            if true.certain:
                yield f"missed: the release {true.digest[:12]} of {true.family}, settled at {true.due}"
            continue
        seen = recorded[key].seen_at
        if seen < true.due:
            yield f"early: {recorded[key].ref} was put on record at {seen}, and settled at {true.due}"
        if seen > true.due + bound and true.certain:
            yield f"late: {recorded[key].ref} settled at {true.due} and was put on record {seen - true.due} later"
    for key in recorded.keys() - truth.releases.keys():
        yield f"no release: {recorded[key].ref} of {key[0]} is on record, and is none"


def _jobs(year: Year, truth: Truth) -> Iterator[str]:
    ended: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
    for key, outcome, run in year.ends:
        if outcome in FINISHED:
            ended[year.jobs[key]].append((outcome, run))
    targets = {target for _, target, _ in year.jobs.values()}
    recorded = {(family, r.content_digest) for family, found in year.releases.items() for r in found}
    for family, target, digest in ended.keys():
        if (family, digest) not in truth.releases:
            yield f"job for what is no release: {family} x {target}, {digest[:12]}"
    for (family, digest), true in truth.releases.items():
        for target in targets if (family, digest) in recorded else ():
            ends = ended[family, target, digest]
            expected, told = outcome_of(digest, target), f"{family} x {target}, {digest[:12]} of {true.due:%m-%d %H:%M}"
            sound = [outcome for outcome, run in ends if year.runs.get(run) not in EXCUSED]
            if len(sound) > 1:
                yield f"doubled: {told} was finished by {len(sound)} runs that never lost their lease"
            if any(outcome != expected for outcome, _ in ends):
                yield f"wrong end: {told} ended as {[outcome for outcome, _ in ends]}, expected {expected}"
            if not ends and true.certain and not _overtaken(true, target, truth):
                yield f"no job finished: {told}"


def _overtaken(true: True_, target: str, truth: Truth) -> bool:
    """Whether a newer release that was not rejected came so soon that this one need not be merged."""
    return any(
        other.family == true.family
        and other.digest != true.digest
        and -SOON < other.due - true.due < OVERTAKEN
        and outcome_of(other.digest, target) != "rejected"
        for other in truth.releases.values()
    )


def _channels(year: Year, truth: Truth) -> Iterator[str]:
    digests = {(family, r.ref): r.content_digest for family, found in year.releases.items() for r in found}
    for channel, newest_first in year.channels.items():
        served: list[True_] = []
        for promotion in reversed(newest_first):
            true = truth.releases.get((promotion.family, digests[promotion.family, promotion.release]))
            if true is None:
                continue  # told above
            if served and true.due < served[-1].due - timedelta(minutes=10):
                yield f"went back: {channel} served the release of {served[-1].due}, and then that of {true.due}"
            if any(before.digest == true.digest for before in served):
                yield f"doubled: {channel} was switched to {promotion.release} twice"
            served.append(true)


def _holds(year: Year, truth: Truth) -> Iterator[str]:
    found = set()
    for key, reason in year.holds.items():
        if not key.startswith("release:"):
            yield f"hold without need: {key} ({reason})"
            continue
        found.add((key.removeprefix("release:").partition("@")[0], kind_of(reason)))
    for name, kind in sorted(truth.holds - found):
        yield f"not held: {name} should be, as {kind}"
    for name, kind in sorted(found - truth.holds):
        yield f"held: {name} as {kind}, and should not be"


def differences(year: Year, other: Year, end: datetime) -> list[str]:
    """Where a year with faults has another end than the same year without them."""
    truth, told = truth_of(year.history, end), []
    for family, releases in year.releases.items():
        ours, theirs = {r.content_digest for r in releases}, {r.content_digest for r in other.releases[family]}
        certain = {digest for of, digest in truth.releases if of == family and truth.releases[of, digest].certain}
        told += [f"only with faults or only without: {family} {d[:12]}" for d in (ours ^ theirs) & certain]
    kinds = [{(key.partition("@")[0], kind_of(reason)) for key, reason in y.holds.items()} for y in (year, other)]
    told += [f"held only with faults or only without: {one}" for one in sorted(kinds[0] ^ kinds[1])]
    for channel, promotions in year.channels.items():
        last = [_last(y, channel, truth) for y in (year, other)]
        if last[0] != last[1] and (None in last or abs(last[0].due - last[1].due) > OVERTAKEN):  # type: ignore[union-attr]
            told.append(f"{channel} serves {last[0]} with faults, {last[1]} without; {len(promotions)} switches")
    return told


def _last(year: Year, channel: str, truth: Truth) -> True_ | None:
    if not year.channels[channel]:
        return None
    newest = year.channels[channel][0]
    digest = next(r.content_digest for r in year.releases[newest.family] if r.ref == newest.release)
    return truth.releases.get((newest.family, digest))
