"""What is true of a history, found out without a line of the product.

The rules are those of the design: a release is a repository of the family's names whose files are whole, public and
unchanged for an hour; the same files are never a second one; whoever took over a name is not trusted.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.year.clock import START
from tests.year.contents import Content
from tests.year.events import Event, History

SETTLE = timedelta(hours=1)
SOON = timedelta(minutes=45)
"""By when a settled release is on record if nothing fails: a first sight, a second one, and what rounding adds."""
LATE = timedelta(hours=12)
"""The same with faults: the longest time without a watch is seven hours, and the Hub may fail right after it."""
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
    visible: datetime
    """Since when anybody sees it under this name."""
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
    out: datetime
    """When it came out: its last commit, or its opening or naming after that. By this releases are older and newer."""
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
        now = Segment(
            key, events[0].at, FOREVER, "", events[0].content, events[0].at, *[False] * 4, events[0].at, False
        )  # type: ignore[arg-type]
        for place, event in enumerate(events):
            now.begins, now.ends = event.at, events[place + 1].at if place + 1 < len(events) else FOREVER
            if event.kind in ("create", "rename"):
                now.name = event.name
                now.strange = any(at < event.at and other != key for at, other in owners[event.name])
            if event.kind == "create":
                now.private, now.gated = event.private, event.gated
            if event.content is not None:
                now.content, now.changed = event.content, event.at
            if event.kind in ("create", "rename", "open"):
                now.visible = event.at
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
            out = max(s.changed, s.visible)
            new = True_(family, s.content.identity, s.quiet, out, s.ends - s.quiet > LATE)
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
