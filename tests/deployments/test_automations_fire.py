"""Each automation fires on a real Prefect server: real events of real runs, and what the server then does by itself.

Only the clocks are shortened: seconds of silence where an installation waits for minutes.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from deployments.up import answers
from tasks.settings import Settings
from tests.local_hub.hub_fixtures import free_port

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

pytestmark = pytest.mark.system

SILENCE = timedelta(seconds=10)  # the least that Prefect takes
SHORT = {
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
JOB = "remerge-release/by-hand-or-watch"
ASLEEP = """
import time
from prefect import flow, tags

@flow(name="remerge-release", flow_run_name="asleep")
def asleep() -> None:
    time.sleep(600)

with tags("empelt"):
    asleep()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a whole server, with the service that marks late runs, which the tests' other one goes without."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    told = {**os.environ, **SHORT, "PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=told, stdout=log, stderr=log)
        try:
            ready = f"http://127.0.0.1:{port}/api/ready"
            until(lambda: answers(ready) or process.poll() is not None, 120, "the server")
            assert process.poll() is None, (home / "log").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def client(server: int, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SyncPrefectClient]":
    """Asks that server, on which everything is registered, with every silence shortened."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.automations import apply_automations, automations
    from deployments.registry import register

    settings = Settings(home=tmp_path_factory.mktemp("home"), prefect_port=server, families="llama-tiny")
    register(settings, "1")
    with (
        temporary_settings(updates={PREFECT_API_URL: f"http://127.0.0.1:{server}/api"}),
        get_client(sync_client=True) as opened,
    ):
        wanted = automations(settings, opened.read_deployment_by_name("watch-hub/schedule").id)
        for one in wanted:
            if one.trigger.within:  # type: ignore[union-attr]
                one.trigger.within = SILENCE  # type: ignore[union-attr]
        apply_automations(opened, wanted)
        yield opened


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What the condition found."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.3)
    pytest.fail(f"waited {seconds:.0f} s for {what}")


def new_job(client: "SyncPrefectClient") -> "FlowRun":
    """A run of a job, as the watch makes it."""
    job = client.read_deployment_by_name(JOB)
    asked = {"family": "llama-tiny", "release": "empelt-demo/llama-tiny-instruct-v1", "target": "eu"}
    return client.create_flow_run_from_deployment(job.id, parameters=asked)


def watches_of(client: "SyncPrefectClient", automation: str) -> set[str]:
    """Runs of the watch that an automation has made."""
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=["watch-hub"])), limit=200)
    return {str(r.id) for r in runs if r.created_by and r.created_by.display_value == f"empelt: {automation}"}


def crashed(client: "SyncPrefectClient", run: "FlowRun") -> str:
    """What is said about the crash of a run; "" while there was none."""
    state = client.read_flow_run(run.id).state
    return (state.message or "no message") if state is not None and state.is_crashed() else ""


def test_a_job_that_crashed_or_failed_starts_the_watch(client: "SyncPrefectClient") -> None:
    from prefect.states import Crashed, Failed

    for ended in (Crashed(), Failed()):
        before = watches_of(client, "a job that crashed is looked at")
        client.set_flow_run_state(new_job(client).id, ended, force=True)
        until(lambda known=before: watches_of(client, "a job that crashed is looked at") - known, 60, f"{ended.name}")


def test_a_run_that_stays_in_pending_is_crashed_and_one_that_begins_is_not(client: "SyncPrefectClient") -> None:
    from prefect.states import Pending, Running

    before = watches_of(client, "a job that crashed is looked at")
    begins, stuck = new_job(client), new_job(client)
    for run in (begins, stuck):
        client.set_flow_run_state(run.id, Pending())
    client.set_flow_run_state(begins.id, Running())
    told = until(lambda: crashed(client, stuck), 60, "the crash of what is stuck")
    assert "whoever took it up is gone" in told
    until(lambda: watches_of(client, "a job that crashed is looked at") - before, 60, "the watch after it")
    assert client.read_flow_run(begins.id).state_name == "Running"


def test_a_run_whose_process_was_killed_is_crashed_when_its_heartbeat_stays_away(
    client: "SyncPrefectClient", server: int
) -> None:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

    before = watches_of(client, "a job that crashed is looked at")
    told = {"PREFECT_API_URL": f"http://127.0.0.1:{server}/api", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    process = subprocess.Popen([sys.executable, "-c", ASLEEP], env={**os.environ, **told})
    named = FlowRunFilter(name=FlowRunFilterName(any_=["asleep"]))
    try:
        run = until(lambda: client.read_flow_runs(flow_run_filter=named), 60, "the run")[0]
        beat = EventNameFilter(name=["prefect.flow-run.heartbeat"])
        its = EventResourceFilter(id=[f"prefect.flow-run.{run.id}"])
        # A filter made anew each time: it is about events until it was made.
        until(lambda: client.read_events(EventFilter(event=beat, resource=its), limit=1).events, 60, "its heartbeat")
    finally:
        process.kill()
        process.wait()
    assert "its process is gone" in until(lambda: crashed(client, run), 60, "the crash of what was killed")
    until(lambda: watches_of(client, "a job that crashed is looked at") - before, 60, "the watch after it")


def test_a_job_that_is_late_starts_the_watch(client: "SyncPrefectClient") -> None:
    before = watches_of(client, "a job that is late is looked at")
    run = new_job(client)  # and no worker is there
    until(lambda: client.read_flow_run(run.id).state_name == "Late", 60, "the server to mark it as late")
    until(lambda: watches_of(client, "a job that is late is looked at") - before, 60, "the watch that looks at it")
