"""`empelt up`: everything on one host, as recorded children of one command.

Prefect server, vLLM launcher, agent, gateway, and a process worker for each pool: the same code path
as on many hosts. They are started side by side, since the two slow ones (server 14 s, launcher 17 s) mostly import.
"""

import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from deployments.supervisor import Child, Supervisor, require_free
from tasks.domain.catalog import load_catalog
from tasks.domain.errors import DiskFull, InputError, ServingMissing
from tasks.doors import open_ledger, open_store
from tasks.harness.selection import dev_sets
from tasks.harness.suite import known_benchmarks, requests_of
from tasks.settings import LAUNCHER, REMEMBERED, Settings
from tasks.settings_sources import PREFIX, SECRETS

Say = Callable[[str], None]
LOGGING = Path(__file__).with_name("logging.yml")
LEAST_FREE_BYTES = 2 * 1024**3


class Installation(NamedTuple):
    """What is up."""

    supervisor: Supervisor
    environment: dict[str, str]
    """EMPELT_* and PREFECT_* as the children have them."""
    seconds: float
    """From the command to ready."""


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that every child, every worker and every flow run gets."""
    return {**ours(settings), **prefects(settings)}


def ours(settings: Settings) -> dict[str, str]:
    """What an installation was started with, without secrets; only a ledger's URL is handed on, with its password."""
    given = {name: "" if value is None else str(value) for name, value in settings if name not in SECRETS}
    if settings.ledger_url_file is None:
        given["ledger_url"] = settings.ledger
    return {f"{PREFIX}{name.upper()}": value for name, value in given.items()}


def withheld(environment: Mapping[str, str], *secrets: str) -> dict[str, str]:
    """``environment`` for a child that has no use for ``secrets``: whoever does not know one cannot give it away."""
    names = [f"{PREFIX}{name.upper()}{end}" for name in secrets for end in ("", "_FILE")]
    names += ["HF_TOKEN"] if "hub_token" in secrets else []
    names += ["PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"] if "prefect_auth" in secrets else []
    return {**environment, **dict.fromkeys(names, "")}


