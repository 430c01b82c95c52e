"""Figures of what is served on this host, read for each scrape from the two files that the agent writes.

They stand beside the gateway's own, since it is the gateway that outlives the agent: a silent agent is seen there.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from tasks.endpoints.routes import read_routes
from tasks.endpoints.status_file import read_status, status_beside


class OfServing(Collector):
    """Reads both files when it is asked, and keeps nothing."""

    def __init__(self, routes: Path) -> None:
        """Read nothing yet."""
        self._routes = routes

    def describe(self) -> list[Metric]:
        """Nothing: registering reads no file."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family, with no samples where a file is missing."""
        yield from self._of_routes()
        yield from self._of_agent()

    def _of_routes(self) -> Iterator[Metric]:
        generation = GaugeMetricFamily(
            "empelt_route_generation", "Generation that a channel's requests go to", labels=["channel"]
        )
        weight = GaugeMetricFamily(
            "empelt_canary_weight",
            "Per cent of the requests that a canary answers",
            labels=["channel", "artifact"],
        )
        try:
            routes = read_routes(self._routes)
        except OSError:
            routes = None
        for name, route in routes.channels.items() if routes else ():
            generation.add_metric([name], route.generation)
            canary = route.tried
            tried = routes.instances.get(canary.instance) if routes and canary else None
            if tried is not None and canary is not None:
                weight.add_metric([name, tried.digest[:12]], canary.weight)
        yield from (generation, weight)

    def _of_agent(self) -> Iterator[Metric]:
        told = GaugeMetricFamily("empelt_agent_told_timestamp_seconds", "When the agent last wrote its status")
        states = GaugeMetricFamily("empelt_instances", "Instances by what they do", labels=["channel", "state"])
        restarts = CounterMetricFamily(
            "empelt_instance_restarts", "Starts of an instance after it had failed", labels=["channel"]
        )
        drains = SummaryMetricFamily(
            "empelt_drain_seconds",
            "Drains of instances: to nothing under way ('empty'), or to the end of their time ('cut')",
            labels=["channel", "ended"],
        )
        status = read_status(status_beside(self._routes))
        if status is not None:
            told.add_metric([], status.at.timestamp())
            for labels, count in Counter((one.channel, one.state) for one in status.instances).items():
                states.add_metric(list(labels), count)
            for channel, number in status.counts.restarts.items():
                restarts.add_metric([channel], number)
            for channel, ends in status.counts.drains.items():
                for ended, one in ends.items():
                    drains.add_metric([channel, ended], count_value=one.count, sum_value=one.seconds)
        yield from (told, states, restarts, drains)
