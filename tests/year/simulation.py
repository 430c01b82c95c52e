"""A year of one installation: events of the Hub, watches, workers, faults and a person, in the order of their moments.

A watch of the product comes every ten minutes, 52,560 times a year. Here the ticks are watched that can find something
(after each event, when it settles, after a failed watch, when a job ended badly or made room), a share of the others,
and on each of those only the families concerned; every twelve days a whole watch that must find nothing new is made, and
shown to write nothing.
"""

import heapq
import tempfile
import time
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from tasks.store.ledger import Ledger
from tests.year.broken import Claimless, WatermarkSource
from tests.year.clock import START, Clock
from tests.year.events import Event, History
from tests.year.history import make_history
from tests.year.hub import SimulatedHub, SimulatedSource
from tests.year.lived import Year
from tests.year.outages import downtimes, make_outages
from tests.year.remains import remains, rows_of_tables
from tests.year.truth import SETTLE
from tests.year.watching import OVERLAPS, TICK, Watcher
from tests.year.workers import Workers
from tests.year.world import installation

ENDS_WATCHED, OTHERS_WATCHED = 0.05, 0.05
"""Shares: of good ends of jobs, and of events that are no release's, that are watched."""
IDLE_EVERY = timedelta(days=12)


class Simulation:
    """One run through a history."""

    def __init__(
        self, history: History, seed: int, days: int, world: SimpleNamespace, clock: Clock, *, faults: bool, broken: str
    ) -> None:
        self._rng = Random(f"{seed}/faults")
        self._history, self._days, self._clock, self._faults = history, days, clock, faults
        self._ledger: Ledger = world.ledger
        self._hub = SimulatedHub()
        outages = make_outages(Random(f"{seed}/outages"), days) if faults else []
        kind = WatermarkSource if broken == "watermark" else SimulatedSource
        self._source = kind(self._hub, clock, self._rng, outages)
        self._workers = Workers(self._ledger, clock, Random(f"{seed}/workers"), world.runtime, faults=faults)
        overlaps = 0.5 if broken == "claims" else OVERLAPS
        self._watcher = Watcher(self._ledger, self._source, self._workers, clock, self._rng, overlaps=overlaps)
        self._watcher.faults, self._watcher.watch_at = faults, self._watch_at
        self._watcher.down = downtimes(Random(f"{seed}/down"), days) if faults else []
        world.use(self._source, self._watcher.start_run)
        self._agenda: list[tuple[datetime, int, str, Any]] = []
        self._order = 0
        self._ticks: dict[datetime, set[str]] = defaultdict(set)
        self._family_of = self._families_by_organisation()
        self.problems: list[str] = []

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
        self._faults = self._watcher.faults = False
        self._watcher.down, self._source._outages = [], []
        everything = [plan.name for plan in self._history.families]
        for place in range(100):
            self._watch_at(self._clock.at + TICK, *everything)
            self._watch_at(self._clock.at + 2 * TICK, *everything)
            self._until(self._clock.at + timedelta(hours=2))
            if place > 0 and not self._workers.working() and not self._agenda and not self._watcher.without_room:
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
            if bad or self._watcher.without_room or self._rng.random() < ENDS_WATCHED:
                self._watch_at(self._clock.at + timedelta(minutes=1), family, *self._watcher.without_room)

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
        self._watcher.counts["webhooks lost" if times == 0 else "webhooks doubled" if times == 2 else "webhooks"] += 1
        for _ in range(times):
            self._put(self._clock.at + timedelta(seconds=self._rng.uniform(1, 30)), "nudge", families)

    def _nudge(self, families: list[str]) -> None:
        self._watcher.watch(set(families))

    def _trust(self, event: Event) -> None:
        """A person has found out who owns the name now."""
        name = self._hub.by_key[event.key].name
        for hold in self._ledger.holds():
            if hold.key.startswith(f"release:{name}@"):
                self._lift(hold.key)
        self._watch_at(self._clock.at, *self._family_of[name.split("/")[0]])
        self._watch_at(self._clock.at + TICK, *self._family_of[name.split("/")[0]])

    def _lift(self, key: str) -> None:
        self._watcher.counts["holds lifted by a person"] += 1
        self._ledger.lift(key, "looked at")
        self._watch_at(self._clock.at + timedelta(minutes=1), *(plan.name for plan in self._history.families))

    def _tick(self, tick: datetime) -> None:
        self._watcher.watch(self._ticks.pop(tick))

    def _rescan(self, family: str) -> None:
        self._watcher.watch({family}, full_rescan=True)

    def _idle(self, _: None) -> None:
        """Watch everything twice: the second watch must write nothing."""
        everything = {plan.name for plan in self._history.families}
        if self._watcher.watch(everything, crashing=False) and not self._workers.next_step():
            before = rows_of_tables(self._ledger)
            calls = self._source.asked.total()
            if self._watcher.watch(everything, crashing=False):
                self._watcher.counts["idle watches"] += 1
                self._watcher.counts["idle calls"] += self._source.asked.total() - calls
                after = rows_of_tables(self._ledger)
                changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
                if changed:
                    self.problems.append(f"an idle watch at {self._clock.at} wrote rows: {changed}")

    def year(self) -> Year:
        """All that the oracle and the table ask for."""
        return remains(self._ledger, self._history, self._source, self._workers, self._watcher, self.problems)


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
    return year
