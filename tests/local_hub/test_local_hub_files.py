"""The real client downloads from the local Hub: ranges, ETags, refusals, whole snapshots."""

import hashlib
import json
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import DisabledRepoError, EntryNotFoundError, GatedRepoError, RepositoryNotFoundError
from huggingface_hub.file_download import get_hf_file_metadata

from tests.local_hub.hub_fixtures import RunningHub, TinyModel

WEIGHTS = "model-00001-of-00002.safetensors"


def test_a_snapshot_is_downloaded_and_its_checksums_verify(
    hub: RunningHub, api: HfApi, org: str, tmp_path: Path
) -> None:
    folder = TinyModel(others={"sub/x.txt": b"x"}).write(tmp_path / "m")
    sha = hub.push(f"{org}/m", folder)
    there = Path(snapshot_download(f"{org}/m", endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "cache"))
    assert there.name == sha
    pushed = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {p.relative_to(there): p.read_bytes() for p in there.rglob("*") if p.is_file()} == pushed
    checked = api.verify_repo_checksums(f"{org}/m", revision=sha, cache_dir=tmp_path / "cache")
    assert (checked.checked_count, checked.mismatches, checked.missing_paths) == (len(pushed), [], [])


def test_file_metadata_names_commit_etag_and_size(hub: RunningHub, org: str, tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "m")
    sha = hub.push(f"{org}/m", folder)
    large = get_hf_file_metadata(hf_hub_url(f"{org}/m", WEIGHTS, endpoint=hub.endpoint), token=False)
    content = (folder / WEIGHTS).read_bytes()
    assert (large.commit_hash, large.etag, large.size) == (sha, hashlib.sha256(content).hexdigest(), len(content))
    small = get_hf_file_metadata(hf_hub_url(f"{org}/m", "LICENSE", endpoint=hub.endpoint), token=False)
    blob = b"blob 10\0Apache-2.0"
    assert small.etag == hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def test_a_part_of_a_file_is_served(hub: RunningHub, org: str, tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "m")
    hub.push(f"{org}/m", folder)
    url, content = hf_hub_url(f"{org}/m", WEIGHTS, endpoint=hub.endpoint), (folder / WEIGHTS).read_bytes()
    part = httpx2.get(url, headers={"Range": "bytes=8-19"})
    assert (part.status_code, part.content) == (206, content[8:20])
    assert part.headers["content-range"] == f"bytes 8-19/{len(content)}"
    assert part.headers["accept-ranges"] == "bytes"
    assert httpx2.get(url, headers={"Range": "bytes=-4"}).content == content[-4:]
    assert httpx2.get(url, headers={"Range": f"bytes={len(content)}-"}).status_code == 416


def test_an_unchanged_file_is_not_sent_again(hub: RunningHub, org: str, tmp_path: Path) -> None:
    hub.push(f"{org}/m", TinyModel().write(tmp_path / "m"))
    url = hf_hub_url(f"{org}/m", "config.json", endpoint=hub.endpoint)
    etag = httpx2.head(url).headers["etag"]
    again = httpx2.get(url, headers={"If-None-Match": etag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert httpx2.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_safetensors_headers_are_read_without_the_weights(
    hub: RunningHub, api: HfApi, org: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.push(f"{org}/one", TinyModel(shards=1).write(tmp_path / "one"))
    found = api.get_safetensors_metadata(f"{org}/one")
    assert set(found.weight_map) == set(TinyModel().tensors)


def test_a_missing_file_is_the_clients_own_error(hub: RunningHub, org: str, tmp_path: Path) -> None:
    hub.push(f"{org}/m", TinyModel().write(tmp_path / "m"))
    with pytest.raises(EntryNotFoundError, match=r"missing\.json"):
        hf_hub_download(f"{org}/m", "missing.json", endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "c")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download(f"{org}/none", "config.json", endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "c")


def test_visibility_is_that_of_the_repository_record(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "m")
    for name in ("gated", "private", "disabled"):
        hub.push(f"{org}/{name}", folder)
        record = hub.root / "repos" / org / name / "repo.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {name: "manual" if name == "gated" else True}))
    with pytest.raises(DisabledRepoError):
        api.model_info(f"{org}/disabled")
    for name, kind in (("gated", GatedRepoError), ("private", RepositoryNotFoundError)):
        with pytest.raises(kind):
            hf_hub_download(f"{org}/{name}", "config.json", endpoint=hub.endpoint, token=False, cache_dir=tmp_path)
    assert api.model_info(f"{org}/gated").gated == "manual"
    assert [row.id for row in api.list_models(author=org)] == [f"{org}/disabled", f"{org}/gated"]
    signed_in = HfApi(endpoint=hub.endpoint, token="hf_any")
    assert signed_in.model_info(f"{org}/private").private is True
    signed_in.auth_check(f"{org}/gated")
    assert signed_in.whoami()["name"] == "local"