def prefects(settings: Settings) -> dict[str, str]:
    """Prefect's own settings, for its server, the workers and every run."""
    auth = settings.prefect_auth.get_secret_value() if settings.prefect_auth else ""
    return {
        "PREFECT_HOME": str(settings.home / "prefect"),
        "PREFECT_API_URL": f"{settings.prefect_url}/api",
        "PREFECT_UI_API_URL": f"{settings.prefect_url}/api",
        **({"PREFECT_SERVER_API_AUTH_STRING": auth, "PREFECT_API_AUTH_STRING": auth} if auth else {}),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
        # In memory (the default) every lease is gone when the server restarts, and healthy runs die with it (#18839).
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        # Four of these without a word are a crash (tasks/lost.py, deployments/automations.py).
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
        "PREFECT_LOGGING_SETTINGS_PATH": str(LOGGING),  # strikes secrets out
        **({"PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "empelt"} if settings.log_format == "json" else {}),
        "PREFECT_LOGGING_COLORS": "false",  # into files
        "PREFECT_CLI_PROMPT": "false",
        # Where a proxy is set, what is on this host must not go through it.
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1", "localhost"])),
    }


def remember(settings: Settings) -> None:
    """Write down what this installation was started with: a later command needs to be told its home only."""
    path = settings.home / REMEMBERED
    new = path.with_suffix(".new")
    new.touch(mode=0o600)  # a ledger's address may hold a password
    quoted = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in ours(settings).items()}
    new.write_text("".join(f"{name}='{value}'\n" for name, value in quoted.items()), encoding="utf-8")
    new.replace(path)


def check(settings: Settings) -> None:
    """Refuse to start rather than start half.

    Raises:
        InputError: no family named; ServingMissing; AddressInUse; CatalogError; DiskFull. Nothing was started.
    """
    if not settings.family_names:
        known = sorted(path.stem for path in settings.catalog.glob("*.yaml"))
        raise InputError(f"no family named: set EMPELT_FAMILIES or pass --families; the catalog has {known}")
    # Not open_catalog(): what --families names is not in our own environment yet.
    found = load_catalog(
        settings.catalog, settings.family_names, known=known_benchmarks(), requests_of=requests_of, dev=dev_sets()
    )
    found.only(settings.target_names)
    if not settings.serving_python.exists():
        raise ServingMissing(f"no vLLM environment: {settings.serving_python} does not exist; run `make setup`")
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    if free < LEAST_FREE_BYTES:
        raise DiskFull(f"{settings.home} has {free >> 20} MiB free; at least {LEAST_FREE_BYTES >> 20} MiB are needed")


@contextmanager
def bring_up(settings: Settings, say: Say, *, hub: Child | None = None) -> Iterator[Installation]:
    """Start everything, wait until it is ready, and end it all on leaving."""
    began = time.monotonic()
    check(settings)
    environment = environment_of(settings)
    os.environ.update(environment)
    remember(settings)
    with Supervisor(settings.home) as supervisor:
        for name in supervisor.end_leftovers():
            say(f"ended {name}, left by an earlier run")
        require_free("127.0.0.1", settings.prefect_port, "the Prefect server")
        require_free(settings.gateway_host, settings.gateway_port, "the gateway")
        if settings.webhook_secret:
            require_free(settings.webhook_host, settings.webhook_port, "the Hub's events")
        if settings.metrics_port:
            require_free(settings.metrics_host, settings.metrics_port, "/metrics")
        freed = open_ledger().expire_claims_of()
        if freed:
            say(f"{len(freed)} job(s) were under way when the last run ended; the watch takes them up again")
        open_store().sweep_scratch(timedelta(days=1))
        if hub:
            hub.env = withheld(hub.env, *SECRETS)
        early = [*([hub] if hub else []), *servers(settings, environment)]
        for child in early:
            supervisor.start(child)
        for child in early:
            supervisor.wait_ready(child)
            say(f"{child.name} is ready ({time.monotonic() - began:.0f} s)")
        from deployments.registry import (  # imports Prefect: 2 s, and only now is there a server to talk to
            crash_stray_runs,
            register,
        )

        if crashed := crash_stray_runs(settings):
            say(f"{crashed} flow run(s) of the last run are marked as crashed")
        registered = register(settings, version("empelt"))
        for child in workers(environment):
            supervisor.start(child)
        say(f"{len(registered)} deployments, 2 workers ({time.monotonic() - began:.0f} s)")
        yield Installation(supervisor, environment, time.monotonic() - began)


def servers(settings: Settings, environment: Mapping[str, str]) -> list[Child]:
    """Prefect server, launcher, agent, gateway, and the receiver if anything is to be received or measured.

    Only a worker has to do with the Hub, so only a worker gets the token; and so on with the other secrets.
    """
    launcher_socket = settings.run / "launcher.sock"
    launcher_socket.unlink(missing_ok=True)  # of a launcher that was killed; its own end has been seen to above
    began, long_ago = datetime.now(UTC), datetime.min.replace(tzinfo=UTC)
    empelt = [sys.executable, "-m", "deployments"]
    return [
        Child(
            "prefect-server",
            [
                sys.executable,
                "-m",
                "prefect",
                "server",
                "start",
                "--host",
                "127.0.0.1",
                "--port",
                str(settings.prefect_port),
            ],
            withheld(
                environment,
                *("hub_token", "publish_token", "webhook_secret", "ledger_url", "gateway_keys", "gateway_key"),
            ),
            is_ready=lambda: answers(f"{settings.prefect_url}/api/ready"),
            ready_seconds=180,
        ),
        # Its socket appears when vLLM is imported: 17 s on quiet cores. It must outlive an agent that crashes.
        Child(
            "launcher",
            [
                *(str(settings.serving_python), str(LAUNCHER), "--die-with-parent"),
                *("--socket", str(launcher_socket), "--logs", str(settings.logs)),
            ],
            {**withheld(environment, *SECRETS), "HF_HUB_OFFLINE": "1"},
            is_ready=launcher_socket.exists,
            ready_seconds=300,
            grace_seconds=30,
        ),
        Child(
            "agent",
            [*empelt, "agent"],
            withheld(environment, "hub_token", "publish_token", "webhook_secret", "prefect_auth", "gateway_keys"),
            is_ready=lambda: (open_ledger().agent_last_seen() or long_ago) > began,
        ),
        # After all that its streams need, since what was started last is ended first: streams go on to their ends.
        Child(
            "gateway",
            [*empelt, "gateway"],
            withheld(environment, *(name for name in SECRETS if not name.startswith("gateway_"))),
            is_ready=lambda: answers(f"{settings.gateway_url}/health"),
            grace_seconds=settings.drain_seconds + 10,
        ),
        *receivers(settings, environment),
    ]


def receivers(settings: Settings, environment: Mapping[str, str]) -> list[Child]:
    """The process that the Hub's events and Prometheus come to: none if there is neither a secret nor a port."""
    asked = [f"http://{settings.webhook_host}:{settings.webhook_port}/health"] if settings.webhook_secret else []
    asked += [f"http://{settings.metrics_host}:{settings.metrics_port}/health"] if settings.metrics_port else []
    if not asked:
        return []
    return [
        Child(
            "receiver",
            [sys.executable, "-m", "deployments", "receiver"],
            withheld(environment, "hub_token", "publish_token", "gateway_keys", "gateway_key"),
            is_ready=lambda: all(answers(url) for url in asked),
        )
    ]


def workers(environment: Mapping[str, str]) -> list[Child]:
    """One process worker for each pool; a gpu worker runs one merge at a time."""
    start = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
    mine = {**withheld(environment, "webhook_secret", "gateway_keys"), "PREFECT_SERVER_API_AUTH_STRING": ""}
    allowed = {"control": mine, "gpu": withheld(mine, "publish_token")}
    # Prefect makes a temporary folder for each run, and one of a killed worker would stay for good.
    tmp = Path(environment["EMPELT_HOME"]) / "run" / "tmp"
    return [
        Child(
            f"worker-{pool}",
            [*start, "--pool", pool, "--limit", limit, "--name", pool],
            allowed[pool],
            scratch=tmp / pool,
        )
        for pool, limit in (("control", "8"), ("gpu", "1"))
    ]


def answers(url: str) -> bool:
    """Whether ``url`` answers 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return 200 <= int(response.status) < 300
    except OSError:
        return False


def keep_up(installation: Installation, say: Say) -> None:
    """Watch over the children until interrupted; one that dies is started again."""
    while True:
        installation.supervisor.revive(say)
        time.sleep(1)
