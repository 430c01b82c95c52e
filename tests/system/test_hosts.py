"""Several machines on one: Prefect's server on PostgreSQL with Redis, two workers, agent and gateway, a home for each.

They share a database, an API, a store, and the catalog; agent, launcher and gateway of the serving host share a folder
of sockets. In network namespaces where the machine allows them, else on loopback. The merge is a real one of the demo
family's models. What stands for vLLM here cannot be scored, so evaluation is left out: the merged model is published by
hand.
"""

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.local_hub import push_folder
from tests.system.hosts import ROOT, Host, free_port, hosts, redis, start_postgres, start_redis, until

pytestmark = [pytest.mark.system, pytest.mark.hosts, pytest.mark.timeout(1200)]
MODELS = ROOT / "infra" / "demo_family" / "models"
CATALOG = ROOT / "deployments" / "catalog"
LAUNCHER = ROOT / "tests" / "endpoints" / "fake_launcher.py"
NAMES = ("llama-tiny", "eu_llama-tiny", "llama-tiny-instruct-v1")
REDIS_SETTINGS = {
    "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
    "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
}
"""And PREFECT_SERVER_DOCKET_URL, which names the server."""


@dataclass
class Site:
    """What the test looks at."""

    hosts: dict[str, Host]
    api: str
    gateway: str
    redis: str
    store: Path

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Every run of a flow, newest first, as the server tells it to a worker's host."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC"}
        return list(self.hosts["one"].ask(f"{self.api}/flow_runs/filter", wanted))

    def told(self) -> str:
        """The end of every log, for a failure."""
        logs = [path for host in self.hosts.values() for path in sorted(host.home.glob("*.log"))]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in logs)


def missing() -> list[str]:
    """What is not installed."""
    wanted = {"redis-server": shutil.which("redis-server"), "PostgreSQL": shutil.which("initdb")}
    wanted["prefect-redis"] = importlib.util.find_spec("prefect_redis") and "there"
    return [name for name, found in wanted.items() if not found]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Four hosts, up, with a registry on the server; nothing has run yet."""
    if lacking := missing():
        reason = f"not installed: {', '.join(lacking)} (infra/setup.sh --tests)"
        pytest.fail(f"{reason}; CI must test several hosts", pytrace=False) if os.environ.get("CI") else pytest.skip(
            reason
        )
    # Not pytest's folder: paths of Unix sockets are short, and PostgreSQL's user must be able to go there.
    folder = Path(tempfile.mkdtemp(prefix="em-"))
    folder.chmod(0o711)
    store, run = folder / "store", folder / "run"
    run.mkdir(mode=0o700)
    catalog = written_catalog(folder / "catalog")
    ports = {name: free_port() for name in ("postgres", "redis", "prefect", "hub", "gateway")}
    common = {
        "EMPELT_CATALOG": str(catalog),
        "EMPELT_FAMILIES": "llama-tiny",
        "EMPELT_STORE_FOLDER": str(store),
        "EMPELT_SETTLE_SECONDS": "0",
        "EMPELT_WATCH_INTERVAL_SECONDS": "3600",
        "EMPELT_MAX_ATTEMPTS": "1",
        "EMPELT_GATEWAY_PORT": str(ports["gateway"]),
        "EMPELT_PREFECT_PORT": str(ports["prefect"]),
        "EMPELT_DEVICE_MEMORY_GIB": "8",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
        "DO_NOT_TRACK": "1",
    }
    with hosts(folder / "h", ("server", "one", "two", "three"), common) as made:
        server, serving = made["server"], made["three"]
        database = start_postgres(server, ports["postgres"], ["prefect", "ledger"])
        messages = start_redis(server, ports["redis"])
        api = f"http://{server.address}:{ports['prefect']}/api"
        gateway = f"http://{serving.address}:{ports['gateway']}"
        for host in made.values():
            host.environment |= {
                "EMPELT_LEDGER_URL": f"{database}/ledger",
                "EMPELT_HUB_ENDPOINT": f"http://{server.address}:{ports['hub']}",
                "EMPELT_PREFECT_HOST": server.address,
                "EMPELT_GATEWAY_HOST": serving.address,
                "PREFECT_API_URL": api,
            }
        begin_server(server, api, database, messages, ports)
        found = Site(made, api, gateway, messages, store)
        try:
            until(lambda: server.answers(f"{api}/ready"), seconds=300, what="the Prefect server")
            begin_others(found, run)
            yield found
        except BaseException:
            print(found.told())
            raise
    shutil.rmtree(folder)


def written_catalog(catalog: Path) -> Path:
    """The demo's family with one target, and two classes of machine: a merge belongs on the smaller one."""
    (catalog / "classes").mkdir(parents=True)
    shutil.copytree(CATALOG / "gates", catalog / "gates")
    text = (CATALOG / "llama-tiny.yaml").read_text()
    head, _, rest = text.partition("  ca: {repo:")
    eu = text.partition("targets:\n")[2].partition("  ca:\n")[0]
    serving = text[text.index("serving:") :]
    (catalog / "llama-tiny.yaml").write_text(f"{head}targets:\n{eu}{serving}")
    assert rest
    (catalog / "classes" / "small.yaml").write_text("name: small\nmemory_gib: 4\ncores: 2\ndevice_gib: 4\n")
    (catalog / "classes" / "large.yaml").write_text("name: large\nmemory_gib: 64\ncores: 8\ndevice_gib: 80\ngpus: 1\n")
    return catalog


