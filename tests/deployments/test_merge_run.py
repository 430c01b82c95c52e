"""A merge as a flow run on a real Prefect server: what is made, the card beside it, its record, its progress artifact."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prefect.logging import disable_run_logger
from rich.console import Console

from deployments.merging import merge_here
from tasks import doors
from tasks.disk import merge_folder, require_room
from tasks.domain.card import merge_config
from tasks.domain.jobs import Job
from tasks.domain.lineage import content_digest
from tasks.domain.models import Artifact, Digest
from tasks.domain.words import size
from tasks.hub import fetch_model
from tasks.jobs import open_job
from tasks.settings import Settings
from tasks.store.files import hash_all, plain_files

V2 = "empelt-demo/llama-tiny-instruct-v2"
DIES_WHEN_HALF_IS_WRITTEN = """
import os, signal, sys
from pathlib import Path
from tasks.engine.command_file import read_merge_file
from tasks.engine.merge import merge_configs

def die(progress):
    if progress.done_bytes >= progress.total_bytes // 2:
        os.kill(os.getpid(), signal.SIGKILL)

file = read_merge_file(Path(sys.argv[1]))
# What is noted every 256 MB, every 256 kB here: the whole model has 10 MB.
options = dict(max_shard_bytes=file.max_shard_bytes, labels=file.labels, base=file.base, journal_bytes=1 << 18)
merge_configs({Path(sys.argv[2]): file.config}, on_progress=die, **options)
"""


class Merged(NamedTuple):
    """A merge that was run, and what the server has of it."""

    job: Job
    inputs: dict[str, Digest]
    artifact: Artifact
    progress: Any
    folder: Path


@pytest.fixture
def merged(prefect_server: int, installation: Settings) -> Merged:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    from flows.merge_candidate import merge_candidate

    with disable_run_logger():
        job = open_job.fn("llama-tiny", V2, "eu")
        inputs = {part.role: fetch_model.fn(part.role, part.ref, part.digest) for part in job.lineage.ingredients}
    digest = merge_candidate(job, inputs)
    artifact = doors.open_store().get(digest)
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["merge-llama-tiny-eu"]))
        progress = client.read_artifacts(artifact_filter=key, sort=ArtifactSort.CREATED_DESC)[0]
    return Merged(job, inputs, artifact, progress, Path(artifact.folder))


def test_a_merge_that_was_killed_is_gone_on_with(
    prefect_server: int, installation: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The process of the engine is killed, as with the run that started it; the next attempt finds what it wrote."""
    from flows.merge_candidate import merge_candidate

    store = doors.open_store()
    with disable_run_logger():
        job = open_job.fn("llama-tiny", V2, "eu")
        inputs = {part.role: fetch_model.fn(part.role, part.ref, part.digest) for part in job.lineage.ingredients}
    folders = {role: store.get(digest).folder for role, digest in inputs.items()}
    scratch = store.scratch(merge_folder(job), outlives=True)
    (scratch / "config.json").write_text(json.dumps(merge_config(job.lineage.recipe, folders), indent=1))
    command = [sys.executable, "-c", DIES_WHEN_HALF_IS_WRITTEN, str(scratch / "config.json"), str(scratch / "out")]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert require_room(job).arrived > 0  # what is on the disk is not asked for again
    digest = merge_candidate(job, inputs)
    assert re.search(r"merged .* of them by an attempt that was killed", caplog.text), caplog.text
    assert not scratch.exists()
    assert store.verify(digest).digest == digest
    doors.forget()
    assert merge_candidate(job, inputs) == digest  # known: nothing is merged


def head_of(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def fenced(card: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", card, re.MULTILINE | re.DOTALL)


def test_a_merge_is_described_recorded_and_shown(merged: Merged, tmp_path: Path) -> None:
    """One run for all of it: a merge takes seconds."""
    card = (merged.folder / "README.md").read_text(encoding="utf-8")
    check_card(merged, card)
    check_the_card_leads_to_the_same_files(merged, card, tmp_path)
    check_record_and_progress(merged)


def check_card(merged: Merged, card: str) -> None:
    head = head_of(card)
    assert head["license"] == "mpl-2.0"
    assert "license_name" not in head
    assert head["language"] == ["en", "es", "eu"]
    assert head["base_model_relation"] == "merge"
    assert sorted(head["base_model"]) == sorted({part.ref.repo_id for part in merged.job.lineage.ingredients})
    assert "Every ancestor states mpl-2.0." in card
    for part in merged.job.lineage.ingredients:
        assert f"- {part.ref.repo_id}: mpl-2.0; read from its card at {part.ref.revision}" in card.splitlines()
        assert f"  - content `{part.digest}`" in card.splitlines()
    assert {file.path for file in merged.artifact.files} >= {"README.md", "config.json", "model.safetensors"}
    # The card counts for nothing in the digest, and is verified with the rest.
    files = [file for file in merged.artifact.files if file.path != "README.md"]
    assert content_digest(files) == merged.artifact.digest
    assert doors.open_store().verify(merged.artifact.digest) == merged.artifact


def check_the_card_leads_to_the_same_files(merged: Merged, card: str, tmp_path: Path) -> None:
    """What stands on the card is done: the parents are put where it says, its config is merged, digests compared."""
    recipe, config = fenced(card, "yaml")
    (commands,) = fenced(card, "sh")
    for line in commands.splitlines()[:-1]:
        said = re.fullmatch(r"hf download (\S+) --revision (\w{40}) --local-dir (parents/\S+)", line)
        assert said, line
        (part,) = [p for p in merged.job.lineage.ingredients if [p.ref.repo_id, p.ref.revision] == [said[1], said[2]]]
        (tmp_path / said[3]).parent.mkdir(exist_ok=True)
        (tmp_path / said[3]).symlink_to(doors.open_store().get(part.digest).folder)
    assert commands.splitlines()[-1] == "empelt merge merge.yaml merged"
    there = config.replace("parents/", f"{tmp_path}/parents/")
    assert yaml.safe_load(config)["recipe"] == yaml.safe_load(recipe) == dict(merged.job.lineage.recipe)
    (tmp_path / "merge.yaml").write_text(there)
    merge_here(tmp_path / "merge.yaml", tmp_path / "merged", quiet=True, console=Console(stderr=True))
    again = content_digest(hash_all(tmp_path / "merged", plain_files(tmp_path / "merged")))
    assert again == merged.artifact.digest
    assert f"`{again}`" in card


def check_record_and_progress(merged: Merged) -> None:
    cost = doors.open_ledger().merge_cost(merged.job.merge_key, merged.artifact.digest)
    assert cost is not None
    assert 0 < cost.seconds < 300
    assert cost.peak_bytes is not None
    assert cost.peak_bytes > 10_000_000
    assert merged.progress.type == "progress"
    assert merged.progress.data == 100.0
    written = size(sum(file.size for file in merged.artifact.files if file.path != "README.md"))
    told = rf"Merge {re.escape(merged.job.name)}: {re.escape(written)} in \S+ s, \d+\.\d\d GB/s, peak \d+ MB"
    assert re.fullmatch(told, merged.progress.description), merged.progress.description
