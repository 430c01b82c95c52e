"""A local Hub as a source; every test has an organisation of its own on it."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.domain.models import ModelRef
from tasks.sources.hub import HubSource
from tests.local_hub.hub_fixtures import WHEN, Push, RunningHub, TinyModel, run_hub
from tests.tasks.lab import TOKEN, Lab, lab_on


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub"), "--page-size", "2") as running:
        yield running


@pytest.fixture
def source(hub: RunningHub) -> HubSource:
    return HubSource(hub.endpoint, timeout_seconds=10)


@pytest.fixture
def org() -> str:
    return f"lab-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def push(hub: RunningHub, org: str, tmp_path: Path) -> Push:
    """Push a tiny model, changed by ``change`` after it is written."""

    def push_model(
        name: str = "model",
        model: TinyModel | None = None,
        change: Callable[[Path], object] = lambda folder: None,
        when: str = WHEN,
    ) -> ModelRef:
        folder = (model or TinyModel()).write(tmp_path / "pushed" / uuid.uuid4().hex)
        change(folder)
        return ModelRef(repo_id=f"{org}/{name}", revision=hub.push(f"{org}/{name}", folder, when=when))

    return push_model


@pytest.fixture(scope="session")
def lab_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("lab-hub"), write_token=TOKEN) as running:
        yield running


@pytest.fixture
def lab(lab_hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab, watched by an installation whose releases settle for an hour, and for two watches."""
    with lab_on(lab_hub, tmp_path, monkeypatch, settle_seconds=3600) as there:
        yield there
    lab_hub.pull("failures")
