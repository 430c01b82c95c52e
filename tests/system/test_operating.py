"""What `empelt up` starts, with every secret set: a password on Prefect's API and the ledger's database, a token for the Hub,
a secret for its events. All of it for real but vLLM: there is no launcher, and so nothing is staged.

One installation for the whole file. Its last test looks for the secrets everywhere.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.engine import make_url

from tests.local_hub.hub_fixtures import free_port, run_hub
from tests.store.conftest import postgres as postgres  # a PostgreSQL of this session's own
from tests.system.check_secrets import in_api, in_command_lines, in_home, processes_of, spellings

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "infra" / "demo_family" / "models"
LAB = "empelt-demo"
CANARIES = {
    "hub_token": "hf_canaryTokenOfTheHub0123456789",
    "webhook_secret": "canary/Webhook+Secret=ñ",
    "prefect_password": "canary:Prefect%Password/7",
}
EVENT = {
    "event": {"action": "update", "scope": "repo.content"},
    "repo": {"type": "model", "name": f"{LAB}/llama-tiny-instruct-v1", "headSha": "ab" * 20},
    "webhook": {"id": "ef" * 12, "version": 3},
}
COMMAND_LINE = (sys.executable, "-m", "deployments")


@dataclass
class Up:
    """What is up, and what was seen of its command lines meanwhile."""

    settings: Any
    canaries: dict[str, str]
    environment: dict[str, str]
    secret_files: list[Path]
    lines: set[Any] = field(default_factory=set)
    pids: set[int] = field(default_factory=set)

    @property
    def api(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"{self.settings.prefect_url}/api",
            auth=("operator", CANARIES["prefect_password"]),
            timeout=120,
            trust_env=False,
        )

    def count(self, **wanted: Any) -> int:
        with self.api as api:
            return int(api.post("/flow_runs/count", json={"flow_runs": wanted}).raise_for_status().json())

    def wait_for_end(self, seconds: float = 240, **wanted: Any) -> list[dict[str, Any]]:
        """The runs, when each of them has ended."""
        deadline = time.monotonic() + seconds
        ended = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
        with self.api as api:
            while time.monotonic() < deadline:
                runs = api.post("/flow_runs/filter", json={"flow_runs": wanted}).raise_for_status().json()
                if runs and all(run["state_type"] in ended for run in runs):
                    return list(runs)
                time.sleep(0.5)
        raise AssertionError(f"{wanted} had not ended: {[run['state_name'] for run in runs]}")

    def event(self, secret: str = CANARIES["webhook_secret"]) -> int:
        url = f"http://127.0.0.1:{self.settings.webhook_port}/webhook"
        headers = [(b"x-webhook-secret", secret.encode())]
        return httpx.post(url, json=EVENT, headers=headers, timeout=30, trust_env=False).status_code  # type: ignore[arg-type]

    def empelt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command in another terminal, which is told the home and nothing else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EMPELT_", "PREFECT_"))}
        told = {**kept, "EMPELT_HOME": str(self.settings.home), "COLUMNS": "400"}
        command = [*COMMAND_LINE, *arguments]
        return subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True, timeout=240)


def watch_command_lines(up: Up, stop: threading.Event) -> None:
    ways = spellings(up.canaries)
    while not stop.wait(0.2):
        found, seen = in_command_lines(up.settings.home, ways)
        up.lines |= set(found)
        up.pids |= seen


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    home, database = folder / "home", make_url(postgres)
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS operating")
        admin.execute("CREATE DATABASE operating")
    ledger = database.set(database="operating").render_as_string(hide_password=False)
    canaries = {**CANARIES, "database_password": str(database.password)}
    texts = {
        "HUB_TOKEN": canaries["hub_token"],
        "WEBHOOK_SECRET": canaries["webhook_secret"],
        "PREFECT_AUTH": f"operator:{canaries['prefect_password']}",
        "LEDGER_URL": ledger,
    }
    files = {}
    for name, text in texts.items():
        files[name] = folder / name.lower()
        files[name].touch(mode=0o600)
        files[name].write_text(text)
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("EMPELT_")]:
        del os.environ[name]
    with run_hub(folder / "hub") as hub:
        for model in ("llama-tiny", "eu_llama-tiny", "llama-tiny-instruct-v1"):
            hub.push(f"{LAB}/{model}", MODELS / model)
        ports = {name: str(free_port()) for name in ("PREFECT_PORT", "GATEWAY_PORT", "WEBHOOK_PORT", "METRICS_PORT")}
        told = {"HOME": str(home), "FAMILIES": "llama-tiny", "TARGETS": "eu", "HUB_ENDPOINT": hub.endpoint, **ports}
        told |= {"SETTLE_SECONDS": "0", "WATCH_INTERVAL_SECONDS": "86400", "STAGE_DEADLINE_SECONDS": "3"}
        told |= {"LOG_FORMAT": "json", "WEBHOOK_SECONDS": "2", "MAX_ATTEMPTS": "1"}
        told |= {f"{name}_FILE": str(path) for name, path in files.items()}
        os.environ.update({f"EMPELT_{name}": value for name, value in told.items()})
        os.environ["PREFECT_HOME"] = str(home / "prefect")
        home.mkdir()  # before Prefect is imported, which makes its own folder below
        from deployments.registry import register
        from deployments.supervisor import Supervisor
        from deployments.up import environment_of, remember, servers, workers
        from tasks.doors import forget
        from tasks.settings import Settings

        forget()
        settings = Settings()
        remember(settings)
        environment = environment_of(settings)
        os.environ.update(environment)
        running = Up(settings, canaries, environment, list(files.values()))
        stop = threading.Event()
        with Supervisor(home) as supervisor:
            early = [child for child in servers(settings, environment) if child.name not in ("launcher", "agent")]
            assert [child.name for child in early] == ["prefect-server", "gateway", "receiver"]
            for child in early:
                supervisor.start(child)
            sampler = threading.Thread(target=watch_command_lines, args=(running, stop))
            sampler.start()
            try:
                for child in early:
                    supervisor.wait_ready(child)
                register(settings, "1")
                for child in workers(environment):
                    supervisor.start(child)
                yield running
            finally:
                stop.set()
                sampler.join()
        forget()
    os.environ.clear()
    os.environ.update(before)
    forget()


def test_prefects_api_asks_for_the_password(up: Up) -> None:
    url = f"{up.settings.prefect_url}/api/flow_runs/count"
    assert httpx.post(url, json={}, trust_env=False).status_code == 401
    assert httpx.post(url, json={}, auth=("operator", "wrong"), trust_env=False).status_code == 401
    assert httpx.post(url, json={}, auth=("operator", CANARIES["prefect_password"]), trust_env=False).status_code == 200


def test_a_wrong_secret_starts_no_watch(up: Up) -> None:
    assert up.event("wrong") == 401
    time.sleep(up.settings.webhook_seconds + 1)
    assert up.count(tags={"all_": ["webhook"]}) == 0


def test_ten_events_start_exactly_one_watch_which_works_with_the_password(up: Up) -> None:
    with ThreadPoolExecutor(10) as crowd:
        assert list(crowd.map(lambda _: up.event(), range(10))) == [202] * 10
    (run,) = up.wait_for_end(tags={"all_": ["webhook"]})
    assert run["name"] == "watch"
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["state_name"] == "Dispatched"


def test_what_the_watch_dispatched_came_as_far_as_it_can_without_vllm(up: Up) -> None:
    """Fetched with the token, merged by the other worker, recorded in the database; then nobody stages it."""
    (run,) = up.wait_for_end(tags={"all_": ["llama-tiny", "eu"]}, name={"like_": "llama-tiny-instruct-v1 x eu"})
    assert run["state_type"] == "FAILED"
    with psycopg.connect(up.settings.ledger.replace("+psycopg", "")) as database:
        assert database.execute("SELECT count(*) FROM merges").fetchone() == (1,)
        assert database.execute("SELECT count(*) FROM fetches").fetchone() == (3,)


def test_the_command_in_another_terminal_knows_the_password(up: Up) -> None:
    done = up.empelt("doctor", "--json")
    told = json.loads(done.stdout)
    found = {one["check"]: one for one in told["findings"]}
    assert found["Prefect server"]["ok"], found["Prefect server"]
    assert "with a password" in found["Prefect server"]["found"]
    assert found["ledger"]["ok"], found["ledger"]
    rows = {row["name"]: row for row in told["settings"]}
    assert rows["prefect_auth"] == {"name": "prefect_auth", "value": "set", "from": "last start"}
    assert ":***@" in rows["ledger_url"]["value"]
    retried = up.empelt("retry", "llama-tiny-instruct-v1 x eu", "--now", "--json")
    assert retried.returncode == 0, retried.stderr
    assert "/runs/flow-run/" in json.loads(retried.stdout)["watch_run"]
    up.wait_for_end(tags={"all_": ["retry"]})
    plain = up.empelt("doctor")
    assert not [name for name, secret in up.canaries.items() if secret in done.stdout + plain.stdout + plain.stderr]


def test_the_metrics_tell_of_what_happened(up: Up) -> None:
    url = f"http://127.0.0.1:{up.settings.metrics_port}/metrics"
    text = httpx.get(url, timeout=60, trust_env=False).raise_for_status().text
    found = {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["empelt_prefect_up", ""] == found["empelt_ledger_up", ""] == 1
    assert found["empelt_watch_runs", "completed"] >= 2
    assert 0 <= found["empelt_watch_good_poll_age_seconds", ""] < 600
    assert found["empelt_watch_polls_total", ""] >= 2
    assert found["empelt_attempts_total", ""] >= 1
    assert found["empelt_ledger_rows", "merges"] == 1
    assert found["empelt_store_artifacts", ""] == 4


def test_each_port_answers_what_is_its_own(up: Up) -> None:
    webhook, metrics = (f"http://127.0.0.1:{port}" for port in (up.settings.webhook_port, up.settings.metrics_port))
    assert httpx.get(f"{webhook}/metrics", trust_env=False).status_code == 404
    assert httpx.post(f"{metrics}/webhook", trust_env=False).status_code == 404


def test_everything_listens_on_loopback_only(up: Up) -> None:
    listening = set()
    for process in processes_of(up.settings.home):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN or (not connection.raddr and connection.type == 2):
                listening.add((connection.laddr.ip, connection.laddr.port))
    chosen = up.settings
    ports = {chosen.prefect_port, chosen.gateway_port, chosen.webhook_port, chosen.metrics_port}
    assert {port for _, port in listening} >= ports
    assert {address for address, _ in listening} <= {"127.0.0.1", "::1"}


def test_a_child_is_given_only_the_secrets_that_it_needs(up: Up) -> None:
    """By the environment of the process: paths of files, and what Prefect must be given as a value."""
    recorded = json.loads((up.settings.home / "run" / "children.json").read_text())
    needs = {
        "prefect-server": {"prefect_auth_file", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"},
        "gateway": set(),
        "receiver": {"webhook_secret_file", "prefect_auth_file", "ledger_url_file"}
        | {"PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"},
        "worker-control": {"hub_token_file", "prefect_auth_file", "ledger_url_file", "PREFECT_API_AUTH_STRING"},
        "worker-gpu": {"hub_token_file", "prefect_auth_file", "ledger_url_file", "PREFECT_API_AUTH_STRING"},
    }
    assert {child["name"] for child in recorded} == needs.keys()
    ways = spellings(up.canaries)
    for child in recorded:
        environment = psutil.Process(child["pid"]).environ()
        held = {
            name.removeprefix("EMPELT_").lower() if name.startswith("EMPELT_") else name
            for name, value in environment.items()
            if value in map(str, up.secret_files) or any(way in value.encode() for way in ways)
        }
        assert held == needs[child["name"]], child["name"]


def test_logs_of_runs_are_json_with_run_job_release_and_target(up: Up) -> None:
    lines = [
        json.loads(line)
        for line in (up.settings.logs / "worker-control.log").read_text().splitlines()
        if line.startswith("{")
    ]
    of_job = [line for line in lines if line.get("target") == "eu"]
    assert of_job
    for line in of_job:
        assert line["release"].startswith(f"{LAB}/llama-tiny-instruct-v1@")
        assert len(line["job"]) == 64
        assert line["run_name"] == "llama-tiny-instruct-v1 x eu"
        assert len(line["run"]) == 36
    receiver = [json.loads(line) for line in (up.settings.logs / "receiver.log").read_text().splitlines()]
    assert any(f"{LAB}/llama-tiny-instruct-v1, head {'ab' * 20}: planned" in line["message"] for line in receiver)


def test_no_secret_is_anywhere(up: Up) -> None:
    ways = spellings(up.canaries)
    found, files = in_home(up.settings.home, ways)
    assert found == []
    assert files > 20
    auth = f"operator:{CANARIES['prefect_password']}"
    found, rows = in_api(f"{up.settings.prefect_url}/api", auth, ways)
    assert found == []
    assert rows > 50
    assert up.lines == set()
    assert len(up.pids) > 6  # the children, and the runs that came and went


def test_the_checker_finds_what_is_planted(up: Up, tmp_path: Path) -> None:
    """Otherwise the test above proves nothing: the program itself, on the same installation."""
    canaries = tmp_path / "canaries.json"
    canaries.write_text(json.dumps({**up.canaries, "planted": "a-planted-secret"}))
    (up.settings.logs / "planted.log").write_text("token=a-planted-secret\n")
    with up.api as api:
        api.post("/variables/", json={"name": "planted", "value": "a-planted-secret"}).raise_for_status()
    environment = {**os.environ, "EMPELT_INSTANCE": (up.settings.home / "instance-id").read_text().strip()}
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "a-planted-secret"], env=environment
    )
    try:
        arguments = ["--home", str(up.settings.home), "--canaries", str(canaries), "--auth-from", "auth"]
        canaries.write_text(
            json.dumps({"planted": "a-planted-secret", "auth": f"operator:{CANARIES['prefect_password']}"})
        )
        program = str(ROOT / "tests" / "system" / "check_secrets.py")
        done = subprocess.run(
            [sys.executable, program, *arguments, "--api", f"{up.settings.prefect_url}/api"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        sleeper.kill()
        sleeper.wait()
    assert done.returncode == 1, done.stderr
    assert "a-planted-secret" not in done.stdout
    for place in ("logs/planted.log", "variables", f"command line of pid {sleeper.pid}"):
        assert f"FOUND planted in {place}" in done.stdout
    assert "FOUND auth" not in done.stdout
