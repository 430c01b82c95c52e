"""A tuned base is updated and retired: what becomes due, what ends, what stays live, what is refused, what is kept."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.logging import disable_run_logger

from deployments.base_names import find_base
from deployments.retiring import retire
from deployments.updating import update
from tasks.backfill import targets_of
from tasks.domain.due import PlanRow
from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.jobs import Job
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.hub import find_releases
from tasks.jobs import open_job
from tasks.plan import plan_due
from tasks.references import references
from tasks.settings import Settings
from tests.deployments.conftest import LAB, MODELS, trained_from
from tests.local_hub.hub_fixtures import RunningHub

Life = Callable[..., str]


@pytest.fixture
def push(tiny_hub: RunningHub, tmp_path: Path) -> Life:
    """Puts a tuned base, trained with this seed, on the Hub; its sha."""

    def pushed(repo: str, seed: int, *, parent: str = "llama-tiny", card: str = "") -> str:
        folder = trained_from(MODELS / parent, tmp_path / f"{uuid.uuid4().hex}", seed=seed)
        if card:
            (folder / "README.md").write_text(card)
        return tiny_hub.push(repo, folder)

    return pushed


@pytest.fixture
def repo(installation: Settings, push: Life) -> Iterator[str]:
    """The Basque base of this installation, pinned to its first revision."""
    name = f"{LAB}/eu-{uuid.uuid4().hex[:8]}"
    sha = push(name, 11)
    path = installation.catalog / "llama-tiny.yaml"
    path.write_text(path.read_text().replace(f"{{repo: {LAB}/eu_llama-tiny}}", f'{{repo: {name}, revision: "{sha}"}}'))
    with disable_run_logger():
        yield name


def watch() -> dict[str, PlanRow]:
    """One watch: releases are found and planned; by the end of the release's name."""
    rows = plan_due.fn("llama-tiny", find_releases.fn("llama-tiny"))
    return {row.release.ref.repo_id[-2:]: row for row in rows}


def job_of(key: str) -> Job:
    return next(fact.job for fact in open_ledger().jobs() if fact.job_key == key)


def publish(row: PlanRow, tmp_path: Path) -> str:
    """A candidate of this job went live; its digest."""
    folder = tmp_path / uuid.uuid4().hex
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(uuid.uuid4().bytes)
    digest = open_store().adopt(folder).digest
    state = open_ledger().channel("eu")
    before = state.generation if state else 0
    asked: dict[str, Any] = {"digest": digest, "release": row.release.ref, "target": "eu", "family": "llama-tiny"}
    open_ledger().switch_channel("eu", **asked, expected_generation=before)
    open_ledger().record_job_end(row.job_key, "published", "stronger", artifact_digest=digest)
    return digest


def entry_of(installation: Settings) -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load((installation.catalog / "llama-tiny.yaml").read_text())["tuned_bases"]["eu"]
    return told


def test_an_update_pins_the_new_revision_keeps_the_history_and_makes_the_newest_release_due(
    installation: Settings, repo: str, push: Life, tmp_path: Path
):
    first = watch()
    assert (first["v2"].standing, first["v1"].standing) == ("due", "superseded")
    live = publish(first["v2"], tmp_path)
    assert watch()["v2"].standing == "done"
    was = entry_of(installation)["revision"]

    sha = push(repo, 12)
    shown = update(installation, "llama-tiny/eu", "", dry_run=True)
    assert (shown["revision"], shown["written"], entry_of(installation)["revision"]) == (sha, False, was)
    assert open_ledger().base_changes("llama-tiny") == []

    told = update(installation, "eu", "", dry_run=False)
    assert (entry_of(installation), told["written"]) == ({"repo": repo, "revision": sha}, True)
    assert told["parent"]["repo"] == f"{LAB}/llama-tiny"
    assert [(row["target"], row["standing"]) for row in told["due"]] == [("eu", "due"), ("eu", "superseded")]
    (change,) = open_ledger().base_changes("llama-tiny", "eu")
    assert (change.change, change.revision, change.digest) == ("updated", sha, told["digest"])
    assert change.details["was"] == {"repo": repo, "revision": was, "retired": ""}
    assert change.details["digest_before"] == told["digest_before"] != told["digest"]

    after = watch()
    assert (after["v2"].standing, after["v1"].standing) == ("due", "superseded")
    old, new = first["v2"].job_key, after["v2"].job_key
    assert old != new
    assert job_of(new).lineage.digest_of("tuned:eu") == told["digest"]
    channel = open_ledger().channel("eu")
    assert channel is not None
    assert channel.artifact_digest == live  # until the new merge is stronger
    # Refused with the new base too: nothing older than what is live takes its place.
    open_ledger().record_job_end(new, "rejected", "weaker")
    assert {row.standing for row in watch().values()} == {"done", "older"}


