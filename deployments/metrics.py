"""What Prometheus is told, computed for each scrape from the ledger, the disk and Prefect's runs.

Nothing is counted in memory, so no crash loses a count. A part that cannot be read is left out, and says so by
``empelt_ledger_up`` or ``empelt_prefect_up`` being 0. ``infra/alerts.yaml`` has the alerts; OPERATIONS.md what to do.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from deployments.up import LEAST_FREE_BYTES
from tasks.domain.audit import AuditFact
from tasks.domain.errors import InputError, PipelineError
from tasks.domain.records import JobFact, PollState
from tasks.doors import open_ledger, open_store
from tasks.settings import Settings
from tasks.standing import rows_of
from tasks.store.artifacts import ArtifactStore
from tasks.store.figures import figures
from tasks.store.garbage import bytes_under

logger = logging.getLogger(__name__)
STANDINGS = ("due", "running", "waiting", "held", "exhausted")
WATCH_STATES = ("COMPLETED", "FAILED", "CRASHED")
WATCH = "watch-hub"
"""Of a ledger that an older version wrote: each of its watches was an attempt."""


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """One figure without labels."""
    return GaugeMetricFamily(f"empelt_{name}", text, value=value)


def labelled(family: Metric, values: Iterable[tuple[str, float]]) -> Metric:
    """One figure for each value of the label."""
    for label, value in values:
        family.add_metric([label], value)  # type: ignore[attr-defined]  # every family has it, the base class has not
    return family


class FromFacts(Collector):
    """Reads everything when it is asked, and keeps nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def describe(self) -> list[Metric]:
        """Nothing: a registry would else read the ledger once before anybody asks."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        yield from self._disk()
        try:
            yield from [gauge("ledger_up", "Whether the ledger answers", 1), *self._ledger()]
        except PipelineError as error:
            logger.warning("no figures of the ledger: %s", error)
            yield gauge("ledger_up", "Whether the ledger answers", 0)
        try:
            yield from [gauge("prefect_up", "Whether Prefect's API answers", 1), *self._watch_runs()]
        except (httpx.HTTPError, ValueError) as error:
            logger.warning("no figures of Prefect: %s", error)
            yield gauge("prefect_up", "Whether Prefect's API answers", 0)

    def _disk(self) -> Iterator[Metric]:
        store = open_store()  # makes the home if there is none yet
        total, _, free = shutil.disk_usage(self._settings.home)
        yield gauge("disk_size_bytes", "Size of the disk that the home lies on", total)
        yield gauge("disk_free_bytes", "What is free on it", free)
        yield gauge("disk_least_free_bytes", "With less free, `empelt up` does not start", LEAST_FREE_BYTES)
        for name, gib in (("store", self._settings.store_quota_gib), ("download", self._settings.download_quota_gib)):
            yield gauge(f"{name}_quota_bytes", "What it may take up; 0: as much as there is", gib * 2**30)
        sizes = [_size_of(store, digest) for digest in store.digests()]
        yield gauge("store_artifacts", "Artifacts in the store", len(sizes))
        yield gauge("store_bytes", "Their size", sum(sizes))

    def _ledger(self) -> Iterator[Metric]:
        began, ledger = time.monotonic(), open_ledger()
        found = figures(ledger)
        info = GaugeMetricFamily("empelt_ledger_schema", "Always 1; which schema the ledger has", labels=["revision"])
        yield labelled(info, [(found.schema, 1)])
        rows = GaugeMetricFamily("empelt_ledger_rows", "Rows of each table", labels=["table"])
        yield labelled(rows, found.rows.items())
        yield gauge("ledger_size_bytes", "Size of the ledger", found.size_bytes)
        yield gauge("merged_bytes", "Of every artifact ever made", found.made_bytes)
        jobs = GaugeMetricFamily("empelt_jobs", "Jobs that are not done, by where they stand", labels=["standing"])
        counted = Counter(open_jobs())
        yield labelled(jobs, ((name, counted[name]) for name in STANDINGS))
        yield gauge("holds", "Everything that is held: jobs, releases, targets", len(ledger.holds()))
        took = SummaryMetricFamily(
            "empelt_job_seconds", "Jobs that ended, and seconds since their first attempt", labels=["outcome"]
        )
        for outcome, one in found.ended.items():
            took.add_metric([outcome], count_value=one.jobs, sum_value=one.seconds)
        yield took
        made = sum(count for key, count in found.attempts.items() if key != WATCH)
        yield CounterMetricFamily("empelt_attempts", "Attempts at jobs", value=made)
        yield from _polls(ledger.polls())
        channel = GaugeMetricFamily("empelt_channel_generation", "Wanted generation of a channel", labels=["channel"])
        yield labelled(channel, ((name, wanted) for name, (wanted, _) in found.generations.items()))
        visible = GaugeMetricFamily(
            "empelt_channel_visible", "Whether the gateway answers with the wanted generation", labels=["channel"]
        )
        yield labelled(visible, ((name, float(seen >= wanted)) for name, (wanted, seen) in found.generations.items()))
        yield from _audits([one for name in found.generations for one in ledger.audits(name, limit=1)])
        if (heard := ledger.agent_last_seen()) is not None:
            yield gauge("agent_seen_timestamp_seconds", "When the agent was last heard of", heard.timestamp())
        yield gauge("ledger_scrape_seconds", "What reading all this took", time.monotonic() - began)

    def _watch_runs(self) -> Iterator[Metric]:
        chosen = self._settings
        auth = chosen.prefect_auth.get_secret_value().partition(":")[::2] if chosen.prefect_auth else None
        with httpx.Client(base_url=f"{chosen.prefect_url}/api", auth=auth, timeout=5, trust_env=False) as api:
            runs = GaugeMetricFamily("empelt_watch_runs", "Runs of the watch that Prefect keeps", labels=["state"])
            yield labelled(runs, [(state.lower(), _count(api, state)) for state in WATCH_STATES])


def registry_of(settings: Settings) -> CollectorRegistry:
    """A registry with all of it."""
    registry = CollectorRegistry()
    registry.register(FromFacts(settings))
    return registry


def open_jobs() -> Iterator[str]:
    """Where each recorded job stands that is not done: as the watch would plan it now."""
    facts = open_ledger().jobs()  # the newest job of each release and target
    seen = {family: open_ledger().glance(family) for family in {fact.job.family for fact in facts}}
    targets: dict[tuple[str, str, str], dict[str, JobFact]] = {}
    for fact in facts:
        place = (fact.job.family, fact.job.target, fact.job.channel)
        targets.setdefault(place, {})[fact.job.release.content_digest] = fact
    for (family, target, channel), jobs in targets.items():
        releases = [fact.job.release for fact in jobs.values()]
        keys = {digest: fact.job_key for digest, fact in jobs.items()}
        yield from (row.standing for row in rows_of(family, target, channel, releases, keys, seen[family]))


def _polls(states: list[PollState]) -> Iterator[Metric]:
    """How the watches of each family went."""
    polls = CounterMetricFamily("empelt_watch_polls", "Watches, good and failed", labels=["family"])
    failures = CounterMetricFamily("empelt_watch_failures", "Watches that failed", labels=["family"])
    calls = CounterMetricFamily("empelt_watch_calls", "Requests to the source", labels=["family"])
    good = GaugeMetricFamily(
        "empelt_watch_good_poll_timestamp_seconds", "When the last good one ended", labels=["family"]
    )
    for state in states:
        polls.add_metric([state.family], state.polls)
        failures.add_metric([state.family], state.failures)
        calls.add_metric([state.family], state.calls)
        if state.good_at is not None:
            good.add_metric([state.family], state.good_at.timestamp())
    yield from (polls, failures, calls, good)


def _audits(newest: Iterable[AuditFact]) -> Iterator[Metric]:
    """The newest audit of each channel."""
    proved = GaugeMetricFamily(
        "empelt_channel_proved",
        "1: it answers with the judged model; 0: that is not proved; -1: it answers wrongly, or not",
        labels=["channel"],
    )
    at = GaugeMetricFamily("empelt_channel_audit_timestamp_seconds", "When it was audited last", labels=["channel"])
    for one in newest:
        proved.add_metric([one.channel], -1 if one.is_bad else float(one.outcome == "proved"))
        at.add_metric([one.channel], one.at.timestamp())
    yield from (proved, at)


def _size_of(store: ArtifactStore, digest: str) -> int:
    try:
        artifact = store.get(digest, use=False)
        packed = store.packs.facts(digest) is not None
        return bytes_under(Path(artifact.folder)) if packed else sum(file.size for file in artifact.files)
    except InputError:
        return 0  # removed since it was listed


def _filter(state: str) -> dict[str, object]:
    # A watch that found another one under way ends as Skipped: it looked at nothing.
    wanted = {"type": {"any_": [state]}, "name": {"not_any_": ["Skipped"]}}
    return {"flows": {"name": {"any_": ["watch-hub"]}}, "flow_runs": {"state": wanted}}


def _count(api: httpx.Client, state: str) -> int:
    return int(api.post("/flow_runs/count", json=_filter(state)).raise_for_status().json())
