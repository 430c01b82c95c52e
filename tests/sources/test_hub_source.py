"""HubSource over the local Hub: listings, digests, downloads, and everything that it refuses."""

import json
import re
from pathlib import Path

import pytest

from tasks.domain.errors import DiskFull, HubUnavailable, InputError, ModelRefused
from tasks.domain.lineage import content_digest
from tasks.domain.models import ModelRef
from tasks.sources.digest import remote_digest
from tasks.sources.hub import HubSource
from tests.local_hub.hub_fixtures import ARCHITECTURE, Push, RunningHub, TinyModel, free_port

SHARD = "model-00001-of-00002.safetensors"


def test_every_model_of_an_organisation_is_listed_with_its_state(source: HubSource, org: str, push: Push) -> None:
    refs = [push(f"m{n}") for n in range(3)]
    states = source.list_organisation(org)
    assert [state.ref for state in states] == refs
    assert states[0].architectures == (ARCHITECTURE,)
    assert states[0].parameters == 16 * 8 + 2 * 8 * 16 + 8
    assert (states[0].private, states[0].gated, states[0].disabled) == (False, False, False)
    assert states[0].last_modified.isoformat() == "2026-11-20T09:00:00+00:00"
    assert len(states[0].internal_id) == 24
    assert source.state(f"{org}/m0") == states[0]
    assert source.list_organisation(org.upper()) == []


def test_a_branch_is_pinned_and_a_pin_stays_itself(source: HubSource, org: str, push: Push) -> None:
    old, new = push(model=TinyModel(fill=1)), push(model=TinyModel(fill=2), when="2026-11-21T00:00:00Z")
    assert source.resolve(f"{org}/model") == source.resolve(f"{org}/model", "main") == new
    assert source.resolve(f"{org}/model", old.revision) == old


def test_a_model_is_fetched_whole_and_verified(source: HubSource, push: Push, tmp_path: Path) -> None:
    ref = push(model=TinyModel(others={"tokenizer.py": b"x", "pytorch_model.bin": b"x", "sub/vocab.json": b"{}"}))
    digests = source.fetch(ref, tmp_path / "there")
    there = {path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("*")}
    assert there == {digest.path for digest in digests}
    assert {SHARD, "config.json", "tokenizer.json", "chat_template.jinja", "LICENSE", "README.md"} <= there
    assert not there & {"tokenizer.py", "pytorch_model.bin", "sub"}


def test_the_digest_of_a_remote_model_is_that_of_its_download(source: HubSource, push: Push, tmp_path: Path) -> None:
    ref = push()
    digest, files = remote_digest(source, ref)
    assert digest == content_digest(source.fetch(ref, tmp_path / "there"))
    assert {file.path for file in files}.isdisjoint({"README.md", "LICENSE"})


def test_a_readme_only_commit_changes_the_revision_and_not_the_digest(source: HubSource, push: Push) -> None:
    first, second = push(), push(model=TinyModel(card="# another"), when="2026-11-21T00:00:00Z")
    assert first.revision != second.revision
    assert remote_digest(source, first)[0] == remote_digest(source, second)[0]
    third = push(model=TinyModel(fill=9), when="2026-11-22T00:00:00Z")
    assert remote_digest(source, third)[0] != remote_digest(source, first)[0]


def test_only_the_named_files_are_fetched(source: HubSource, push: Push, tmp_path: Path) -> None:
    ref = push()
    (digest,) = source.fetch(ref, tmp_path / "there", paths=["config.json"])
    assert (digest.path, [p.name for p in (tmp_path / "there").iterdir()]) == ("config.json", ["config.json"])


def test_a_file_that_may_not_be_fetched_is_refused_with_every_other(
    source: HubSource, push: Push, tmp_path: Path
) -> None:
    ref = push(model=TinyModel(others={"run.py": b"x", "sub/a.safetensors": b"x"}))
    with pytest.raises(ModelRefused) as refusal:
        source.fetch(ref, tmp_path / "there", paths=["run.py", "sub/a.safetensors", "gone.json"])
    told = " ".join(refusal.value.problems)
    assert all(name in told for name in ("run.py", "sub/a.safetensors", "gone.json: not among its files"))
    assert list(tmp_path.glob("*there*")) == []


def test_pickled_weights_are_refused_by_name(source: HubSource, push: Push, tmp_path: Path) -> None:
    def pickled(folder: Path) -> None:
        for shard in folder.glob("*.safetensors*"):
            shard.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"x")

    ref = push(change=pickled)
    with pytest.raises(ModelRefused, match=r"pytorch_model\.bin"):
        source.fetch(ref, tmp_path / "there")
    with pytest.raises(ModelRefused, match="nothing to identify"):
        remote_digest(source, ref)
    assert list(tmp_path.glob("*there*")) == []


