"""The watch's tasks on a real Prefect server: what they asked of the Hub stands in the UI, beside the limits."""

import json
from datetime import timedelta
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from tasks import doors, polls
from tasks.domain.due import PlanRow
from tasks.hub import find_releases
from tasks.plan import plan_due, report_plan
from tasks.polls import report_calls
from tasks.settings import Settings
from tests.local_hub.hub_fixtures import RunningHub


def versions(key: str) -> list[Artifact]:
    """Every version of an artifact that the server keeps."""
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_each_watch_shows_its_calls_beside_the_limits(
    prefect_server: int, installation: Settings, tiny_hub: RunningHub
) -> None:
    @flow
    def poll() -> None:
        find_releases("llama-tiny")
        report_calls()

    tiny_hub.pull("requests")
    poll()
    asked = [seen["path"] for seen in tiny_hub.answered()]
    (artifact,) = versions("watch-calls")
    api, files = json.loads(str(artifact.data))
    assert (api["bucket"], api["limit"], api["window_seconds"]) == ("api", 500, 300)
    assert (files["bucket"], files["limit"]) == ("resolvers", 3000)
    assert api["calls"] == sum(path.startswith("/api/") for path in asked) > 0
    assert files["calls"] == sum("/resolve/" in path for path in asked) > 0
    assert f"Calls of one poll of {tiny_hub.endpoint}: " in str(artifact.description)
    assert len(doors.open_ledger().releases("llama-tiny")) == 2


def test_watches_that_find_nothing_new_make_no_new_version_of_a_page(
    prefect_server: int, installation: Settings, tiny_hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow
    def poll() -> list[PlanRow]:
        doors.forget()  # a watch is a process of its own: its source has counted nothing yet
        rows = plan_due("llama-tiny", find_releases("llama-tiny"))
        report_calls()
        report_plan(rows, [])
        return rows

    @flow
    def tell() -> None:
        report_calls()

    def counted() -> dict[str, int]:
        return {key: len(versions(key)) for key in ("watch-calls", "watch-plan")}

    # A limit of time: no hour is waited for; that polls which ask alike are not shown is what is tested.
    monkeypatch.setattr(polls, "SHOWN_EVERY", timedelta(0))
    rows = poll()
    poll()  # asks less: all is on record now
    before = counted()
    assert min(before.values()) >= 1
    for _ in range(3):
        poll()
    assert counted() == before
    # As it is: from here on the hour itself keeps versions back.
    monkeypatch.setattr(polls, "SHOWN_EVERY", timedelta(hours=1))
    doors.open_source().calls.asked("api", 3)  # differs, and is not much: it waits for its hour
    tell()
    assert counted() == before
    doors.open_source().calls.not_now()
    tell()
    assert counted() == before | {"watch-calls": before["watch-calls"] + 1}
    doors.open_ledger().record_hold(rows[0].job_key, f"by a test, {uuid4()}")  # other tests share the server
    poll()
    assert counted()["watch-plan"] == before["watch-plan"] + 1
