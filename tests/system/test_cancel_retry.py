"""Cancel holds and Retry re-claims, on a real Prefect server with a real process worker.

There is no worker for the pool `gpu`, so a job comes as far as its merge and waits there: long enough to be cancelled.
"""

import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from tests.local_hub.hub_fixtures import RunningHub, free_port, run_hub

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "infra" / "demo_family" / "models"
FAMILY, RELEASE = "llama-tiny", "empelt-demo/llama-tiny-instruct-v1"
FORM = "remerge-release/by-hand-or-watch"


class Running(NamedTuple):
    """A server, its control worker, a Hub and a ledger."""

    settings: Any
    api: httpx.Client
    hub: RunningHub

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Again while the server is too busy to write: 503 with `database is locked`, as Prefect's own client does."""
        deadline = time.monotonic() + 120
        while (answer := self.api.post(path, json=body)).status_code == 503 and time.monotonic() < deadline:
            time.sleep(1)
        return answer

    def deployment(self, name: str) -> str:
        return str(self.api.get(f"/deployments/name/{name}").raise_for_status().json()["id"])

    def start(self, deployment: str, **parameters: Any) -> httpx.Response:
        identity = self.deployment(deployment)
        return self.post(f"/deployments/{identity}/create_flow_run", {"parameters": parameters})

    def by_hand(self, target: str = "eu", release: str = RELEASE) -> str:
        made = self.start(FORM, family=FAMILY, target=target, release=release)
        return str(made.raise_for_status().json()["id"])

    def state(self, run: str) -> dict[str, Any]:
        return dict(self.api.get(f"/flow_runs/{run}").json()["state"])

    def set_state(self, run: str, kind: str, name: str) -> dict[str, Any]:
        """What the buttons of the UI do."""
        asked = {"state": {"type": kind, "name": name}}
        return dict(self.post(f"/flow_runs/{run}/set_state", asked).raise_for_status().json())

    def wait(self, run: str, *names: str, seconds: float = 240) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while (state := self.state(run))["name"] not in names:
            assert time.monotonic() < deadline, f"waited for {names}: {state}"
            time.sleep(0.5)
        return state

    def page(self, key: str) -> str:
        """The newest version of a page."""
        return str(self.api.get(f"/artifacts/{key}/latest").raise_for_status().json()["data"])

    def watch(self) -> dict[str, Any]:
        made = self.start("watch-hub/schedule").raise_for_status().json()["id"]
        return self.wait(made, "Completed", "Dispatched", "Failed", "Crashed")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    before = dict(os.environ)
    with run_hub(tmp_path_factory.mktemp("hub")) as hub:
        for model in ("llama-tiny", "eu_llama-tiny", "llama-tiny-instruct-v1"):
            hub.push(f"empelt-demo/{model}", MODELS / model)
        os.environ.update(
            EMPELT_HOME=str(home),
            EMPELT_FAMILIES=FAMILY,
            EMPELT_HUB_ENDPOINT=hub.endpoint,
            EMPELT_SETTLE_SECONDS="0",
            EMPELT_PREFECT_PORT=str(free_port()),
            EMPELT_WATCH_INTERVAL_SECONDS="86400",
            PREFECT_HOME=str(home / "prefect"),
        )
        from deployments.registry import register
        from deployments.supervisor import Supervisor
        from deployments.up import environment_of, servers, workers
        from tasks import doors
        from tasks.settings import Settings
        from tasks.settings import settings as cached

        for door in (cached, doors.open_catalog, doors.open_ledger, doors.open_store, doors.open_source):
            door.cache_clear()
        settings = Settings()
        environment = environment_of(settings)
        os.environ.update(environment)
        with Supervisor(home) as supervisor:
            server = next(child for child in servers(settings, environment) if child.name == "prefect-server")
            supervisor.start(server)
            supervisor.wait_ready(server)
            register(settings, "1")
            supervisor.start(next(child for child in workers(environment) if child.name == "worker-control"))
            with httpx.Client(base_url=f"{settings.prefect_url}/api", timeout=120) as api:
                yield Running(settings, api, hub)
    os.environ.clear()
    os.environ.update(before)
    for door in (cached, doors.open_catalog, doors.open_ledger, doors.open_store, doors.open_source):
        door.cache_clear()


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"family": "llama-huge", "target": "eu", "release": RELEASE}, "llama-huge"),
        ({"family": FAMILY, "target": "tlh", "release": RELEASE}, "tlh"),
        ({"family": FAMILY, "target": "eu", "release": "not a release"}, "not a release"),
        ({"family": FAMILY, "target": "eu"}, "release"),
        ({"family": FAMILY, "target": "eu", "release": f"{RELEASE}@"}, f"{RELEASE}@"),
    ],
)
def test_the_server_refuses_what_the_form_does_not_offer(
    running: Running, parameters: dict[str, str], named: str
) -> None:
    count = {"flows": {"name": {"any_": ["remerge-release"]}}}
    before = running.api.post("/flow_runs/count", json=count).json()
    refusal = running.start(FORM, **parameters)
    assert refusal.status_code in (409, 422)
    assert named in refusal.text
    assert running.api.post("/flow_runs/count", json=count).json() == before


