"""How the figures of a gateway's workers come together: each tells its own to the supervisor, by lines on its output.

Not by prometheus-client's shared files: those are mapped into memory, and on a full disk a write to one ends the
process (SIGBUS). A worker tells when it is asked (each scrape does), every second, and a last time when it leaves. So a
graceful restart loses no figure, and a worker that is killed takes at most its last second along.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Counting
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from tasks.endpoints import figures

FIGURES = "figures"
"""The supervisor's word that asks a worker for them; the number of the question comes after it."""
TELL_SECONDS = 1.0
ANSWER_SECONDS = 2.0
"""So long a scrape waits for the workers; of one that does not answer, the last that it told counts."""

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a sample, and its labels."""


def as_line(asked: int) -> str:
    """This process's figures on one line, and the last question that they answer; 0 when there was none."""
    families = figures.REGISTRY.collect()
    samples = [sample for family in families for sample in family.samples if not sample.name.endswith("_created")]
    told = [[sample.name, sorted(sample.labels.items()), sample.value] for sample in samples]
    return json.dumps({"asked": asked, "figures": told})


class Gathered(Collector):
    """What all workers have told: counts of those that have left among it, gauges of those that are here."""

    def __init__(self) -> None:
        """Nobody has told anything yet."""
        self._here: dict[int, Counter[Series]] = {}
        self._left: Counter[Series] = Counter()
        self._answered: Counter[int] = Counter()
        self._news = threading.Condition()
        self._gauges = {family.name for family in figures.REGISTRY.collect() if family.type == "gauge"}

    def meet(self, worker: int) -> None:
        """A new one, which will tell."""
        with self._news:
            self._here[worker] = Counter()

    def hear(self, worker: int, line: str) -> None:
        """A line of a worker. One that is no figures changes nothing.

        Args:
            worker: its process id.
            line: as ``as_line`` writes it.
        """
        try:
            said = json.loads(line)
            told = Counter({(name, tuple(map(tuple, labels))): value for name, labels, value in said["figures"]})
            asked = int(said["asked"])
        except (ValueError, TypeError, KeyError):
            return
        with self._news:
            self._here[worker] = told
            self._answered[worker] = asked
            self._news.notify_all()

    def bury(self, worker: int) -> None:
        """It has ended: what it counted stays."""
        with self._news:
            told = self._here.pop(worker, Counter())
            for series, value in told.items():
                if series[0] not in self._gauges:
                    self._left[series] += value
            self._answered.pop(worker, None)
            self._news.notify_all()

    def wait(self, workers: Iterable[int], question: int, seconds: float = ANSWER_SECONDS) -> None:
        """Until each of them has answered this question, or has ended; at most so long."""
        asked = set(workers)
        with self._news:
            self._news.wait_for(
                lambda: all(self._answered[one] >= question or one not in self._here for one in asked), seconds
            )

    def describe(self) -> list[Metric]:
        """Nothing, so that registering asks nobody."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of them, summed up."""
        with self._news:
            summed = dict(self._left)
            for told in self._here.values():
                for series, value in told.items():
                    summed[series] = summed.get(series, 0) + value
        for family in figures.REGISTRY.collect():
            found = Metric(family.name, family.documentation, family.type)
            names = _names(family)
            for (name, labels), value in summed.items():
                if name in names:
                    found.add_sample(name, dict(labels), value)
            yield found


def _names(family: Metric) -> set[str]:
    ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
    return {f"{family.name}{end}" for end in ends}


class Asking(Collector):
    """Asks the workers first, then tells what they said."""

    def __init__(self, gathered: Gathered, ask: Callable[[int], Iterable[int]]) -> None:
        """``ask(n)`` sends FIGURES and the number to each worker that is here, and returns their process ids."""
        self._gathered = gathered
        self._questions = count(1)
        self._ask = ask

    def describe(self) -> list[Metric]:
        """Nothing: see Gathered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What they say now."""
        question = next(self._questions)
        self._gathered.wait(self._ask(question), question)
        yield from self._gathered.collect()


def worker_ends() -> Counting:
    """How workers have ended, counted by the supervisor; in no registry yet."""
    told = "Workers that have ended: 'replaced' by another one, or 'died' by themselves"
    ends = Counting("empelt_gateway_worker_ends", told, ["how"], registry=None)
    for how in ("replaced", "died"):
        ends.labels(how)
    return ends


def registry_of(*collectors: Collector) -> CollectorRegistry:
    """A registry of these."""
    registry = CollectorRegistry()
    for one in collectors:
        registry.register(one)
    return registry