def test_where_the_newest_was_refused_the_live_release_is_due_after_it(
    installation: Settings, repo: str, push: Life, tmp_path: Path
):
    rows = watch()
    open_ledger().record_job_end(rows["v2"].job_key, "rejected", "weaker")
    publish(watch()["v1"], tmp_path)
    push(repo, 12)
    update(installation, repo, "", dry_run=False)
    again = watch()
    assert (again["v2"].standing, again["v1"].standing) == ("due", "superseded")
    open_ledger().record_job_end(again["v2"].job_key, "rejected", "weaker")
    assert watch()["v1"].standing == "due"


def test_a_commit_of_a_card_alone_is_pinned_and_makes_nothing_due(
    installation: Settings, repo: str, push: Life, tmp_path: Path
):
    publish(watch()["v2"], tmp_path)
    push(repo, 11, card="---\nlicense: mpl-2.0\n---\nnew words")
    told = update(installation, "eu", "", dry_run=False)
    assert told["notes"] == ["its files are those of before, so nothing becomes due"]
    assert watch()["v2"].standing == "done"


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("llama-tiny/xx", "", ["no tuned base is called 'llama-tiny/xx'", "llama-tiny/eu"]),
        ("eu", "", ["is pinned to", "head of its repository", "nothing to update"]),
        ("eu", "@", ["nothing after the @"]),
        ("eu", f"{LAB}/llama-tiny", ["is the base of llama-tiny itself"]),
        ("eu", f"{LAB}/llama-tiny-instruct-v1", ["is an instruct release"]),
        ("eu", f"{LAB}/foreign", ["MistralForCausalLM", "nothing was written"]),
        ("eu", f"{LAB}/pt_from_instruct", ["nearest is empelt-demo/llama-tiny-instruct-v1@", "nothing was written"]),
    ],
)
def test_an_update_that_proves_nothing_is_refused_and_writes_nothing(
    installation: Settings, repo: str, name: str, asked: str, words: list[str]
):
    before = (installation.catalog / "llama-tiny.yaml").read_bytes()
    with pytest.raises(InputError) as refusal:
        update(installation, name, asked, dry_run=False)
    for word in words:
        assert word in str(refusal.value)
    assert (installation.catalog / "llama-tiny.yaml").read_bytes() == before
    assert open_ledger().base_changes("llama-tiny") == []


def test_the_licences_of_a_family_hold_for_its_tuned_bases(installation: Settings, repo: str, push: Life):
    path = installation.catalog / "llama-tiny.yaml"
    before = watch()["v2"]
    sha = push(repo, 12, card=f"---\nlicense: cc-by-nc-4.0\nbase_model: {LAB}/llama-tiny\n---\n")
    path.write_text(path.read_text() + "licences: [mpl-2.0]\n")
    with pytest.raises(InputError, match=r"licence: .*allows mpl-2\.0, and .*states cc-by-nc-4\.0"):
        update(installation, "eu", "", dry_run=False)

    # Written by hand: the watch holds the target, and no run by hand gets past it.
    path.write_text(path.read_text().replace(entry_of(installation)["revision"], sha))
    open_catalog.cache_clear()
    assert watch() == {}
    (hold,) = open_ledger().holds(["target:llama-tiny/eu"])
    assert hold.reason.startswith("licence: tuned bases of eu: the family allows mpl-2.0")
    with pytest.raises(ModelRefused, match=r"states cc-by-nc-4\.0"):
        open_job.fn("llama-tiny", f"{LAB}/llama-tiny-instruct-v2", "eu")
    assert {fact.job.lineage.digest_of("tuned:eu") for fact in open_ledger().jobs()} == {
        job_of(before.job_key).lineage.digest_of("tuned:eu")
    }

    path.write_text(path.read_text().replace("licences: [mpl-2.0]", "licences: [mpl-2.0, cc-by-nc-4.0]"))
    open_catalog.cache_clear()
    assert watch()["v2"].standing == "due"
    assert open_ledger().holds(["target:llama-tiny/eu"]) == []


