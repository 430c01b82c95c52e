"""`empelt deploy`: the registry, on a Prefect server that several machines share. One code path with `empelt up`."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from deployments.pools import GPU, Change, PoolType
from deployments.registry import Wanted, apply
from tasks.domain.errors import EndpointUnavailable, InputError
from tasks.domain.sizing import DeviceClass, load_classes
from tasks.settings import Settings

TEMPLATE_KEYS = ("job_configuration", "variables")


def deploy(settings: Settings, *, gpu: PoolType, template: Path | None, dry_run: bool) -> dict[str, Any]:
    """Write pools, queues, deployments, schedules and forms to the server that PREFECT_API_URL names.

    Args:
        settings: of the installation; the ledger must be one that other machines can reach.
        gpu: type of the gpu pool.
        template: file with its base job template; a Kubernetes pool needs one.
        dry_run: compare, write nothing.

    Raises:
        InputError: what was asked cannot be done; nothing was written.
        EndpointUnavailable: the server does not answer, or went away in the middle: run it again.
    """
    api = _checked(settings, gpu, template)
    wanted = Wanted(api, version("empelt"), command=None, gpu=gpu, template=_template(template))
    try:
        _same_version()
        changes = apply(settings, wanted, dry_run=dry_run)
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise InputError(f"{api} refused us: set PREFECT_API_AUTH_STRING as the server has it") from error
        raise EndpointUnavailable(f"{api} answered {error.response.status_code}: {error}") from error
    except httpx.HTTPError as error:
        raise EndpointUnavailable(f"no Prefect server answers at {api}: {error}") from error
    return {
        "api": api,
        "dry_run": dry_run,
        "changes": [change._asdict() for change in changes],
        "workers": worker_commands(gpu, load_classes(settings.catalog)),
    }


def worker_commands(gpu: PoolType, classes: Sequence[DeviceClass]) -> list[dict[str, Any]]:
    """What is to be started on the machines: a worker for the control pool, and one for each device of every class."""
    start = "prefect worker start --type"
    control = {"queue": "control", "count": 1, "command": f"{start} process --pool control --limit 8 --name control"}
    if gpu == "kubernetes":  # the cluster places the jobs, by the class's job variables
        return [control, {"queue": GPU, "count": 1, "command": f"{start} kubernetes --pool gpu --name cluster"}]
    if not classes:
        return [control, {"queue": GPU, "count": 1, "command": f"{start} process --pool gpu --limit 1 --name $HOST-0"}]
    rows = [control]
    for one in classes:
        device = "CUDA_VISIBLE_DEVICES=0 " if one.gpus else ""
        command = f"{device}{start} process --pool gpu --work-queue {one.name} --limit 1 --name $HOST-{one.name}-0"
        rows.append({"queue": f"{GPU}/{one.name}", "count": one.workers, "command": command})
    return rows


def as_text(found: dict[str, Any]) -> str:
    """A line for each thing, and what to start where."""
    lines = [str(Change(**change)) for change in found["changes"]]
    head = "would be written to" if found["dry_run"] else "written to"
    lines += ["", "workers, each with EMPELT_* and PREFECT_* of the installation:"]
    lines += [f"{row['count']} x  {row['command']}" for row in found["workers"]]
    return "\n".join([f"{head} {found['api']}", *lines])


def _checked(settings: Settings, gpu: PoolType, template: Path | None) -> str:
    api, problems = str(PREFECT_API_URL.value() or "").rstrip("/"), []
    if not api:
        problems.append("PREFECT_API_URL is not set: name the shared server, as in http://prefect.lan:4200/api")
    if not settings.ledger_url:
        there = f"sqlite:///{settings.home / 'ledger.db'}"
        problems.append(f"the ledger would be {there}, on this machine alone: set EMPELT_LEDGER_URL=postgresql://...")
    if not settings.family_names:
        problems.append("no family named: set EMPELT_FAMILIES")
    if gpu == "kubernetes" and template is None:
        problems.append("a Kubernetes pool needs --template; infra/kubernetes/gpu-job.json is one")
    if problems:
        raise InputError("nothing was deployed", problems=problems)
    return api


def _template(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no base job template: {error}") from error
    if not isinstance(found, dict) or sorted(found) != sorted(TEMPLATE_KEYS):
        keys = sorted(found) if isinstance(found, dict) else type(found).__name__
        raise InputError(f"{path} is no base job template: expected the keys {list(TEMPLATE_KEYS)}, found {keys}")
    return found


def _same_version() -> None:
    """A client and a server of two versions answer each other with HTTP 422, in the middle of something."""
    with get_client(sync_client=True) as client:
        there = client.request("GET", "/admin/version").json()
    if there != version("prefect"):
        raise InputError(f"the server is prefect {there}, this client {version('prefect')}: run the same on both")