def test_a_cancelled_run_holds_its_job_and_a_retry_takes_it_up(running: Running) -> None:
    from tasks.doors import open_ledger
    from tasks.standing import standing

    ledger = open_ledger()
    run = running.by_hand()
    deadline = time.monotonic() + 240
    while not (key := ledger.job_of(f"run:{run}")):
        assert time.monotonic() < deadline, running.state(run)
        time.sleep(0.5)
    assert standing(key).standing == "running"

    second = running.by_hand()  # somebody else starts the same job
    assert running.wait(second, "AlreadyClaimed", "Failed")["name"] == "AlreadyClaimed"
    assert standing(key).standing == "running"

    running.set_state(run, "CANCELLING", "Cancelling")
    running.wait(run, "Cancelled")
    deadline = time.monotonic() + 120
    while standing(key).standing != "held":  # by the hook, since no watch has run
        assert time.monotonic() < deadline, standing(key)
        time.sleep(0.5)
    assert "cancelled in the UI at" in standing(key).reason
    assert ledger.live_claims() == []
    assert ledger.desired().staged == ()
    assert ledger.channels() == []

    assert running.watch()["name"] == "Completed"  # nothing is dispatched
    assert standing(key).standing == "held"
    matrix = running.page(f"matrix-{RELEASE.split('/')[1]}")
    assert f"| **eu** | held | – | – | – | [run](/v2/runs/flow-run/{run}) |" in matrix
    assert "- **eu**: cancelled in the UI at" in matrix
    assert "held. cancelled in the UI at" in running.page(f"overview-{FAMILY}")

    deadline = time.monotonic() + 240
    while standing(key).standing != "running":
        assert time.monotonic() < deadline, (running.state(run), standing(key))
        if running.state(run)["type"] == "CANCELLED":
            # Again, as a person would: Prefect's worker writes Cancelled once more when it has seen the process end, and on
            # a busy machine that may be after the button was pressed.
            running.set_state(run, "SCHEDULED", "AwaitingRetry")
        time.sleep(5)
    assert [hold for hold in ledger.holds() if hold.key == key] == []
    running.set_state(run, "CANCELLING", "Cancelling")
    running.wait(run, "Cancelled")