def test_jobs_that_ended_with_a_base_are_due_again_when_it_comes_back_as_it_was(installation: Settings, repo: str):
    before = watch()["v2"]
    retire(installation, "eu", "looked at", dry_run=False)
    ended = open_ledger().job_end(before.job_key)
    assert ended is not None
    assert ended.outcome == "rejected"
    update(installation, "eu", repo, dry_run=False)
    again = watch()["v2"]
    assert (again.job_key, again.standing) == (before.job_key, "due")


def test_a_retired_base_is_merged_no_more_what_is_live_stays_and_what_waits_ends(
    installation: Settings, repo: str, push: Life, tmp_path: Path
):
    rows = watch()
    live = publish(rows["v1"], tmp_path)
    job = job_of(rows["v2"].job_key)
    open_ledger().record_hold(job.key, "disk: 5 bytes needed: no room")
    tuned = job.lineage.digest_of("tuned:eu")
    assert tuned in references()

    shown = retire(installation, "eu", "its licence was withdrawn", dry_run=True)
    assert "retired" not in entry_of(installation)
    assert shown["live"] == [{"channel": "eu", "release": str(rows["v1"].release.ref)}]
    told = retire(installation, "eu", "its licence was withdrawn", dry_run=False)
    assert told["ended"] == [job.name]
    assert entry_of(installation)["retired"] == "its licence was withdrawn"
    (change,) = open_ledger().base_changes("llama-tiny")
    assert (change.change, change.details["reason"]) == ("retired", "its licence was withdrawn")

    end = open_ledger().job_end(job.key)
    assert end is not None
    assert (end.outcome, "eu_" in end.reason or repo in end.reason) == ("rejected", True)
    assert "was retired: its licence was withdrawn" in end.reason
    assert watch() == {}
    (hold,) = open_ledger().holds(["target:llama-tiny/eu"])
    assert "empelt base update llama-tiny/eu OWNER/NAME" in hold.reason
    assert targets_of("llama-tiny", None, None) == ()
    with pytest.raises(ModelRefused, match="was retired"):
        open_job.fn("llama-tiny", f"{LAB}/llama-tiny-instruct-v2", "eu")
    channel = open_ledger().channel("eu")
    assert channel is not None
    assert channel.artifact_digest == live
    assert tuned not in references()  # so the grace begins
    assert live in references()
    with pytest.raises(InputError, match="was retired before"):
        retire(installation, "eu", "again", dry_run=False)

    successor = f"{repo}-2"
    sha = push(successor, 13)
    brought = update(installation, "eu", successor, dry_run=False)
    assert entry_of(installation) == {"repo": successor, "revision": sha, "retired": ""}
    assert [row["standing"] for row in brought["due"]] == ["due", "superseded"]
    assert watch()["v2"].standing == "due"
    assert open_ledger().holds(["target:llama-tiny/eu"]) == []
    assert [one.change for one in open_ledger().base_changes("llama-tiny")] == ["retired", "updated"]


def test_retiring_asks_for_a_reason(installation: Settings, repo: str):
    with pytest.raises(InputError, match="--reason"):
        retire(installation, "eu", "  ", dry_run=False)


def test_a_base_is_found_by_its_name_its_repository_or_a_language_that_is_one_familys(installation: Settings):
    for name in ("llama-tiny/eu", "eu", f"{LAB}/eu_llama-tiny"):
        assert find_base(installation, name).name == "llama-tiny/eu"
