"""One local Hub for this room; every test has an organisation of its own on it."""

import uuid
from collections.abc import Iterator

import pytest
from huggingface_hub import HfApi

from tests.local_hub.hub_fixtures import RunningHub, run_hub


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub"), "--page-size", "2") as running:
        yield running


@pytest.fixture
def api(hub: RunningHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture
def org() -> str:
    return f"lab-{uuid.uuid4().hex[:8]}"