def begin_server(server: Host, api: str, database: str, messages: str, ports: dict[str, int]) -> None:
    """The Hub with a release, and Prefect's server."""
    root = server.home / "hub"
    for day, name in enumerate(NAMES):
        push_folder(root, f"empelt-demo/{name}", MODELS / name, "Upload model", f"2026-11-{10 + day}T09:00:00Z")
    hub = ["--root", root, "--host", server.address, "--port", ports["hub"]]
    server.start("hub", sys.executable, "-m", "infra.local_hub", *hub)
    own = {
        **REDIS_SETTINGS,
        "PREFECT_SERVER_DOCKET_URL": messages,
        "PREFECT_REDIS_MESSAGING_URL": messages,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"{database.replace('postgresql', 'postgresql+asyncpg')}/prefect",
        "PREFECT_UI_API_URL": api,
    }
    listen = ["--host", server.address, "--port", str(ports["prefect"])]
    server.start("prefect", sys.executable, "-m", "prefect", "server", "start", *listen, **own)


def begin_others(site: Site, run: Path) -> None:
    """The registry, then workers, and the serving host's processes."""
    one, two, three = (site.hosts[name] for name in ("one", "two", "three"))
    one.empelt("deploy")
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
    one.start("worker", *worker, "--pool", "control", "--limit", "4", "--name", "one")
    two.start("worker", *worker, "--pool", "gpu", "--work-queue", "small", "--limit", "1", "--name", "two")
    sockets = {"EMPELT_RUN_FOLDER": str(run)}
    three.start("launcher", sys.executable, LAUNCHER, "--socket", run / "launcher.sock", "--logs", three.home)
    homes = {name: str(three.home / name) for name in ("agent", "gateway")}
    three.start("gateway", sys.executable, "-m", "deployments", "gateway", **sockets, EMPELT_HOME=homes["gateway"])
    three.start("agent", sys.executable, "-m", "deployments", "agent", **sockets, EMPELT_HOME=homes["agent"])
    until(lambda: three.answers(f"{site.gateway}/health"), seconds=60, what="the gateway")


@pytest.fixture(scope="module")
def merged(site: Site) -> dict[str, Any]:
    """The run of the merge that one watch led to, when it has ended."""
    site.hosts["one"].run(sys.executable, "-m", "prefect", "deployment", "run", "watch-hub/schedule")

    def ended() -> dict[str, Any] | None:
        runs = site.runs("merge-candidate")
        return runs[0] if runs and runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    return dict(until(ended, seconds=480, what=f"a merge:\n{site.told()}"))


def test_each_host_has_a_network_of_its_own_where_the_machine_allows_it(site: Site) -> None:
    addresses = {host.address for host in site.hosts.values()}
    if addresses == {"127.0.0.1"}:
        pytest.skip("no network namespaces on this machine: all hosts are on one loopback")
    assert len(addresses) == 4
    assert site.hosts["one"].answers(f"{site.api}/health")
    loopback = site.api.replace(site.hosts["server"].address, "127.0.0.1")
    assert not site.hosts["one"].answers(f"{loopback}/health")


def test_a_watch_on_one_host_leads_to_a_merge_on_the_other(site: Site, merged: dict[str, Any]) -> None:
    assert merged["state_type"] == "COMPLETED", f"{merged['state']}\n{site.told()}"
    (parent,) = site.runs("remerge-release")
    # Each worker's own log names the run that it has carried out; the other one's does not.
    for host, run, other in (("one", parent, "two"), ("two", merged, "one")):
        assert str(run["id"]) in site.hosts[host].log("worker")
        assert str(run["id"]) not in site.hosts[other].log("worker")
    assert merged["parent_task_run_id"]


