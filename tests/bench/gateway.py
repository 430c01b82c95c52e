"""What the gateway adds to a stream: against asking the instance itself, and against HAProxy, in one run.


A source (a process of its own) writes ``streams`` x ``rate`` events a second. Each round reads all of them for
``seconds`` directly, through HAProxy and through the gateway, in an order that turns from round to round. The aims: at
most 2 ms more in the median, a 99th percentile of at most 10 ms more, and at least 97 % of what arrives directly.
Without HAProxy (Debian package `haproxy`) the rest is measured, and the report says so.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tasks.endpoints.routes import ChannelRoute, InstanceRoute, Routes, write_routes  # noqa: E402

STREAMS = Path(__file__).with_name("gateway_streams.py")
DIGEST = "b" * 64
KEY = "bench-0123456789abcdef"
START = """
import sys
from pathlib import Path
from tasks.endpoints.gateway_config import GatewayConfig
from tasks.endpoints.supervisor import run_gateway
run_gateway(lambda: GatewayConfig.model_validate_json(sys.argv[1]))
"""
HAPROXY = """
global
  maxconn 4096
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend people
  bind 127.0.0.1:{port}
  default_backend instance
backend instance
  option http-no-delay
  server one unix@{uds}
"""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def wait_for(url: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit(f"{url} did not answer within {seconds:.0f} s")


@contextmanager
def running(*command: str | Path, url: str, env: dict[str, str] | None = None) -> Iterator[psutil.Process]:
    """A process that answers at ``url``, ended with the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    process = subprocess.Popen([str(part) for part in command], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_for(url)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and its children: the gateway's supervisor and its worker."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def read(port: int, streams: int, seconds: float) -> list[int]:
    """How long each event took, in ns, sorted; those of one run."""
    command = [
        sys.executable,
        STREAMS,
        "read",
        "--port",
        port,
        "--streams",
        streams,
        "--seconds",
        seconds,
        "--key",
        KEY,
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout)["ways"])


def at(ways: list[int], share: float) -> float:
    """A percentile in ms."""
    return ways[min(len(ways) - 1, int(len(ways) * share))] / 1e6 if ways else float("nan")


def measure(ports: dict[str, int], processes: dict[str, psutil.Process], chosen: argparse.Namespace) -> dict[str, dict]:
    """Rounds of all ways; for each its delays, and CPU seconds of what stands between."""
    found: dict[str, dict] = {way: {"ways": [], "cpu": 0.0, "rounds": []} for way in ports}
    names = list(ports)
    for number in range(chosen.rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for way in turned:
            before = cpu_seconds(processes[way])
            ways = read(ports[way], chosen.streams, chosen.seconds)
            found[way]["cpu"] += cpu_seconds(processes[way]) - before
            found[way]["ways"] += ways
            found[way]["rounds"].append({"n": len(ways), "p50": at(ways, 0.5), "p99": at(ways, 0.99)})
            last = found[way]["rounds"][-1]
            print(
                f"  round {number + 1} {way:8} {last['n']:7} events  p50 {last['p50']:6.2f}  p99 {last['p99']:7.2f} ms"
            )
            time.sleep(0.5)
    for one in found.values():
        one["ways"].sort()
    return found


def report(found: dict[str, dict]) -> bool:
    """The table; whether the aims were met."""
    direct = found["direct"]
    expected = len(direct["ways"])
    print(
        f"\n{'':10}{'events':>9}{'of direct':>11}{'p50 ms':>9}{'p99 ms':>9}{'added p50':>11}{'added p99':>11}{'us CPU/event':>14}"
    )
    for way, one in found.items():
        ways = one["ways"]
        cpu = f"{one['cpu'] / max(1, len(ways)) * 1e6:14.1f}" if way != "direct" else f"{'-':>14}"
        print(
            f"{way:10}{len(ways):9}{len(ways) / max(1, expected):11.1%}{at(ways, 0.5):9.2f}{at(ways, 0.99):9.2f}"
            f"{at(ways, 0.5) - at(direct['ways'], 0.5):11.2f}{at(ways, 0.99) - at(direct['ways'], 0.99):11.2f}{cpu}"
        )
    ours = found["gateway"]["ways"]
    aims = {
        "median at most 2 ms more": at(ours, 0.5) - at(direct["ways"], 0.5) <= 2.0,
        "p99 at most 10 ms more": at(ours, 0.99) - at(direct["ways"], 0.99) <= 10.0,
        "at least 97 % of the events": len(ours) >= 0.97 * expected,
    }
    for aim, is_met in aims.items():
        print(f"{'met    ' if is_met else 'NOT MET'}  {aim}")
    return all(aims.values())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run; the first second does not count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rate", type=float, default=25.0, help="events a second of one stream")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="em-"))
    ports = {"direct": free_port(), "haproxy": free_port(), "gateway": free_port()}
    uds, routes = folder / "i.sock", folder / "routes.json"
    instance = InstanceRoute(name=f"eu-{DIGEST[:12]}", channel="eu", digest=DIGEST, uds=str(uds))
    channel = ChannelRoute(generation=1, instance=instance.name)
    write_routes(routes, Routes(serial=1, channels={"eu": channel}, instances={instance.name: instance}))
    (folder / "haproxy.cfg").write_text(HAPROXY.format(port=ports["haproxy"], uds=uds))
    config = {"routes": str(routes), "port": ports["gateway"], "keys": f"bench:{KEY}", "own_key": f"own-{KEY}"}
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    emit = [
        sys.executable,
        STREAMS,
        "emit",
        "--uds",
        uds,
        "--port",
        str(ports["direct"]),
        "--gap",
        str(1 / chosen.rate),
    ]
    url = "http://127.0.0.1:{}/health".format
    try:
        with (
            running(*emit, url=url(ports["direct"])) as source,
            running(sys.executable, "-c", START, json.dumps(config), url=url(ports["gateway"])) as gateway,
        ):
            processes = {"direct": source, "gateway": gateway}
            if haproxy is None:
                del ports["haproxy"]
                print("HAProxy is not installed: compared with direct only")
                return 0 if report(measure(ports, processes, chosen)) else 1
            with running(haproxy, "-f", folder / "haproxy.cfg", "-db", url=url(ports["haproxy"])) as other:
                return 0 if report(measure(ports, {**processes, "haproxy": other}, chosen)) else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
