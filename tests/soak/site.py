"""A host under a light load, for tests that do something to it and look at what was answered meanwhile."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.domain.models import Artifact
from tasks.processes import marked_processes
from tests.soak.__main__ import start_load
from tests.soak.host import CHANNEL, MARK, Host, Watch, named, until
from tests.soak.promotion import Promotion
from tests.soak.records import Event, Record, Soak, read_records
from tests.soak.shelf import Shelf
from tests.soak.verdict import Finding, Wanted, judge

SETTINGS = {
    "EMPELT_DEVICE_MEMORY_GIB": "64",
    "EMPELT_GATEWAY_IDLE_SECONDS": "2",
    "EMPELT_GATEWAY_HOLD_SECONDS": "2",
    "EMPELT_GATEWAY_REQUEST_SECONDS": "8",
    "EMPELT_DRAIN_SECONDS": "10",
    "FAKE_VLLM_TOKEN_SECONDS": "0.02",
}
ANY = Wanted(requests=1, streams=0, in_flight=0)
ENGINE = "os.path.exists"
"""In the command line of what stands for an instance's engine."""


@dataclass
class Site:
    """What a test needs of it."""

    host: Host
    shelf: Shelf
    watch: Watch
    load: subprocess.Popen[bytes]

    @property
    def records(self) -> tuple[Record, ...]:
        """What has ended so far."""
        return read_records(self.host.home / "records.jsonl")

    def settle(self) -> None:
        """Until the channel answers with what the ledger says, and every unwanted instance is gone."""
        until(self._is_settled, 60, "the channel to answer with what it should")

    def judged(self, event: Event) -> list[Finding]:
        """What the verdict says of everything that was under way since an event began; waits for what still is.

        So nothing that this event has brought about is found in what follows.
        """
        ended = time.monotonic()
        until(lambda: self._all_ended(ended), 60, "the end of all that was asked during the event")
        mine = tuple(one for one in self.records if one.ended >= event.began)
        soak = Soak(
            channel=CHANNEL,
            records=mine,
            events=(event,),
            written=tuple(self.watch.written),
            loaded=tuple(self.watch.loaded),
            releases=self.shelf.releases,
            left=tuple(self.orphans()),
        )
        return judge(soak, ANY)

    def judge(self, artifact: Artifact) -> None:
        """Put on record what an artifact says, by a start of its own that ends again."""
        asked = Promotion(self.host, artifact, self.shelf.refs[artifact.digest])
        asked.judge()
        self.settle()

    def orphans(self) -> list[str]:
        """Engines whose API server is gone; those that are being ended get some seconds for it."""
        deadline = time.monotonic() + 8
        while (found := self._orphans()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return found

    def end(self) -> list[str]:
        """All of it; what was left over."""
        self.load.terminate()
        self.load.wait(30)
        self.watch.stop()
        return self.host.end()

    def _all_ended(self, moment: float) -> bool:
        """Requests are numbered as they are sent: whether each up to the first one after a moment is on record."""
        found = {one.number: one.sent for one in self.records}
        later = [number for number, sent in found.items() if sent > moment]
        return len(later) >= 2 and all(number in found for number in range(1, min(later)))

    def _is_settled(self) -> bool:
        desired = self.host.ledger.desired()
        states = self.host.ledger.channels()
        ready = {one.digest: one.state for one in self.host.ledger.instances()}
        live = all(
            s.acknowledged_generation == s.generation and ready.get(s.artifact_digest) == "ready" for s in states
        )
        named = {digest for s in states for digest in (s.artifact_digest, s.previous_digest)}
        return live and not desired.staged and set(ready) <= named and self.host.answers_for() in named

    def _orphans(self) -> list[str]:
        marked = {process.pid: process for process in marked_processes(self.host.mark, MARK)}
        found = []
        for process in marked.values():
            try:
                if ENGINE in " ".join(process.cmdline()) and process.ppid() not in marked:
                    found.append(f"an engine without its server (pid {process.pid})")
            except psutil.Error:
                continue
        return found


@contextmanager
def open_site(port: int) -> Iterator[Site]:
    """A site that ends with the block, and leaves no process."""
    site = _start(port)
    left = ["it was not ended"]
    try:
        with named(site.host):
            yield site
    finally:
        left = site.end()
        shutil.rmtree(site.host.home, ignore_errors=True)
    assert left == []


def _start(port: int, clients: Sequence[int] = (4, 3)) -> Site:
    """With one artifact live, and so many clients (plain, streams) asking."""
    host = Host(Path(tempfile.mkdtemp(prefix="em-")), port, instances="fake", variables=SETTINGS)
    try:
        host.start()
        watch, shelf = Watch(host.home / "run" / "routes.json", host.url), Shelf(host)
        watch.start()
        first = shelf.make()
        with named(host):
            Promotion(host, first, shelf.refs[first.digest]).run()
        load = start_load(host, host.home / "records.jsonl", clients=clients, tokens=(4, 30))
    except BaseException:
        host.end()
        raise
    site = Site(host, shelf, watch, load)
    until(lambda: (host.home / "records.jsonl").exists(), 60, "the first answer")
    return site
