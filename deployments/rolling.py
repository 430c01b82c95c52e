"""`empelt rollback`: starts the rollback flow on the running installation and waits for its end."""

from typing import Any

import httpx
from prefect.client.orchestration import get_client

from deployments.up import answers
from tasks.domain.errors import EndpointUnavailable, InputError, PromotionFailed
from tasks.doors import open_ledger
from tasks.prefect_api import prefect_of
from tasks.runs import start_run
from tasks.settings import Settings


def roll_back(settings: Settings, channel: str, to: str, reason: str) -> dict[str, Any]:
    """Take ``channel`` back; what it serves then.

    Raises:
        EndpointUnavailable: if nothing is up to do it.
        InputError: if the channel has nothing to go back to.
        PromotionFailed: with the run's own message, if it failed. The channel is as it was then.
    """
    if open_ledger().channel(channel) is None:
        known = [state.channel for state in open_ledger().channels()]
        raise InputError(f"channel {channel!r} has never served anything; channels: {known}")
    if not answers(f"{settings.prefect_url}/api/ready"):
        raise EndpointUnavailable(f"no Prefect server at {settings.prefect_url}: start it with `empelt up`")
    with prefect_of(settings):
        try:
            run = start_run(
                "rollback-channel/by-hand",
                wait=True,
                parameters={"channel": channel, "to": to, "reason": reason},
                timeout=settings.stage_deadline_seconds + settings.visible_deadline_seconds + 120,
                tags=[channel, "rollback"],
            )
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(run.id)
        except httpx.HTTPError as error:
            raise EndpointUnavailable(f"the Prefect server at {settings.prefect_url} went away: {error}") from error
    run_url = f"{settings.prefect_url}/v2/runs/flow-run/{run.id}"
    if run.state is None or not run.state.is_completed() or run.state.name == "Refused":
        said = run.state.message if run.state else "it has no state"
        raise PromotionFailed(f"{channel} was not rolled back: {said} (run: {run_url})")
    state = open_ledger().channel(channel)
    assert state is not None  # it was there above, and channels are never removed
    return {
        "channel": channel,
        "release": str(state.release),
        "artifact": state.artifact_digest,
        "generation": state.generation,
        "run_url": run_url,
    }
