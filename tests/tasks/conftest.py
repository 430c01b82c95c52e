"""Fixtures of tests that measure a model: one in a store of its own, and a server under its name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.domain.models import Artifact
from tasks.endpoints.protocol import Ready
from tests.tasks.measuring import MODEL, Serve, serving


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Artifact]:
    """A model in the store of an installation that has measured nothing yet."""
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    doors.forget()
    store = doors.open_store()
    scratch = store.scratch("model")
    for path in MODEL.iterdir():
        (scratch / path.name).write_bytes(path.read_bytes())
    with disable_run_logger():
        yield store.adopt(scratch)
    doors.forget()


@pytest.fixture
def serve(artifact: Artifact) -> Serve:
    """Puts a server up under the model's name, whose answers are made up from what is asked."""

    @contextmanager
    def run() -> Iterator[Ready]:
        with serving(artifact) as up:
            yield up

    return run
