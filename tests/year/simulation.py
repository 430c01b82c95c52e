"""A year of one installation: events of the Hub, watches, workers, faults and a person, in the order of their moments.

A watch of the product comes every ten minutes, 52,560 times a year. Here the ticks are watched that can find something
(after each event, when it settles, after a failed watch, when a job ended badly or made room), a share of the others,
and on each of those only the families concerned; every six days a whole watch that must find nothing new is made, and
shown to write nothing. What a watch does is the product's own: ``find_releases``, ``plan_due``, ``room``, ``dispatch``.
"""

import heapq
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from sqlalchemy import func, select

from tasks import doors
from tasks.domain.errors import TransientError
from tasks.domain.models import Release
from tasks.hub import find_releases
from tasks.ledger import WATCH
from tasks.plan import dispatch, plan_due, room
from tasks.store.ledger import Ledger
from tasks.store.tables import metadata
from tests.year.broken import Claimless, WatermarkSource
from tests.year.clock import START, Clock
from tests.year.history import Event, History, make_history
from tests.year.hub import SimulatedHub, SimulatedSource, make_outages
from tests.year.workers import Workers
from tests.year.world import installation

TICK = timedelta(minutes=10)
SETTLE = timedelta(hours=1)
CRASHES, OVERLAPS, ENDS_WATCHED, OTHERS_WATCHED = 0.015, 0.03, 0.05, 0.1
"""Shares: of watches that crash, and that another one comes into; of ends of jobs, and of events that are no release's,
that are watched."""
IDLE_EVERY = timedelta(days=6)


class Crash(BaseException):
    """The watch's process is gone: nothing of it runs any more, not even what gives its claim back."""


@dataclass
class Year:
    """What is left of a simulated year, for the oracle and the table."""

    history: History
    releases: dict[str, list[Release]]
    holds: dict[str, str]
    channels: dict[str, list[Any]]
    ends: list[tuple[str, str, str]]
    """Job key, outcome and run of every end on record."""
    jobs: dict[str, tuple[str, str, str]]
    """Job key -> family, target, content digest of the release."""
    runs: dict[str, str]
    """Run -> fate of its worker."""
    working: int
    problems: list[str]
    """What the simulation itself saw go wrong."""
    figures: dict[str, Any] = field(default_factory=dict)