def test_the_sizing_chose_the_queue_and_the_job_variables(merged: dict[str, Any]) -> None:
    assert merged["work_queue_name"] == "small"
    variables = merged["job_variables"]
    assert (variables["gpu_class"], variables["gpu_count"], variables["memory"]) == ("small", 0, "2Gi")
    assert variables["deadline_seconds"] > 0


def test_the_merged_weights_are_the_recipes(site: Site, merged: dict[str, Any]) -> None:
    folder = artifact(site)
    name = "model.layers.0.mlp.down_proj.weight"
    base, tuned, instruct, found = (
        tensor(path, name) for path in (*(MODELS / model / "model.safetensors" for model in NAMES), folder)
    )
    expected = instruct + (tuned - base)  # task arithmetic, both weights 1
    assert np.abs(found - expected).max() <= np.abs(expected).max() * 2**-8  # one rounding to bfloat16
    assert np.abs(found - instruct).max() > np.abs(expected).max() * 2**-6


def artifact(site: Site) -> Path:
    """The one folder in the shared store that is none of the inputs."""
    inputs = [(MODELS / name / "model.safetensors").read_bytes() for name in NAMES]
    stored = [path for folder in (site.store / "artifacts").iterdir() for path in folder.glob("*.safetensors")]
    assert len(stored) == len(inputs) + 1, stored
    (weights,) = [path for path in stored if path.read_bytes() not in inputs]
    return weights


def tensor(path: Path, name: str) -> np.ndarray[Any, Any]:
    """A bfloat16 tensor as float32, read without the engine."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    told = json.loads(raw[8 : 8 + size])[name]
    assert told["dtype"] == "BF16"
    start, stop = (8 + size + at for at in told["data_offsets"])
    return (np.frombuffer(raw[start:stop], np.uint16).astype(np.uint32) << 16).view(np.float32)


def test_what_is_published_on_one_host_is_served_by_another(site: Site, merged: dict[str, Any]) -> None:
    digest = artifact(site).parent.name
    (parent,) = site.runs("remerge-release")
    repo, _, sha = parent["parameters"]["release"].partition("@")
    request = {
        "family": "llama-tiny",
        "target": "eu",
        "channel": "eu",
        "artifact_digest": digest,
        "release": {"repo_id": repo, "revision": sha},
        "expected_generation": 0,
    }
    parameters = ["--param", f"request={json.dumps(request)}"]
    one = site.hosts["one"]
    one.run(sys.executable, "-m", "prefect", "deployment", "run", "publish-model/by-hand", *parameters)

    def ended() -> dict[str, Any] | None:
        runs = site.runs("publish-model")
        return runs[0] if runs and runs[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    run = until(ended, seconds=240, what=f"the publishing:\n{site.told()}")
    assert run["state_type"] == "COMPLETED", run["state"]
    answer = one.ask(f"{site.gateway}/v1/completions", {"model": "eu", "prompt": "kaixo"})
    assert answer["choices"][0]["text"].startswith(digest)  # what stands for vLLM answers with its model's folder
    (channel,) = [row for row in site.hosts["two"].empelt("status")["channels"] if row["channel"] == "eu"]
    assert channel["artifact"].startswith(digest[:12])


def test_each_home_holds_what_is_its_own_and_no_ledger(site: Site, merged: dict[str, Any]) -> None:
    homes = [host.home for host in site.hosts.values()]
    assert not [path for home in homes for path in home.rglob("ledger.db")]
    assert not [path for home in homes for path in home.rglob("prefect.db")]
    assert not [path for home in homes for path in home.rglob("*.safetensors") if "hub" not in path.parts]


def test_redis_holds_what_the_five_settings_put_there(site: Site, merged: dict[str, Any]) -> None:
    server = site.hosts["server"]
    limit = {"name": "for-a-lease", "limit": 1, "active": True}
    server.ask(f"{site.api}/v2/concurrency_limits/", limit)
    taken = {"names": ["for-a-lease"], "slots": 1, "mode": "concurrency", "lease_duration": 60}
    lease = server.ask(f"{site.api}/v2/concurrency_limits/increment-with-lease", taken)
    keys = redis(server, site.redis, "KEYS", "*").split()
    assert f"prefect:concurrency:lease:{lease['lease_id']}" in keys  # CONCURRENCY_LEASE_STORAGE
    assert "prefect-server:stream" in keys  # DOCKET_URL: the server's background work
    assert "events" in keys  # EVENTS_MESSAGING_BROKER
    for beginning in ("message:messaging-cache:", "triggers:seen:"):  # EVENTS_MESSAGING_CACHE, EVENTS_CAUSAL_ORDERING
        assert [key for key in keys if key.startswith(beginning)], beginning
