"""The real thing to ask: launcher, gateway and agent of one host, started once, and its ledger of what was measured.

What the parents scored is kept beside the host's home for the next run: a reference is measured once.
"""

import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tasks.domain.models import Artifact, Evaluation
from tasks.endpoints.protocol import Ready
from tests.soak.host import CHANNEL, Host, named

MEMORY_GIB = 6
"""Of the device: room for a candidate, a parent and one more, 1.7 GiB each by the bound that placement goes by."""
LEASE_SECONDS = 3600.0
DEADLINE_SECONDS = 300.0


class Site:
    """A host that is up, and this process as one that works for it."""

    def __init__(self, host: Host, figures: str) -> None:
        self._host, self._figures = host, figures

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self._host.url

    def adopt(self, folder: Path) -> Artifact:
        """The model in the host's store; the folder stays."""
        copy = self._host.home / "adopted" / folder.name
        shutil.copytree(folder, copy)
        return self._host.store.adopt(copy)

    @contextmanager
    def staged(self, artifact: Artifact) -> Iterator[Ready]:
        """A model, up and answering for as long as the block lasts.

        Raises:
            ModelRefused: it cannot be served.
            EndpointUnavailable: it was not ready in time.
        """
        endpoint = self._host.endpoint
        wanted = endpoint.stage(
            artifact, channel=CHANNEL, owner="must-block", release=None, lease_seconds=LEASE_SECONDS
        )
        try:
            yield endpoint.wait_ready(wanted, deadline_seconds=DEADLINE_SECONDS)
        finally:
            endpoint.unstage(wanted)

    def requests_to(self, artifact: Artifact) -> int:
        """HTTP requests for this model that the gateway has answered since it was started, by its own count."""
        shown = httpx.get(self._figures, trust_env=False, timeout=30).text
        families = (one for one in text_string_to_metric_families(shown) if one.name == "empelt_gateway_requests")
        rows = [row for family in families for row in family.samples if row.name.endswith("_total")]
        return round(sum(row.value for row in rows if artifact.digest.startswith(row.labels["artifact"])))


@contextmanager
def site(home: Path, port: int, parents: Sequence[Path]) -> Iterator[Site]:
    """Start everything once, and end it; what is in the home is removed first, and what parents scored put back.

    Raises:
        RuntimeError: a process was still alive after the end.
    """
    figures = _free_port()
    variables = {
        "EMPELT_DEVICE_MEMORY_GIB": str(MEMORY_GIB),
        "EMPELT_GATEWAY_METRICS_PORT": str(figures),
        "EMPELT_METRICS_HOST": "127.0.0.1",
    }
    host = Host(home, port, instances="vllm", variables=variables)
    kept = home.with_name(f"{home.name}-references.jsonl")
    with ExitStack() as stack:
        stack.callback(_end, host)
        host.start()
        stack.enter_context(named(host))
        there = Site(host, f"http://127.0.0.1:{figures}/metrics")
        digests = [there.adopt(folder).digest for folder in parents]
        for line in kept.read_text("utf-8").splitlines() if kept.exists() else ():
            host.ledger.record_evaluation(Evaluation.model_validate_json(line))
        try:
            yield there
        finally:  # what was measured before a run was cut off is not asked again either
            found = [one for digest in digests for one in host.ledger.evaluations_of(digest)]
            kept.write_text("".join(f"{one.model_dump_json()}\n" for one in found), "utf-8")


def _end(host: Host) -> None:
    left = host.end()
    if left:
        raise RuntimeError(f"still alive after the end, and killed: {left}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
