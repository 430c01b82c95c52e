"""``python -m tests.soak``: switch models under load, kill what can be killed, and see that nothing is lost.

    python -m tests.soak                             real vLLM instances of the demo family
    python -m tests.soak --instances fake --quick    the short form, with instances that stand for vLLM
    python -m tests.soak --no-drain                  nothing may finish what it has under way: must end red
    python -m tests.soak --no-retry                  the gateway asks nobody twice: must end red

Exit code 0 if every rule of `verdict.py` holds, else 1. The table comes last.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.soak.host import CHANNEL, ROOT, Host, Watch, named, until
from tests.soak.play import Play
from tests.soak.records import Record, Soak, read_records
from tests.soak.table import table
from tests.soak.verdict import Wanted, judge

FULL, QUICK = Wanted(), Wanted(requests=600, streams=60)
PLAIN, STREAMS = 18, 14
"""Clients: together under way at every moment, but for the time between an answer and the next request."""
TOKENS = (8, 60)
"""For a whole answer, and for a stream."""
PAUSE_SECONDS = {True: 1.5, False: 5.0}
"""Of load between two events, in the short form and in the long one."""
MOST_SECONDS = 600.0
"""After the last event, until as much has been asked as is wanted."""


def main() -> int:
    """Run one soak; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--instances", choices=("vllm", "fake"), default="vllm")
    parser.add_argument("--quick", action="store_true", help="fewer requests, shorter pauses")
    parser.add_argument("--no-drain", action="store_true", help="EMPELT_DRAIN_SECONDS=0")
    parser.add_argument("--no-retry", action="store_true", help="EMPELT_GATEWAY_RETRY=false")
    parser.add_argument("--home", type=Path, default=ROOT / ".empelt" / "soak")
    parser.add_argument("--port", type=int, default=int(os.environ.get("EMPELT_GATEWAY_PORT", "8760")))
    asked = parser.parse_args()
    for one in (signal.SIGTERM, signal.SIGINT):  # so that what was started is ended
        signal.signal(one, _end)
    began, wanted = time.monotonic(), QUICK if asked.quick else FULL
    if asked.instances == "fake":  # the short form shares its machine with other tests: its times are told only
        wanted = wanted._replace(acknowledged_seconds=None, switch_seconds=None)
    soak = run(asked, wanted)
    findings = judge(soak, wanted)
    sys.stdout.write(table(soak, findings, time.monotonic() - began))
    return 1 if any(one.problems for one in findings) else 0


def run(asked: argparse.Namespace, wanted: Wanted) -> Soak:
    """Start all, ask, let everything happen, end all."""
    variables = {"EMPELT_DRAIN_SECONDS": "0"} if asked.no_drain else {}
    variables |= {"EMPELT_GATEWAY_RETRY": "false"} if asked.no_retry else {}
    host = Host(asked.home.absolute(), asked.port, instances=asked.instances, variables=variables)
    load: subprocess.Popen[bytes] | None = None
    records = host.home / "records.jsonl"
    play, watch = (
        Play(host, pause_seconds=PAUSE_SECONDS[asked.quick]),
        Watch(host.home / "run" / "routes.json", host.url),
    )
    open_all = ExitStack()
    try:
        host.start()
        watch.start()
        open_all.enter_context(named(host))
        play.prepare()
        load = start_load(host, records)
        until(lambda: len(_read(records)) >= PLAIN, 120, "the first answers")
        play.run()
        until(lambda: _is_enough(records, wanted), MOST_SECONDS, f"{wanted.requests} requests")
    finally:
        if load is not None:
            load.terminate()
            load.wait(150)
        watch.stop()
        open_all.close()
        left = host.end()
    return Soak(
        channel=CHANNEL,
        records=_read(records),
        events=tuple(play.events),
        written=tuple(watch.written),
        loaded=tuple(watch.loaded),
        releases=play.shelf.releases,
        left=tuple(left),
    )


def start_load(
    host: Host, records: Path, *, clients: Sequence[int] = (PLAIN, STREAMS), tokens: Sequence[int] = TOKENS
) -> subprocess.Popen[bytes]:
    """The clients, in a process of their own; how many ask for whole answers and for streams, and for how much."""
    setup = {"url": host.url, "channel": CHANNEL, "out": str(records), "plain": clients[0], "streams": clients[1]}
    setup |= {"plain_tokens": tokens[0], "stream_tokens": tokens[1]}
    path = host.home / "load.json"
    path.write_text(json.dumps(setup))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (host.home / "logs" / "load.out").open("ab") as out:
        command = [sys.executable, "-m", "tests.soak.load", str(path)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)


def _read(records: Path) -> tuple[Record, ...]:
    return read_records(records) if records.exists() else ()


def _is_enough(records: Path, wanted: Wanted) -> bool:
    time.sleep(1.0)
    found = _read(records)
    return len(found) >= wanted.requests and sum(one.is_stream for one in found) >= wanted.streams


def _end(number: int, _frame: object) -> None:
    """Once only: a second signal would cut off the cleaning up after the first."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