class Simulation:
    """One run through a history."""

    def __init__(
        self, history: History, seed: int, days: int, world: SimpleNamespace, clock: Clock, *, faults: bool, broken: str
    ) -> None:
        self._rng = Random(f"{seed}/faults")
        self._history, self._days, self._clock, self._faults, self._broken = history, days, clock, faults, broken
        self._ledger: Ledger = world.ledger
        self._hub = SimulatedHub()
        outages = make_outages(Random(f"{seed}/outages"), days) if faults else []
        kind = WatermarkSource if broken == "watermark" else SimulatedSource
        self._source = kind(self._hub, clock, self._rng, outages)
        self._workers = Workers(self._ledger, clock, Random(f"{seed}/workers"), world.runtime, faults=faults)
        world.use(self._source, self._start_run)
        self._agenda: list[tuple[datetime, int, str, Any]] = []
        self._order = 0
        self._ticks: dict[datetime, set[str]] = defaultdict(set)
        self._without_room: set[str] = set()
        self._down = self._downtimes(Random(f"{seed}/down"))
        self._family_of = self._families_by_organisation()
        self._crash_in: int | None = None
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.poll_calls: list[tuple[int, int]] = []
        """Families and calls of every watch."""

    # --- what is to come ---------------------------------------------------------------------------------------------
    def _put(self, at: datetime, kind: str, what: Any = None) -> None:
        self._order += 1
        heapq.heappush(self._agenda, (at, self._order, kind, what))

    def _watch_at(self, at: datetime, *families: str) -> None:
        """Watch these families at the first tick at or after ``at``."""
        tick = START + -(-(max(at, self._clock.at) - START) // TICK) * TICK
        if not families:
            return
        if tick not in self._ticks:
            self._put(tick, "tick", tick)
        self._ticks[tick].update(families)

    def _downtimes(self, rng: Random) -> list[tuple[datetime, datetime]]:
        """Ten times a year nothing is watched for one to seven hours."""
        if not self._faults:
            return []
        begins = [START + timedelta(days=rng.uniform(2, self._days)) for _ in range(max(1, 10 * self._days // 365))]
        return [(at, at + timedelta(hours=rng.uniform(1, 7))) for at in begins]

    def _families_by_organisation(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for plan in self._history.families:
            for organisation in plan.organisations:
                found[organisation].append(plan.name)
        return found

    # --- the run -----------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Through the whole year, and on until nothing is due and nobody works."""
        end = START + timedelta(days=self._days)
        for event in self._history.events:
            if event.at < end:
                self._put(event.at, "event", event)
        for number in range(1, self._days // IDLE_EVERY.days):
            self._put(START + number * IDLE_EVERY + timedelta(minutes=10 * self._rng.randint(0, 143)), "idle")
        for number, plan in enumerate(self._history.families):
            self._put(
                START + timedelta(days=self._days * (number + 1) / (len(self._history.families) + 1)),
                "rescan",
                plan.name,
            )
        self._until(end)
        self._faults, self._down, self._source._outages = False, [], []
        everything = [plan.name for plan in self._history.families]
        for place in range(100):
            self._watch_at(self._clock.at + TICK, *everything)
            self._watch_at(self._clock.at + 2 * TICK, *everything)
            self._until(self._clock.at + timedelta(hours=2))
            if place > 0 and not self._workers.working() and not self._agenda and not self._without_room:
                return
        self.problems.append("two hundred hours after its end, the year has not come to rest")

    def _until(self, end: datetime) -> None:
        while True:
            step, planned = self._workers.next_step(), self._agenda[0][0] if self._agenda else None
            first = min((moment for moment in (step, planned) if moment is not None), default=None)
            if first is None or first > end:
                self._clock.to(end)
                return
            if first == step:
                self._after(self._workers.step())
                continue
            at, _, kind, what = heapq.heappop(self._agenda)
            self._clock.to(at)
            getattr(self, f"_{kind}")(what)

    def _after(self, family: str | None) -> None:
        """A worker did something: watch where that may have changed the plan."""
        for at, key in self._workers.asked:
            self._put(at, "lift", key)
        self._workers.asked.clear()
        if family is not None:
            bad = (
                self._workers.last_state in ("Crashed", "Failed", "Stalled") or self._workers.last_outcome == "rejected"
            )
            if bad or self._without_room or self._rng.random() < ENDS_WATCHED:
                self._watch_at(self._clock.at + timedelta(minutes=1), family, *self._without_room)

    def _event(self, event: Event) -> None:
        if event.kind == "trust":
            return self._trust(event)
        before = self._hub.by_key.get(event.key)
        private = event.private or (before is not None and before.private and event.kind != "open")
        self._hub.apply(event)
        name = self._hub.by_key[event.key].name
        families = self._family_of.get(name.split("/")[0], [])
        ours = name in self._history.rule_names or (before is not None and event.kind == "rename")
        if self._clock.at < START + timedelta(minutes=1):
            self._watch_at(self._clock.at + SETTLE, *families)
            self._watch_at(self._clock.at + SETTLE + TICK, *families)
        elif (ours and not private) or self._rng.random() < OTHERS_WATCHED:
            self._watch_at(self._clock.at, *families)
            if event.kind != "commit":  # what was opened, renamed or let in has settled long ago: the second sight
                self._watch_at(self._clock.at + TICK, *families)
            self._put(
                self._clock.at + SETTLE, "settled", (event.key, self._hub.by_key[event.key].commits[-1][0], families)
            )
            if ours and not private and self._faults and name[-1] in "02468":
                self._webhook(families)

    def _settled(self, what: tuple[str, datetime, list[str]]) -> None:
        """An hour after a commit, if no other has come: the first sight of the settled state, and the second."""
        key, at, families = what
        if self._hub.by_key[key].commits[-1][0] == at:
            self._watch_at(self._clock.at, *families)
            self._watch_at(self._clock.at + TICK, *families)

    def _webhook(self, families: list[str]) -> None:
        """There is one for every other repository. It is lost, or comes, or comes twice, within half a minute."""
        times = self._rng.choices((0, 1, 2), (15, 70, 15))[0]
        self.counts["webhooks lost" if times == 0 else "webhooks doubled" if times == 2 else "webhooks"] += 1
        for _ in range(times):
            self._put(self._clock.at + timedelta(seconds=self._rng.uniform(1, 30)), "nudge", families)

    def _nudge(self, families: list[str]) -> None:
        self.watch(set(families))

    def _trust(self, event: Event) -> None:
        """A person has found out who owns the name now."""
        name = self._hub.by_key[event.key].name
        for hold in self._ledger.holds():
            if hold.key.startswith(f"release:{name}@"):
                self._lift(hold.key)
        self._watch_at(self._clock.at, *self._family_of[name.split("/")[0]])
        self._watch_at(self._clock.at + TICK, *self._family_of[name.split("/")[0]])

    def _lift(self, key: str) -> None:
        self.counts["holds lifted by a person"] += 1
        self._ledger.lift(key, "looked at")
        self._watch_at(self._clock.at + timedelta(minutes=1), *(plan.name for plan in self._history.families))

    def _tick(self, tick: datetime) -> None:
        self.watch(self._ticks.pop(tick))

    def _rescan(self, family: str) -> None:
        self.watch({family}, full_rescan=True)

    def _idle(self, _: None) -> None:
        """Watch everything twice: the second watch must write nothing."""
        everything = {plan.name for plan in self._history.families}
        if self.watch(everything, crashing=False) and not self._workers.next_step():
            before = self.rows()
            calls = self._source.asked.total()
            if self.watch(everything, crashing=False):
                self.counts["idle watches"] += 1
                self.counts["idle calls"] += self._source.asked.total() - calls
                after = self.rows()
                changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
                # The claim that keeps two watches apart is an attempt by itself.
                if changed.keys() - {"attempts"}:
                    self.problems.append(f"an idle watch at {self._clock.at} wrote rows: {changed}")

    # --- a watch -----------------------------------------------------------------------------------------------------
    def watch(self, families: set[str], *, full_rescan: bool = False, crashing: bool = True) -> bool:
        """What ``watch_hub`` does, for some families; whether it came to its end."""
        if any(begins <= self._clock.at < ends for begins, ends in self._down):
            self.counts["watches skipped"] += 1
            return self._again(families, timedelta(minutes=30))
        self._workers.renew()
        self.counts["watches"] += 1
        started = time.perf_counter()
        owner = f"run:watch-{self.counts['watches']}"
        claim = self._ledger.claim(WATCH, owner=owner, lease_seconds=doors.settings().pending_seconds)
        if claim is None:
            self.counts["watches beside another"] += 1
            return self._again(families)
        calls = self._source.asked.total()
        try:
            with self._crashes(crashing):
                self._watched(families, full_rescan)
        except Crash:
            self.counts["watches crashed"] += 1
            return self._again(families)
        except TransientError:
            self.counts["watches failed"] += 1
            self._ledger.release(claim)
            return self._again(families)
        finally:
            self.poll_calls.append((len(families), self._source.asked.total() - calls))
            self.seconds["watching"] += time.perf_counter() - started
        self._ledger.release(claim)
        return True

    def _watched(self, families: set[str], full_rescan: bool) -> None:
        rows = []
        for family in sorted(families):
            began = time.perf_counter()
            releases = find_releases.fn(family, full_rescan)
            found = time.perf_counter()
            rows += plan_due.fn(family, releases)
            self.seconds["detection"] += found - began
            self.seconds["planning"] += time.perf_counter() - found
            self.counts["family watches"] += 1
        if self._faults and self._rng.random() < (0.5 if self._broken == "claims" else OVERLAPS):
            self.watch(families, crashing=False)  # another one, after we have planned and before we dispatch
        due = [row for row in rows if row.standing == "due"]
        free = room()
        dispatched = [name for row in due[:free] if (name := dispatch.fn(row))]
        self.counts["dispatched"] += len(dispatched)
        self._without_room -= families
        self._without_room |= {row.family for row in due[free:]}

    def _again(self, families: set[str], wait: timedelta = TICK) -> bool:
        self._watch_at(self._clock.at + wait, *families)
        return False

    @contextmanager
    def _crashes(self, may: bool) -> Iterator[None]:
        """Let the watch crash before one of its calls or around one of its dispatches, now and then."""
        if not (may and self._faults and self._rng.random() < CRASHES):
            yield
            return
        self._crash_in = self._rng.choice((self._rng.randint(1, 8), self._rng.randint(1, 60)))
        self._source.before_call = self._count_down
        try:
            yield
        finally:
            self._crash_in = self._source.before_call = None

    def _count_down(self) -> None:
        if self._crash_in is not None:
            self._crash_in -= 1
            if self._crash_in <= 0:
                raise Crash

    def _start_run(self, name: str, **options: Any) -> SimpleNamespace:
        """Prefect's part, between two moments at which a watch may crash: before the run is there, and after."""
        self._count_down()
        run = self._workers.start_run(name, **options)
        self._watch_at(self._clock.at + timedelta(minutes=6), options["parameters"]["family"])
        self._count_down()
        return run

    # --- what is left ------------------------------------------------------------------------------------------------
    def rows(self) -> dict[str, int]:
        """Rows of each table of the ledger."""
        with self._ledger._read() as connection:
            return {
                name: connection.scalar(select(func.count()).select_from(table)) or 0
                for name, table in metadata.tables.items()
            }

    def year(self) -> Year:
        """All that the oracle and the table ask for."""
        ledger = self._ledger
        targets = [
            (family, target) for family in doors.open_catalog().families.values() for target in family.targets.values()
        ]
        facts = ledger.jobs()
        ends = metadata.tables["job_ends"].c
        with ledger._read() as connection:
            asked = select(ends.job_key, ends.outcome, ends.flow_run_id).order_by(ends.id)
            ended = [(row.job_key, row.outcome, row.flow_run_id) for row in connection.execute(asked)]
        return Year(
            history=self._history,
            releases={plan.name: ledger.releases(plan.name) for plan in self._history.families},
            holds={hold.key: hold.reason for hold in ledger.holds()},
            channels={target.channel: ledger.promotions(target.channel) for _, target in targets},
            ends=ended,
            jobs={f.job_key: (f.job.family, f.job.target, f.job.release.content_digest) for f in facts},
            runs={run.id: run.fate for run in self._workers.runs.values()},
            working=self._workers.working(),
            problems=self.problems,
            figures={
                "counts": self.counts,
                "calls": self._source.asked,
                "windows": self._source.windows,
                "failures": self._source.failures,
                "polls": self.poll_calls,
                "fates": self._workers.fates,
                "rows": self.rows(),
                "seconds": self.seconds,
            },
        )


def simulate(
    history: History, home: Path, *, seed: int, days: int, faults: bool = True, broken: str = "", database: str = ""
) -> Year:
    """Live through ``history``; see ``Simulation``.

    Args:
        history: what happens at the Hub.
        home: an empty folder.
        seed: of the faults.
        days: that are lived through.
        faults: whether there are any.
        broken: ``watermark``, ``settling`` or ``claims``: a simulation without that protection, which the oracle must see.
        database: URL of an empty database; SQLite in ``home`` if empty.
    """
    clock = Clock()
    kind = Claimless if broken == "claims" else Ledger
    settle = 0 if broken == "settling" else int(SETTLE.total_seconds())
    with installation(home, history.families, clock, database=database, settle_seconds=settle, kind=kind) as world:
        run = Simulation(history, seed, days, world, clock, faults=faults, broken=broken)
        run.run()
        return run.year()


def live(
    seed: int, days: int, families: int, repositories: int, *, faults: bool = True, broken: str = "", database: str = ""
) -> Year:
    """Make a history and live through it in a folder of its own; the year, with what it took among its figures."""
    history = make_history(seed, days=days, families=families, repositories=repositories)
    with tempfile.TemporaryDirectory(prefix="empelt-year-") as home:
        wall, cpu = time.perf_counter(), time.process_time()
        year = simulate(history, Path(home), seed=seed, days=days, faults=faults, broken=broken, database=database)
        year.figures["wall"], year.figures["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
        year.figures["bytes"] = sum(path.stat().st_size for path in Path(home).glob("ledger.db*"))
    return year