@pytest.mark.parametrize("path", [SHARD, "config.json"])
def test_a_flipped_byte_is_refused_with_both_hashes(
    hub: RunningHub, source: HubSource, push: Push, tmp_path: Path, path: str
) -> None:
    # Blobs are shared by content, so this model's files are like no other test's.
    model = TinyModel(fill=78)
    model.config["note"] = "flipped"
    ref = push(model=model)
    listed = next(file for file in source.files(ref) if file.path == path)
    stored = next(f for f in _commit(hub, ref)["files"] if f["path"] == path)
    blob = hub.blob(str(stored["sha256"]))
    good = blob.read_bytes()
    hub.alter(blob, good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ModelRefused, match="none is kept") as refusal:
        source.fetch(ref, tmp_path / "there")
    (problem,) = refusal.value.problems
    expected = listed.sha256 or listed.blob_id
    assert re.fullmatch(rf"{re.escape(path)}: (sha256|git sha1) is [0-9a-f]+, but the source lists {expected}", problem)
    assert list(tmp_path.glob("*there*")) == []


def test_a_truncated_blob_is_refused_with_both_sizes(
    hub: RunningHub, source: HubSource, push: Push, tmp_path: Path
) -> None:
    ref = push(model=TinyModel(fill=55))
    listed = next(file for file in source.files(ref) if file.path == SHARD)
    blob = hub.blob(str(listed.sha256))
    hub.alter(blob, blob.read_bytes()[:-10])
    with pytest.raises(ModelRefused, match=SHARD) as refusal:
        source.fetch(ref, tmp_path / "there")
    assert str(listed.size) in str(refusal.value)
    assert str(listed.size - 10) in str(refusal.value)
    assert list(tmp_path.glob("*there*")) == []


def test_a_disk_without_room_is_a_wait_that_names_both_sizes(
    hub: RunningHub, source: HubSource, push: Push, tmp_path: Path
) -> None:
    ref = push(model=TinyModel(fill=44))
    commit = _commit(hub, ref)
    for stored in commit["files"]:
        stored["size"] = 10**18 if stored["path"] == SHARD else 0
    forged = ModelRef(repo_id=ref.repo_id, revision="f" * 40)
    path = hub.root / "repos" / ref.repo_id / "commits" / f"{forged.revision}.json"
    path.write_text(json.dumps(commit | {"sha": forged.revision}))
    with pytest.raises(DiskFull, match="needs 1100000000000000000 bytes") as refusal:
        source.fetch(forged, tmp_path / "there")
    assert re.search(r"has \d+ free", str(refusal.value))
    assert list(tmp_path.glob("*there*")) == []


def test_an_existing_folder_is_left_alone(source: HubSource, push: Push, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="there already"):
        source.fetch(push(), tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["mine.txt"]


def test_what_is_not_there_is_refused_by_name(source: HubSource, org: str, push: Push, tmp_path: Path) -> None:
    ref = push()
    gone = ModelRef(repo_id=ref.repo_id, revision="0" * 40)
    for call, named in (
        (lambda: source.state(f"{org}/none"), f"{org}/none"),
        (lambda: source.resolve(f"{org}/none"), f"{org}/none"),
        (lambda: source.resolve(ref.repo_id, "v9"), f"{ref.repo_id}@v9"),
        (lambda: source.files(gone), "no such revision"),
        (lambda: source.fetch(gone, tmp_path / "there"), "no such revision"),
        (lambda: source.read_small(ref, "none.json", 10), "none.json"),
        (lambda: source.read_small(ref, "config.json", 10), "at most 10"),
        (lambda: source.state("a/b/c"), "a/b/c"),
    ):
        with pytest.raises(ModelRefused, match=re.escape(named)):
            call()
    assert list(tmp_path.glob("*there*")) == []


def test_gated_and_disabled_models_are_refused_with_the_reason(
    hub: RunningHub, source: HubSource, push: Push, tmp_path: Path
) -> None:
    for name, value, told in (("gated", "manual", "gated"), ("disabled", True, "disabled")):
        ref = push(name)
        record = hub.root / "repos" / ref.repo_id / "repo.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {name: value}))
        with pytest.raises(ModelRefused, match=told) as refusal:
            source.fetch(ref, tmp_path / "there")
        assert ref.repo_id in str(refusal.value)
        assert list(tmp_path.glob("*there*")) == []


def test_a_hub_that_is_down_is_unavailable(tmp_path: Path) -> None:
    source = HubSource(f"http://127.0.0.1:{free_port()}", timeout_seconds=5)
    ref = ModelRef(repo_id="lab/m", revision="0" * 40)
    for call in (
        lambda: source.list_organisation("lab"),
        lambda: source.state("lab/m"),
        lambda: source.read_small(ref, "config.json", 100),
        lambda: source.fetch(ref, tmp_path / "there"),
    ):
        with pytest.raises(HubUnavailable, match=re.escape(source.endpoint)):
            call()


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(InputError, match=re.escape("'huggingface.co'")):
        HubSource("huggingface.co")


def _commit(hub: RunningHub, ref: ModelRef) -> dict[str, list[dict[str, object]]]:
    found = json.loads((hub.root / "repos" / ref.repo_id / "commits" / f"{ref.revision}.json").read_text())
    assert isinstance(found, dict)
    return found
