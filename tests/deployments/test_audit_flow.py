"""The flow of the nightly audit on a real Prefect server: a channel that does not answer as it should ends it failed."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks import doors
from tasks.domain.models import ModelRef
from tests.local_hub.hub_fixtures import free_port

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def installation(prefect_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A ledger, a Prefect server, and no gateway."""
    values = {"HOME": tmp_path, "PREFECT_PORT": prefect_server, "GATEWAY_PORT": free_port(), "FAMILIES": "llama-tiny"}
    for name, value in values.items():
        monkeypatch.setenv(f"EMPELT_{name}", str(value))
    doors.forget()
    yield
    doors.forget()


def test_a_silent_channel_ends_the_audit_as_failed_and_is_on_its_page(client: "SyncPrefectClient") -> None:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from flows.audit_serving import audit_serving
    from tasks.prefect_api import prefect_of
    from tasks.settings import settings

    with prefect_of(settings()):
        nothing = audit_serving(return_state=True)
        doors.open_ledger().switch_channel(
            "eu",
            digest="5" * 64,
            release=ModelRef(repo_id="lab/v1", revision="1" * 40),
            target="eu",
            family="llama-tiny",
            expected_generation=0,
            reason="a test",
        )
        failed = audit_serving(return_state=True)
    assert (nothing.type.value, nothing.message) == ("COMPLETED", "no channel has served anything yet")
    assert failed.is_failed()
    assert "silent: eu (generation 1)" in str(failed.message)
    assert f"{settings().gateway_url}/v1/models did not answer" in str(failed.message)
    pages = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["audit-serving"])))
    assert any("## eu: silent" in str(page.data) for page in pages)
    (fact,) = doors.open_ledger().audits("eu")
    assert fact.outcome == "silent"
