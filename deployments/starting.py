"""Runs that a command starts on the installation that is up."""

from collections.abc import Sequence
from typing import Any

import httpx

from deployments.up import answers
from tasks.domain.errors import EndpointUnavailable
from tasks.prefect_api import prefect_of
from tasks.runs import start_run
from tasks.settings import Settings


def is_up(settings: Settings) -> bool:
    """Whether the Prefect server of this installation answers."""
    return answers(f"{settings.prefect_url}/api/ready")


def require_server(settings: Settings) -> None:
    """EndpointUnavailable if no Prefect server is up."""
    if not is_up(settings):
        raise EndpointUnavailable(f"no Prefect server at {settings.prefect_url}: start it with `empelt up`")


def start_on(settings: Settings, name: str, parameters: dict[str, Any], tags: Sequence[str] = ()) -> str:
    """Create a run of ``flow/deployment`` and return at once; the address of the run in the UI.

    Raises:
        EndpointUnavailable: if no server is up, or it went away.
    """
    require_server(settings)
    with prefect_of(settings):
        try:
            run = start_run(name, wait=False, parameters=parameters, tags=list(tags))
        except httpx.HTTPError as error:
            raise EndpointUnavailable(f"the Prefect server at {settings.prefect_url} went away: {error}") from error
    return run_address(settings, str(run.id))


def run_address(settings: Settings, run_id: str) -> str:
    """Where the UI shows a run."""
    return f"{settings.prefect_url}/v2/runs/flow-run/{run_id}"
