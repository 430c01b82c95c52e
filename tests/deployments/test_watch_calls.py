"""The watch's tasks on a real Prefect server: what they asked of the Hub stands in the UI, beside the limits."""

import json

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from tasks import doors
from tasks.hub import find_releases, report_calls
from tasks.settings import Settings
from tests.local_hub.hub_fixtures import RunningHub


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
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["watch-calls"]))
        (artifact,) = client.read_artifacts(artifact_filter=key)
    api, files = json.loads(str(artifact.data))
    assert (api["bucket"], api["limit"], api["window_seconds"]) == ("api", 500, 300)
    assert (files["bucket"], files["limit"]) == ("resolvers", 3000)
    assert api["calls"] == sum(path.startswith("/api/") for path in asked) > 0
    assert files["calls"] == sum("/resolve/" in path for path in asked) > 0
    assert f"Calls of one poll of {tiny_hub.endpoint}: " in str(artifact.description)
    assert len(doors.open_ledger().releases("llama-tiny")) == 2