def test_a_run_that_was_cancelled_before_it_began_holds_its_job_too(running: Running) -> None:
    from tasks.doors import open_ledger
    from tasks.ledger import lift_hold
    from tasks.standing import standing

    (lifted,) = lift_hold(RELEASE)  # what `empelt retry` does
    assert "cancelled in the UI" in lifted.reason
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": tomorrow}}
    asked = {"family": FAMILY, "target": "eu", "release": RELEASE}
    url = f"/deployments/{running.deployment(FORM)}/create_flow_run"
    run = running.post(url, {"parameters": asked, "state": state}).raise_for_status().json()["id"]
    running.set_state(run, "CANCELLING", "Cancelling")
    running.wait(run, "Cancelled")
    assert standing(lifted.key).standing == "open"  # there is no process that a hook could run in
    assert running.watch()["name"] == "Completed"
    assert standing(lifted.key).standing == "held"
    assert len(open_ledger().attempts_of(lifted.key)) == 2  # those of the test before: the watch has not dispatched


def test_a_waiting_candidate_is_in_the_form_and_is_rejected_by_a_person(running: Running) -> None:
    from tasks.domain.jobs import PublishRequest
    from tasks.doors import open_ledger
    from tasks.forms import refresh_forms
    from tasks.standing import standing

    ledger, digest = open_ledger(), "a" * 64
    (fact,) = [fact for fact in ledger.jobs(FAMILY) if fact.job.target == "eu"]
    request = PublishRequest(
        family=FAMILY,
        target="eu",
        channel="eu",
        artifact_digest=digest,
        release=fact.job.release.ref,
        expected_generation=0,
        claim_key=fact.job_key,
    )
    ledger.ask_approval(request, "stronger")
    refresh_forms(running.settings)
    name, approve = f"{fact.job.name} ({digest[:12]})", "approve-release/by-hand"
    form = running.api.get(f"/deployments/name/{approve}").json()["parameter_openapi_schema"]
    assert form["properties"]["candidate"]["enum"] == [name]
    asked = {"candidate": name, "decision": "publish", "by": "Ane", "comment": "too chatty"}
    for change in ({"candidate": "v9 x eu"}, {"decision": "perhaps"}, {"by": ""}):
        assert running.start(approve, **{**asked, **change}).status_code == 409

    run = running.start(approve, **asked).raise_for_status().json()["id"]
    failed = running.wait(run, "Failed", "Completed", "Published", "Refused")
    assert failed["name"] == "Failed"
    assert "is not in the store any more" in failed["message"]
    assert ledger.channels() == []
    assert standing(fact.job_key).standing == "waiting"

    run = running.start(approve, **{**asked, "decision": "reject"}).raise_for_status().json()["id"]
    assert running.wait(run, "Failed", "Completed", "Rejected")["name"] == "Rejected"
    end = standing(fact.job_key)
    assert (end.standing, end.reason) == ("rejected", "rejected by Ane: too chatty")
    assert ledger.awaiting_approval() == []
    form = running.api.get(f"/deployments/name/{approve}").json()["parameter_openapi_schema"]
    assert "enum" not in form["properties"]["candidate"]
    assert "refused" in running.page(f"matrix-{RELEASE.split('/')[1]}")


def test_the_form_follows_the_catalog(running: Running, tmp_path: Path) -> None:
    from deployments.registry import refresh_forms

    catalog = Path(shutil.copytree(running.settings.catalog, tmp_path / "catalog"))
    path = catalog / f"{FAMILY}.yaml"
    family = yaml.safe_load(path.read_text(encoding="utf-8"))
    family["targets"]["basque"] = {**family["targets"]["eu"], "channel": "basque"}
    path.write_text(yaml.safe_dump(family), encoding="utf-8")
    assert FORM in refresh_forms(running.settings.model_copy(update={"catalog": catalog}))
    form = running.api.get(f"/deployments/name/{FORM}").json()["parameter_openapi_schema"]
    assert "basque" in form["properties"]["target"]["enum"]
    assert FORM in refresh_forms(running.settings)
    assert refresh_forms(running.settings) == []
    form = running.api.get(f"/deployments/name/{FORM}").json()["parameter_openapi_schema"]
    assert "basque" not in form["properties"]["target"]["enum"]
