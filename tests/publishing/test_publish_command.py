"""`empelt publish` in a process of its own: by channel, by artifact, as a dry run, refused."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import doors
from tasks.domain.models import Artifact
from tests.local_hub.hub_fixtures import REPOSITORY, RunningHub
from tests.publishing.conftest import TOKEN
from tests.publishing.installed import Installed, installation_on

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def here(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    with installation_on(hub, f"lab-{uuid.uuid4().hex[:8]}", tmp_path, monkeypatch) as installed:
        yield installed


@pytest.fixture
def served(here: Installed) -> Artifact:
    artifact = here.merged()
    here.switched(artifact)
    doors.open_ledger().close()  # the command opens its own
    doors.open_ledger.cache_clear()
    return artifact


def empelt(here: Installed, *arguments: str) -> Done:
    environment = os.environ | {"PREFECT_HOME": str(here.tmp_path / "prefect"), "NO_COLOR": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "deployments", "publish", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200)


def test_a_dry_run_shows_all_and_writes_nothing_and_the_real_one_is_adopted_the_second_time(
    here: Installed, served: Artifact
) -> None:
    here.hub.pull("requests")
    shown = empelt(here, "eu", "--dry-run", "--json")
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)
    assert (plan["repository"], plan["artifact"], plan["on_record"]) == (here.repo_id, served.digest, None)
    assert {"README.md", "empelt.json", "empelt.cdx.json", "config.json"} <= set(plan["files"])
    assert {one["method"] for one in here.hub.answered()} <= {"GET", "HEAD"}
    assert doors.open_ledger().publications() == []
    first = empelt(here, "eu", "--json")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert (told["how"], here.tags()) == ("uploaded", {told["tag"]: told["commit"]})
    again = empelt(here, served.digest[:12])
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"adopted  {told['url']}")
    (fact,) = doors.open_ledger().publications()
    assert (fact.commit, fact.digest) == (told["commit"], served.digest)
    assert TOKEN not in shown.stdout + first.stdout + first.stderr + again.stdout + again.stderr


def test_another_repository_may_be_named_and_one_that_is_not_ours_is_refused(here: Installed, served: Artifact) -> None:
    elsewhere = f"{here.repo_id}-2"
    here.api.create_repo(elsewhere)
    here.api.upload_file(path_or_fileobj=b"x", path_in_repo="README.md", repo_id=elsewhere)
    done = empelt(here, "eu", "--to", elsewhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{elsewhere} at {here.hub.endpoint}" in done.stderr
    assert "was not made by Empelt" in done.stderr
    assert doors.open_ledger().holds() == []  # a person is there to read it


def test_what_nobody_knows_is_refused_with_the_channels(here: Installed, served: Artifact) -> None:
    done = empelt(here, "gl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "channels: ['eu']" in done.stderr
