"""One real installation for the matrix: server, workers, agent, gateway, local Hub; under them a stand-in for vLLM."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from tasks.processes import end_processes, marked_processes
from tasks.store.ledger import Ledger
from tests.system.installation import Installation, ask

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
MODELS = ROOT / "infra" / "demo_family" / "models"
ORGANIZATION = "empelt-demo"
FAMILY = """\
family: {family}
architectures: [LlamaForCausalLM]
base: {{repo: empelt-demo/llama-tiny}}
instruct: {{organizations: [empelt-demo], pattern: 'empelt-demo/{family}-instruct-v\\d+'}}
tuned_bases: {{eu: {{repo: empelt-demo/eu_llama-tiny}}}}
publish: {publish}
targets:
  eu:
    {{languages: [eu], channel: {channel}, recipe: {{method: task_arithmetic, tuned_weight: 1.0}}, gate: matrix,
      promotion: {{steps: [{{weight: 50, seconds: 1}}], warm_requests: 1}}}}
serving: {{dtype: float32, max_model_len: 512, max_num_seqs: 64, kv_mib: 128}}
"""
GATE = "name: matrix\nchecks:\n  - {benchmark: eu_bpb_short, metric: bits_per_byte, ceiling: 99, critical: true}\n"
AUTO, ASKED = "auto", "asked"
"""Two families over the same base: one publishes by itself, one asks."""
CHANNELS = {AUTO: "eu", ASKED: "eu-asked"}


class Stuck(Exception):
    """What was waited for did not come."""


def wait(condition: Callable[[], Any], seconds: float, what: str, every: float = 0.5) -> Any:
    """What the condition found; ``Stuck`` if it finds nothing in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(every)
    raise Stuck(f"waited {seconds:.0f} s for {what}")


