"""The flow that publishes, on a real Prefect server and a local Hub: dispatched by the watch, tried again, held."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

from tasks import doors
from tasks.plan import room
from tasks.settings import settings
from tests.local_hub.hub_fixtures import RunningHub, run_hub
from tests.publishing.conftest import TOKEN
from tests.publishing.installed import Installed, installation_on

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub"), write_token=TOKEN) as running:
        yield running


@pytest.fixture
def here(hub: RunningHub, prefect_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    from deployments.registry import register

    monkeypatch.setenv("EMPELT_PREFECT_PORT", str(prefect_server))
    monkeypatch.setenv("EMPELT_RETRY_SECONDS", "0")
    with installation_on(hub, f"lab-{uuid.uuid4().hex[:8]}", tmp_path, monkeypatch) as installed:
        register(settings(), "test")
        yield installed
    hub.pull("failures")


def runs_of(name: str) -> "list[FlowRun]":
    asked = FlowRunFilter(tags=FlowRunFilterTags(all_=["upload"]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=asked, limit=200)
    return [run for run in found if run.name == f"upload {name}"]


def test_the_watch_dispatches_what_is_due_once_and_its_run_publishes(here: Installed) -> None:
    from flows.upload_model import upload_model
    from tasks.publications import upload_of
    from tasks.upload import dispatch_uploads

    artifact = here.merged()
    here.switched(artifact)
    name = upload_of("tiny", "eu").name
    assert dispatch_uploads.fn(["tiny"]) == [name]
    assert dispatch_uploads.fn(["tiny"]) == []  # it is claimed
    (run,) = runs_of(name)
    assert room() == settings().window  # an upload takes no place from a job
    state = upload_model(**run.parameters, return_state=True)
    assert (state.name, "uploaded, merge-" in str(state.message)) == ("Uploaded", True), state.message
    (done,) = doors.open_ledger().publications()
    assert (done.digest, done.tag in here.tags()) == (artifact.digest, True)
    assert done.flow_run_id
    assert dispatch_uploads.fn(["tiny"]) == []
    with get_client(sync_client=True) as client:
        (page,) = [a for a in client.read_artifacts() if a.key == "publication-tiny-eu"]
    assert f"# published: {here.repo_id} `{done.tag}`" in str(page.data)
    assert done.commit in str(page.data)


def test_a_hub_that_stays_away_costs_three_attempts_and_no_channel(here: Installed) -> None:
    from flows.upload_model import upload_model
    from tasks.publications import upload_of
    from tasks.upload import dispatch_uploads

    here.switched(here.merged(fill=6))
    upload, before = upload_of("tiny", "eu"), doors.open_ledger().channel("eu")
    here.hub.pull("failures", status=503, count=500, path="/refs")
    for attempt in (1, 2, 3):
        assert dispatch_uploads.fn(["tiny"]) == [upload.name], attempt
        newest = max(runs_of(upload.name), key=lambda run: run.parameters["claim"]["attempt"])
        assert newest.parameters["claim"]["attempt"] == attempt
        state = upload_model(**newest.parameters, return_state=True)
        assert state.is_failed()
        assert "HTTP 503" in str(state.message)
    assert dispatch_uploads.fn(["tiny"]) == []
    (hold,) = doors.open_ledger().holds()
    assert (hold.key, "3 attempts came to no end" in hold.reason) == (upload.key, True)
    assert doors.open_ledger().channel("eu") == before
    here.hub.pull("failures")
    doors.open_ledger().lift(hold.key, "empelt retry")
    assert dispatch_uploads.fn(["tiny"]) == [upload.name]
    newest = max(runs_of(upload.name), key=lambda run: run.parameters["claim"]["attempt"])
    assert upload_model(**newest.parameters, return_state=True).name == "Uploaded"
    assert doors.open_ledger().holds() == []


def test_what_is_refused_is_held_with_its_reason_and_not_tried_again(here: Installed) -> None:
    from flows.upload_model import upload_model
    from tasks.publications import upload_of
    from tasks.upload import dispatch_uploads

    here.switched(here.merged(fill=7))
    upload = upload_of("tiny", "eu")
    here.api.create_repo(here.repo_id)
    here.api.upload_file(path_or_fileobj=b"x", path_in_repo="README.md", repo_id=here.repo_id)
    dispatch_uploads.fn(["tiny"])
    (run,) = runs_of(upload.name)
    assert upload_model(**run.parameters, return_state=True).is_failed()
    (hold,) = doors.open_ledger().holds()
    assert (hold.key, "was not made by Empelt" in hold.reason) == (upload.key, True)
    assert dispatch_uploads.fn(["tiny"]) == []
    assert TOKEN not in hold.reason
