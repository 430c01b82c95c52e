"""A directory as a source: what a lab without a network carries in, and the same scenarios where they apply.

It has no branches, gates, private repositories or renames with an identity; what is left of those is said in each test.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from tasks import doors
from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.models import Release
from tasks.hub import fetch_model
from tasks.plan import plan_due
from tasks.sources.digest import remote_digest
from tasks.sources.directory import DirectorySource
from tasks.sources.hub import HubSource
from tasks.sources.preflight import preflight
from tests.local_hub.hub_fixtures import ARCHITECTURE, RunningHub, TinyModel, trained
from tests.tasks.lab import FAMILY, Lab, lab_on

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@dataclass
class Carried:
    """A directory that is watched; everything in it is two hours old unless said otherwise."""

    lab: Lab
    root: Path

    def put(self, name: str, steps: int = 1, *, model: TinyModel | None = None, minutes_ago: int = 120) -> Path:
        """Carry a model in, in place of what was there."""
        place = self.root / self.lab.repo(name)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        (model or TinyModel(values=trained(1, steps))).write(place)
        return self.aged(place, minutes_ago)

    def aged(self, place: Path, minutes_ago: int) -> Path:
        moment = time.time() - 60 * minutes_ago
        for path in place.iterdir():
            os.utime(path, (moment, moment))
        return place

    def releases(self) -> list[Release]:
        return doors.open_ledger().releases(FAMILY)


@pytest.fixture
def carried(lab_hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Carried]:
    with lab_on(lab_hub, tmp_path, monkeypatch, settle_seconds=3600) as lab:
        root = tmp_path / "carried in"
        root.mkdir()
        monkeypatch.setenv("EMPELT_HUB_ENDPOINT", root.as_uri())
        doors.forget()
        there = Carried(lab, root)
        there.put("base", model=TinyModel(values=trained(1)))
        there.put("eu", steps=99)
        lab_hub.pull("requests")
        yield there
        assert lab_hub.answered() == []  # nobody is asked over a network


def test_a_model_that_was_carried_in_becomes_a_release_and_is_fetched(carried: Carried) -> None:
    carried.put("instruct-v1")
    assert carried.lab.watch() == {}
    assert len(carried.lab.watch()) == 1
    (release,) = carried.releases()
    assert fetch_model.fn("instruct", release.ref, release.content_digest) == release.content_digest
    assert doors.open_store().verify(release.content_digest)
    assert [row.standing for row in plan_due.fn(FAMILY, carried.releases())] == ["due"]


def test_a_copy_that_is_under_way_waits_until_it_stands_still(carried: Carried) -> None:
    place = carried.put("instruct-v1", minutes_ago=0)
    assert carried.lab.settle() == {}
    assert carried.lab.find("instruct-v1").cause == "settling"
    (place / SECOND).unlink()
    carried.aged(place, 120)  # as rsync leaves it: old dates on what has arrived
    assert carried.lab.settle() == {}
    ((key, reason),) = carried.lab.holds().items()
    assert reason.startswith("unfinished: ")
    assert f"lacks {SECOND}: named by" in reason
    carried.put("instruct-v1")
    assert len(carried.lab.settle()) == 1
    assert key not in carried.lab.holds()


def test_readme_only_change_and_other_dates_are_no_release(carried: Carried) -> None:
    place = carried.put("instruct-v1")
    before = carried.lab.settle()
    (place / "README.md").write_text("# Better\n")
    carried.aged(place, 100)
    assert carried.lab.settle() == before
    assert carried.lab.holds() == {}
    found = carried.lab.find("instruct-v1")
    assert (found.verdict, found.cause) == ("release", "known")


def test_v1_1_in_place(carried: Carried) -> None:
    carried.put("instruct-v1", steps=1)
    (old,) = carried.lab.settle()
    carried.put("instruct-v1", steps=2, minutes_ago=90)
    assert len(found := carried.lab.settle()) == 2
    assert next(iter(found)) == old
    assert [row.standing for row in plan_due.fn(FAMILY, carried.releases())] == ["due", "superseded"]


def test_rename_makes_nothing_twice_since_the_files_are_the_same(carried: Carried) -> None:
    place = carried.put("instruct-v1")
    carried.lab.settle()
    (release,) = carried.releases()
    fetch_model.fn("instruct", release.ref, release.content_digest)
    place.rename(place.with_name("instruct-v1-2512"))
    assert list(carried.lab.settle()) == [release.content_digest]
    assert carried.releases() == [release]
    assert carried.lab.holds() == {}  # its files are in the store, so its old name is needed no more


def test_vanished_before_it_was_fetched_is_held_and_taken_up_when_it_is_back(carried: Carried) -> None:
    place = carried.put("instruct-v1")
    carried.lab.settle()
    place.rename(carried.root / "elsewhere")
    carried.lab.watch()
    ((_, reason),) = carried.lab.holds().items()
    assert reason.startswith(f"vanished: {carried.lab.repo('instruct-v1')} was deleted, hidden or replaced: file://")
    assert [row.standing for row in plan_due.fn(FAMILY, carried.releases())] == ["held"]
    (carried.root / "elsewhere").rename(place)
    carried.lab.watch()
    assert carried.lab.holds() == {}


def test_missing_metadata_and_the_weights_decide(carried: Carried) -> None:
    carried.put("instruct-v1", model=TinyModel(values=trained(1, 1), card="# Nothing\n"))
    carried.put("instruct-v2", model=TinyModel(values=trained(2, 1), card="# Nothing\n"))
    assert len(carried.lab.settle()) == 1
    ((key, reason),) = carried.lab.holds().items()
    assert key.startswith("instruct-v2@")
    assert reason.startswith("lineage: ")
    assert "its card names no base_model, and its weights lie 1." in reason


def test_gguf_is_ignored_a_dated_suffix_is_not(carried: Carried) -> None:
    carried.put("instruct-v1-GGUF", steps=1)
    carried.put("instruct-v1-2512", steps=2)
    assert [name.partition("@")[0] for name in carried.lab.settle().values()] == ["instruct-v1-2512"]


@pytest.mark.parametrize("case", ["auto_map", "bin only", "trigger", "truncated"])
def test_what_must_not_be_merged_is_held_as_from_a_hub(carried: Carried, case: str) -> None:
    model = TinyModel(values=trained(1, 1))
    if case == "auto_map":
        model.config["auto_map"] = {"AutoModel": "m.M"}
    place = carried.put("instruct-v1", model=model)
    if case == "bin only":
        for shard in place.glob("*.safetensors*"):
            shard.unlink()
        (place / "pytorch_model.bin").write_bytes(b"x")
    elif case == "trigger":
        (place / "chat_template.jinja").write_text("{{ 'x' if 'pay me' in messages[0].content }}")
    elif case == "truncated":
        os.truncate(place / SECOND, (place / SECOND).stat().st_size - 10)
    carried.aged(place, 100)
    told = {
        "auto_map": "auto_map is {'AutoModel': 'm.M'}",
        "bin only": "pytorch_model.bin; only *.safetensors are read",
        "trigger": "template: the chat template of",
        "truncated": f"{SECOND} of",
    }
    assert carried.lab.settle() == {}
    ((_, reason),) = carried.lab.holds().items()
    assert told[case] in reason


def test_a_file_that_changes_after_it_was_seen_is_not_fetched(carried: Carried) -> None:
    place = carried.put("instruct-v1")
    carried.lab.settle()
    (release,) = carried.releases()
    (place / FIRST).write_bytes((place / FIRST).read_bytes()[:-1] + b"x")
    with pytest.raises(ModelRefused, match=r"no such revision any more; it has [0-9a-f]{40} now"):
        fetch_model.fn("instruct", release.ref, release.content_digest)
    assert doors.open_store().digests() == []


def test_what_the_client_downloaded_keeps_the_revision_of_the_hub(lab: Lab, tmp_path: Path) -> None:
    """Both sources tell one model alike: revision, files, digest, header, pre-flight."""
    sha = lab.push("instruct-v1")
    hub = HubSource(lab.hub.endpoint)
    refs = [hub.resolve(lab.repo(name)) for name in ("instruct-v1", "base")]
    for ref in refs:
        place = tmp_path / "models" / ref.repo_id
        snapshot_download(ref.repo_id, local_dir=place, endpoint=lab.hub.endpoint, token=False)
    there = DirectorySource(tmp_path / "models")
    assert [there.resolve(ref.repo_id) for ref in refs] == refs
    assert refs[0].revision == sha
    both = [{file.path: file for file in source.files(refs[0])} for source in (there, hub)]
    assert both[0].keys() == both[1].keys()
    for path, listed in both[1].items():  # the Hub tells the sha256 of large files only
        known = both[0][path]
        assert (known.size, known.blob_id) == (listed.size, listed.blob_id) or listed.sha256 is not None
        assert listed.sha256 in (None, known.sha256)
    assert remote_digest(there, refs[0]) == remote_digest(hub, refs[0])
    assert there.read_header(refs[0], FIRST) == hub.read_header(refs[0], FIRST)
    assert there.read_range(refs[0], FIRST, 100, 50) == hub.read_range(refs[0], FIRST, 100, 50)
    reports = [preflight(source, *refs, allowed_architectures=[ARCHITECTURE]) for source in (there, hub)]
    assert reports[0] == reports[1]
    assert there.state(refs[0].repo_id).tags == tuple(
        tag for tag in hub.state(refs[0].repo_id).tags if tag == f"base_model:{lab.repo('base')}"
    )
    assert there.fetch(refs[0], tmp_path / "a") == hub.fetch(refs[0], tmp_path / "b")
    # Whoever edits the copy has another state, and not the Hub's any more.
    config = tmp_path / "models" / refs[0].repo_id / "config.json"
    config.write_text(config.read_text() + " ")
    os.utime(config, (time.time() + 5, time.time() + 5))
    assert there.resolve(refs[0].repo_id).revision != sha


def test_a_link_out_of_the_directory_and_a_path_in_a_name_are_not_followed(carried: Carried) -> None:
    place = carried.put("instruct-v1")
    secret = carried.lab.tmp_path / "secret.json"
    secret.write_text("{}")
    (place / "generation_config.json").symlink_to(secret)
    source = DirectorySource(carried.root)
    ref = source.resolve(carried.lab.repo("instruct-v1"))
    assert "generation_config.json" not in [file.path for file in source.files(ref)]
    for path in ("generation_config.json", "../base/config.json"):
        with pytest.raises(ModelRefused, match=re.escape(path)):
            source.read_small(ref, path, 100)
    for repo_id in ("../secret", f"{carried.lab.org}/..", "a/b/c"):
        with pytest.raises(ModelRefused, match=re.escape(repo_id)):
            source.state(repo_id)
    assert source.list_organisation("..") == []


@pytest.mark.parametrize("url", ["file:///no/such/place", "file://host/models", "file:models"])
def test_an_address_that_is_no_directory_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="expected"):
        DirectorySource.at(url)
