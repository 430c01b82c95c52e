"""How runs start, what they are called as owners, and when they are tried again: the one place for all three."""

import os
import socket
from functools import cache
from typing import Any, cast
from uuid import uuid4

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import MissingResult
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.tasks import exponential_backoff

from tasks.domain.errors import DiskFull, TransientError


@cache
def _by_hand() -> str:
    """Whoever works outside Prefect, such as a script: two processes must not be one owner, who may claim twice."""
    return f"by hand, {socket.gethostname()} pid {os.getpid()} {uuid4().hex[:8]}"


def own_name() -> str:
    """The owner of what this run claims and has staged: ``run:<id of the flow run>``, or one for this process alone."""
    return f"run:{flow_run.get_id() or _by_hand()}"


def is_transient(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Prefect's retry condition: only what may pass by itself is tried again."""
    try:
        error = state.result(raise_on_failure=False)
    except MissingResult:
        return False
    return isinstance(error, TransientError) and not isinstance(error, DiskFull)


def warn_of(state: State[Any], what: str) -> None:
    """For a task whose failure must not change how its flow ends, called with ``return_state=True``: a warning."""
    if state.is_failed():
        get_run_logger().warning("%s: not written: %s", what, state.message)


HUB: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}


def start_run(name: str, *, wait: bool, parameters: dict[str, Any], **options: Any) -> FlowRun:
    """Create a run of ``flow/deployment``; with ``wait`` return when it has ended, else at once.

    Args:
        name: ``flow-name/deployment-name``.
        wait: whether to wait; the run is then shown as a subflow of the caller.
        parameters: of the flow, as JSON values.
        options: of ``prefect.deployments.run_deployment``: flow_run_name, tags, idempotency_key, timeout.
    """
    chosen = {"poll_interval": 0.5, "as_subflow": wait, **({} if wait else {"timeout": 0}), **options}
    return cast(FlowRun, run_deployment(name, parameters=parameters, **chosen))
