"""From a Hub to a merged model with real weights: raced for by two processes, and made again to the same bytes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.domain.jobs import Job
from tasks.hub import find_releases
from tasks.jobs import build_job
from tests.local_hub.hub_fixtures import REPOSITORY, RunningHub, run_hub
from tests.sources.merge_worker import merge

MODELS = REPOSITORY / "infra" / "demo_family" / "models"
FAMILY = "llama-tiny"
NAMES = ("llama-tiny", "eu_llama-tiny", "llama-tiny-instruct-v2")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub")) as running:
        for name in NAMES:
            running.push(f"empelt-demo/{name}", MODELS / name)
        yield running


@pytest.fixture
def job(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """The one job of an installation that has just seen a release, and fetched nothing."""
    values = {"HOME": str(tmp_path), "FAMILIES": FAMILY, "HUB_ENDPOINT": hub.endpoint, "SETTLE_SECONDS": "0"}
    for name, value in (values | {"TARGETS": "eu"}).items():
        monkeypatch.setenv(f"EMPELT_{name}", value)
    monkeypatch.delenv("EMPELT_HUB_TOKEN", raising=False)
    doors.forget()
    with disable_run_logger():
        (release,) = find_releases.fn(FAMILY)
        yield build_job(doors.open_catalog().family(FAMILY), "eu", release)
    doors.forget()


def test_two_workers_race_on_one_merge_key_and_one_of_them_merges(hub: RunningHub, job: Job, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    command = [sys.executable, "-m", "tests.sources.merge_worker", FAMILY, "eu", str(gate)]
    hub.pull("requests")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, cwd=REPOSITORY, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    gate.touch()
    told = []
    for worker in workers:
        out, err = worker.communicate(timeout=180)
        assert worker.returncode == 0, err
        told.append(json.loads(out))
    did = sorted(one["did"] for one in told)
    # The slower one meets the claim, or comes after it was given back and finds the artifact: never a second merge.
    assert did in (["merged", "nothing: another worker has the claim"], ["found it made", "merged"])
    made = doors.open_ledger().artifact_for(job.merge_key)
    assert made is not None
    assert [one["digest"] for one in told if one["did"] == "merged"] == [made.digest]
    assert doors.open_store().verify(made.digest)
    assert len(doors.open_store().digests()) == len(NAMES) + 1
    weights = [
        seen["path"] for seen in hub.answered() if seen["method"] == "GET" and "model.safetensors" in seen["path"]
    ]
    assert len(weights) == len(set(weights)) == len(NAMES)
    assert doors.open_ledger().live_claims() == []


def test_the_same_key_made_again_is_the_same_digest(job: Job, tmp_path: Path) -> None:
    first = merge(job, "once")
    store = doors.open_store()
    (store.root / "artifacts" / first.digest).rename(tmp_path / "first")
    (store.root / "manifests" / f"{first.digest}.json").unlink()
    assert not store.has(first.digest)
    again = merge(job, "again")
    assert again.digest == first.digest
    assert again.files == first.files
    assert (Path(again.folder) / "model.safetensors").stat().st_ino != (
        tmp_path / "first" / "model.safetensors"
    ).stat().st_ino
    assert doors.open_ledger().artifact_for(job.merge_key) == (first.digest, job.lineage)