class Matrix:
    """The installation, and what the rows do to it."""

    def __init__(self, home: Path, ports: tuple[int, int, int], ledger_url: str = "") -> None:
        self.home, self.hub_port = home, ports[2]
        self.plan = home / "crash-plan.json"
        self.installation = Installation(home=home, prefect_port=ports[0], gateway_port=ports[1])
        self.ledger_url = ledger_url or f"sqlite:///{home / 'ledger.db'}"
        self.up: subprocess.Popen[bytes] | None = None
        self.numbers = {AUTO: 0, ASKED: 0}
        self._hub: subprocess.Popen[bytes] | None = None
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The facts, read directly."""
        if self._ledger is None:
            self._ledger = Ledger.open(self.ledger_url)
        return self._ledger

    @property
    def environment(self) -> dict[str, str]:
        """As every process of the installation has it."""
        chosen = {
            "EMPELT_CATALOG": str(self.home / "catalog"),
            "EMPELT_FAMILIES": f"{AUTO},{ASKED}",
            "EMPELT_HUB_ENDPOINT": f"http://127.0.0.1:{self.hub_port}",
            "EMPELT_LEDGER_URL": self.ledger_url,
            "EMPELT_SERVING_PYTHON": str(HERE / "serving" / "python"),
            "CRASH_MATRIX_PYTHON": sys.executable,
            "EMPELT_WATCH_INTERVAL_SECONDS": "3600",
            "EMPELT_NIGHTLY_CRON": "0 0 1 1 *",
            "EMPELT_SETTLE_SECONDS": "0",
            "EMPELT_LEASE_SECONDS": "20",
            "EMPELT_PENDING_SECONDS": "120",
            "EMPELT_RETRY_SECONDS": "0",
            "EMPELT_MAX_ATTEMPTS": "30",
            "CRASH_MATRIX_AT": str(self.plan),
            "TMPDIR": str(self.home / "tmp"),
            "PYTHONPATH": os.pathsep.join([str(HERE / "inject"), str(ROOT)]),
        }
        return {**self.installation.environment, **chosen}

    # --- up and down -----------------------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Catalog, Hub, base and tuned base."""
        if self.home.exists():
            self.end_all()
            for path in self.home.rglob("*"):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)
            shutil.rmtree(self.home)
        (self.home / "catalog" / "gates").mkdir(parents=True)
        (self.home / "tmp").mkdir()
        (self.home / "catalog" / "gates" / "matrix.yaml").write_text(GATE)
        for family, channel in CHANNELS.items():
            publish = "ask" if family == ASKED else "auto"
            text = FAMILY.format(family=family, channel=channel, publish=publish)
            (self.home / "catalog" / f"{family}.yaml").write_text(text)
        for name in ("llama-tiny", "eu_llama-tiny"):
            self.push_folder(name, MODELS / name)
        command = ["-m", "infra.local_hub", "--root", str(self.home / "hub"), "--port", str(self.hub_port)]
        self._hub = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env={**os.environ, "CRASH_MATRIX_AT": str(self.plan)}
        )

    def start(self) -> None:
        """`empelt up`, until it says where everything is; ``Stuck`` if it ends first."""
        out = self.home / "up.out"
        with out.open("wb") as stdout, (self.home / "up.err").open("ab") as stderr:
            self.up = subprocess.Popen(
                [sys.executable, "-m", "deployments", "up", "--json"],
                cwd=ROOT,
                env=self.environment,
                stdout=stdout,
                stderr=stderr,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

        def told() -> bool:
            assert self.up is not None
            if self.up.poll() is not None:
                raise Stuck(f"`empelt up` ended with {self.up.returncode}: {(self.home / 'up.err').read_text()[-800:]}")
            return out.read_text().endswith("}\n")

        wait(told, 240, "`empelt up`")

    def stop(self) -> int:
        """Ctrl-C; its exit code."""
        assert self.up is not None
        self.up.send_signal(signal.SIGINT)
        return self.up.wait(120)

    def end_all(self) -> list[str]:
        """Whatever is left of the installation is killed; what that was."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self._hub is not None:
            self._hub.terminate()
            self._hub.wait(20)
            self._hub = None
        if self.up is not None and self.up.poll() is None:
            self.up.kill()
            self.up.wait()
        # All of them have the name of the plan in their environment, those of a matrix that was killed as well.
        left = [*marked_processes(str(self.plan), "CRASH_MATRIX_AT")]
        left += self.installation.processes() if (self.home / "instance-id").exists() else []
        names = [described(process) for process in left]
        end_processes(left, grace_seconds=0)
        return names

    def keep_logs(self) -> None:
        """Of an installation that came to no end, before the next one takes its home."""
        kept = self.home.with_name(f"{self.home.name}-stuck")
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.home / "logs", kept)

    # --- what the rows do --------------------------------------------------------------------------------------------
    def push_folder(self, name: str, folder: Path) -> None:
        """A commit on the Hub, as a lab makes it."""
        arguments = [
            "push",
            "--root",
            str(self.home / "hub"),
            "--repo",
            f"{ORGANIZATION}/{name}",
            "--from",
            str(folder),
        ]
        subprocess.run([sys.executable, "-m", "infra.local_hub", *arguments], cwd=ROOT, check=True, capture_output=True)

    def push_release(self, family: str) -> str:
        """A new release that is stronger than all before; its name."""
        self.numbers[family] += 1
        number, folder = self.numbers[family], self.home / "pushed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(MODELS / "llama-tiny-instruct-v2", folder)
        path = folder / "generation_config.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "transformers_version": f"5+{number}"}, indent=1))
        name = f"{family}-instruct-v{number}"
        self.push_folder(name, folder)
        return name

    def push_refused(self) -> str:
        """A release without its weights' index: unfinished, and held."""
        self.numbers[AUTO] += 1
        folder = self.home / "pushed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(MODELS / "llama-tiny-instruct-v2", folder)
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**told, "architectures": ["MistralForCausalLM"]}))
        name = f"{AUTO}-instruct-v{self.numbers[AUTO]}"
        self.push_folder(name, folder)
        return name

    def run_flow(self, deployment: str, **parameters: Any) -> str:
        """Create a run, as the schedule or a person does; its id."""
        api = f"{self.installation.ui}/api"
        found = wait(lambda: self._answer(f"{api}/deployments/name/{deployment}"), 60, deployment)
        made = ask(f"{api}/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        if made.status not in (200, 201):
            raise Stuck(f"{deployment} was refused with {made.status}: {made.body}")
        return str(made.body["id"])

    def watch(self) -> None:
        """Start the watch, as its schedule does; not while the server is away."""
        try:
            self.run_flow("watch-hub/schedule")
        except (OSError, Stuck):
            return

    def _answer(self, url: str) -> Any:
        try:
            answer = ask(url)
        except OSError:
            return None
        return answer.body if answer.status == 200 else None

    def active_runs(self) -> list[str]:
        """Names of runs that are under way, or due to be."""
        soon = (datetime.now(UTC) + timedelta(seconds=5)).isoformat()
        under_way = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
        due = {"state": {"type": {"any_": ["SCHEDULED"]}}, "expected_start_time": {"before_": soon}}
        api = f"{self.installation.ui}/api/flow_runs/filter"
        try:
            found = [ask(api, {"flow_runs": wanted, "limit": 100}).body for wanted in (under_way, due)]
            return [run["name"] for runs in found for run in runs]
        except (OSError, TypeError):
            return ["(the server does not answer)"]

    def last_watch_died(self) -> bool:
        """Whether the newest watch came to no end: no automation is for that, its schedule starts the next one."""
        wanted = {"flows": {"name": {"any_": ["watch-hub"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 1}
        wanted["flow_runs"] = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
        try:
            found = ask(f"{self.installation.ui}/api/flow_runs/filter", wanted).body
            return bool(found) and found[0]["state"]["type"] in ("CRASHED", "FAILED")
        except (OSError, TypeError):
            return False

    def arm(self, rows: list[tuple[str, str, str]]) -> None:
        """Switch crash points on: (number, point, victim)."""
        half = self.plan.with_suffix(".half")
        half.write_text(json.dumps([dict(zip(("row", "point", "victim"), row, strict=True)) for row in rows]))
        half.replace(self.plan)

    def fired(self, number: str) -> dict[str, Any] | None:
        """What the killer wrote down before it killed."""
        path = Path(f"{self.plan}.{number}.fired")
        try:
            return dict(json.loads(path.read_text()))
        except (FileNotFoundError, ValueError):
            return None


class Caller(threading.Thread):
    """Asks a channel five times a second; every answer is kept as (when, artifact), every refusal as (when, why)."""

    def __init__(self, matrix: Matrix, channel: str) -> None:
        super().__init__(daemon=True)
        self._url, self._channel, self._over = (
            f"{matrix.installation.endpoint}/v1/completions",
            channel,
            threading.Event(),
        )
        self.answers, self.refusals = list[tuple[float, str]](), list[tuple[float, str]]()

    def run(self) -> None:
        while not self._over.wait(0.2):
            body = {"model": self._channel, "prompt": "Kaixo", "max_tokens": 4}
            try:
                answer = ask(self._url, body, seconds=20)
            except OSError as error:
                self.refusals.append((time.time(), str(error)))
                continue
            if answer.status == 200:
                self.answers.append((time.time(), str(answer.body["model"])))
            else:
                self.refusals.append((time.time(), f"{answer.status}: {str(answer.body)[:120]}"))

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join(30)


def described(process: psutil.Process) -> str:
    """For people."""
    try:
        return f"{' '.join(process.cmdline()[:6])} (pid {process.pid})"
    except psutil.Error:
        return f"pid {process.pid}"
