"""A local Hub that can be written to, and an artifact to publish; every test has an organisation of its own."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from tasks.domain.lineage import content_digest
from tasks.domain.publication import MARKER, Marker
from tasks.publishing.remote import Repository
from tasks.store.files import hash_all, plain_files
from tests.local_hub.hub_fixtures import REPOSITORY, RunningHub, TinyModel, run_hub

TOKEN = "hf_the-publisher-writes"
KEY = "ab12" * 16


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub"), write_token=TOKEN) as running:
        yield running


@pytest.fixture(autouse=True)
def no_failures(hub: RunningHub) -> Iterator[None]:
    hub.pull("requests")
    yield
    hub.pull("failures")


def folder_of(place: Path, *, fill: int = 0, target: str = "eu", key: str = KEY) -> tuple[Path, Marker]:
    """A folder as it is published: a tiny model, its card, its marker."""
    folder = TinyModel(fill=fill, card="---\nlicense: apache-2.0\n---\n# Tiny\n").write(place)
    files = tuple(file for file in hash_all(folder, plain_files(folder)) if file.path != "README.md")
    marker = Marker(family="tiny", target=target, merge_key=key, artifact=content_digest(files), files=files)
    (folder / MARKER).write_text(marker.text())
    return folder, marker


@dataclass
class Publisher:
    """One who publishes, in this process or in others."""

    hub: RunningHub
    repo_id: str
    tmp_path: Path

    @property
    def api(self) -> HfApi:
        return HfApi(endpoint=self.hub.endpoint, token=TOKEN)

    @property
    def remote(self) -> Repository:
        return Repository(self.hub.endpoint, self.repo_id, TOKEN)

    def folder(self, **how: Any) -> tuple[Path, Marker]:
        return folder_of(self.tmp_path / uuid.uuid4().hex, **how)

    def commits(self) -> list[str]:
        """Titles of the commits that a person or Empelt made, newest first."""
        return [c.title for c in self.api.list_repo_commits(self.repo_id) if c.title != "initial commit"]

    def tags(self) -> dict[str, str]:
        return {ref.name: ref.target_commit for ref in self.api.list_repo_refs(self.repo_id).tags}

    def start(self, folder: Path, *, code: str = "", token: str = TOKEN, **request: Any) -> subprocess.Popen[str]:
        """``python -m tasks.publishing`` on ``folder``; with ``code`` run before it in the same process."""
        asked = {"endpoint": self.hub.endpoint, "repo_id": self.repo_id, "private": True, "folder": str(folder)}
        path = self.tmp_path / f"{uuid.uuid4().hex}.json"
        path.write_text(json.dumps(asked | request))
        program = f"{code}\nimport sys; from tasks.publishing.__main__ import main; sys.exit(main([{str(path)!r}]))"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "EMPELT_"))}
        return subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=REPOSITORY, env=environment | {"EMPELT_PUBLISH_TOKEN": token, "HF_TOKEN": "hf_of-the-environment"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, folder: Path, **how: Any) -> "Ended":
        return ended(self.start(folder, **how))


@dataclass
class Ended:
    """A process of a publication after its end."""

    code: int
    event: dict[str, Any]
    """The last object that it printed; empty if it printed none."""
    said: str
    """All of its output."""


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=120)
    last = out.strip().splitlines()[-1:]
    return Ended(process.returncode, json.loads(last[0]) if last else {}, out + err)


@pytest.fixture
def publisher_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[RunningHub], Publisher]:
    # As HF_HUB_DISABLE_XET=1, which the client reads when it is first imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return lambda hub: Publisher(hub, f"acme-{uuid.uuid4().hex[:8]}/tiny-eu", tmp_path)


@pytest.fixture
def publisher(hub: RunningHub, publisher_on: Callable[[RunningHub], Publisher]) -> Publisher:
    return publisher_on(hub)
