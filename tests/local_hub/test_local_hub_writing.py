"""The real client writes to the local Hub: repositories, commits, tags, visibility, renames."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillWaiting
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from infra.local_hub.commits import add_commit, new_repo
from infra.local_hub.store import Store
from tests.local_hub.hub_fixtures import WHEN, RunningHub, TinyModel, run_hub

TOKEN = "hf_the-lab-writes"
WEIGHTS = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub"), write_token=TOKEN) as running:
        yield running


@pytest.fixture
def lab(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    # As HF_HUB_DISABLE_XET=1, which the client reads when it is first imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


@pytest.fixture
def repo(lab: HfApi, org: str) -> str:
    lab.create_repo(f"{org}/m")
    return f"{org}/m"


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


def test_a_folder_is_uploaded_and_downloaded_the_same(
    hub: RunningHub, lab: HfApi, repo: str, org: str, tmp_path: Path
) -> None:
    folder = TinyModel(others={"sub/x.txt": b"x", "empty.txt": b""}).write(tmp_path / "m")
    done = lab.upload_folder(repo_id=repo, folder_path=folder, commit_message="v1", commit_description="all of it")
    assert lab.model_info(repo).sha == done.oid
    for path in (WEIGHTS, "config.json", "sub/x.txt", "empty.txt"):
        there = hf_hub_download(repo, path, endpoint=hub.endpoint, token=False, cache_dir=tmp_path / "cache")
        assert Path(there).read_bytes() == (folder / path).read_bytes()
    (row,) = lab.list_models(author=org, expand=["sha", "tags", "safetensors"])
    assert row.safetensors is not None
    assert row.safetensors.total == 16 * 8 + 2 * 8 * 16 + 8
    (weights,) = lab.get_paths_info(repo, WEIGHTS)
    assert weights.lfs.sha256 == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()  # type: ignore[union-attr]
    newest, first = lab.list_repo_commits(repo)
    assert (newest.title, newest.message, first.title) == ("v1", "all of it", "initial commit")


def test_an_upload_of_what_is_there_makes_no_commit(hub: RunningHub, lab: HfApi, repo: str, tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "m")
    first = lab.upload_folder(repo_id=repo, folder_path=folder)
    hub.pull("requests")
    assert lab.upload_folder(repo_id=repo, folder_path=folder).oid == first.oid
    assert not [seen for seen in hub.answered() if "/commit/" in seen["path"] or seen["path"].startswith("/lfs/")]


def test_a_commit_changes_and_deletes(lab: HfApi, repo: str, tmp_path: Path) -> None:
    lab.upload_folder(repo_id=repo, folder_path=TinyModel(others={"sub/x.txt": b"x"}).write(tmp_path / "m"))
    operations = [
        add("new.txt", b"new"),
        CommitOperationDelete(path_in_repo="LICENSE"),
        CommitOperationDelete(path_in_repo="sub/"),
    ]
    lab.create_commit(repo, operations, commit_message="tidy")
    there = lab.list_repo_files(repo)
    assert "new.txt" in there
    assert not {"LICENSE", "sub/x.txt"} & set(there)
    with pytest.raises(RemoteEntryNotFoundError, match="doesn't exist: none"):
        lab.delete_file("none", repo)


def test_of_two_commits_on_one_parent_the_second_is_refused(lab: HfApi, repo: str) -> None:
    parent = lab.model_info(repo).sha
    done = lab.create_commit(repo, [add("a", b"a")], commit_message="a", parent_commit=parent)
    with pytest.raises(HfHubHTTPError, match="412"):
        lab.create_commit(repo, [add("b", b"b")], commit_message="b", parent_commit=parent)
    assert lab.model_info(repo).sha == done.oid


def test_bytes_that_are_not_those_announced_are_not_kept(hub: RunningHub, lab: HfApi, repo: str) -> None:
    promised = hashlib.sha256(b"promised").hexdigest()
    batch = httpx2.post(
        f"{hub.endpoint}/{repo}.git/info/lfs/objects/batch",
        json={"operation": "upload", "objects": [{"oid": promised, "size": 8}]},
        headers={"authorization": f"Bearer {TOKEN}"},
    ).json()
    href = batch["objects"][0]["actions"]["upload"]["href"]
    assert httpx2.put(href, content=b"instead!").status_code == 400
    assert httpx2.put(href.replace("signature=", "signature=0"), content=b"promised").status_code == 403
    assert not hub.blob(promised).exists()
    line = (
        f'{{"key":"header","value":{{"summary":"x"}}}}\n{{"key":"lfsFile","value":{{"path":"x","oid":"{promised}"}}}}'
    )
    url = f"{hub.endpoint}/api/models/{repo}/commit/main"
    refused = httpx2.post(url, content=line, headers={"authorization": f"Bearer {TOKEN}"})
    assert (refused.status_code, "was not uploaded" in refused.json()["error"]) == (400, True)
    assert httpx2.put(href, content=b"promised").status_code == 200
    assert hub.blob(promised).read_bytes() == b"promised"


def test_a_path_outside_the_repository_is_refused(hub: RunningHub, lab: HfApi, repo: str) -> None:
    for path in ("../x", "a/../../x", ".git/config", "/etc/x", "a//b"):
        line = f'{{"key":"header","value":{{}}}}\n{{"key":"file","value":{{"path":"{path}","content":""}}}}'
        url = f"{hub.endpoint}/api/models/{repo}/commit/main"
        refused = httpx2.post(url, content=line, headers={"authorization": f"Bearer {TOKEN}"})
        assert (refused.status_code, path in refused.json()["error"]) == (400, True)
    assert len(lab.list_repo_commits(repo)) == 1


def test_tags_and_branches_pin_what_they_were_made_of(lab: HfApi, repo: str) -> None:
    first = lab.create_commit(repo, [add("a", b"1")], commit_message="1").oid
    lab.create_tag(repo, tag="v1")
    lab.create_tag(repo, tag="v1", exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        lab.create_tag(repo, tag="v1")
    lab.create_branch(repo, branch="try/this")
    there = lab.create_commit(repo, [add("a", b"2")], commit_message="2", revision="try/this").oid
    assert lab.model_info(repo).sha == lab.model_info(repo, revision="v1").sha == first
    assert lab.model_info(repo, revision="try/this").sha == there
    refs = lab.list_repo_refs(repo)
    assert {ref.name: ref.target_commit for ref in (*refs.branches, *refs.tags)} == {
        "main": first,
        "try/this": there,
        "v1": first,
    }
    lab.delete_tag(repo, tag="v1")
    lab.delete_branch(repo, branch="try/this")
    with pytest.raises(RevisionNotFoundError):
        lab.model_info(repo, revision="v1")


def test_creating_twice_is_a_conflict_or_allowed(lab: HfApi, repo: str) -> None:
    before = lab.model_info(repo)._id  # type: ignore[attr-defined]
    with pytest.raises(HfHubHTTPError, match="409"):
        lab.create_repo(repo)
    assert lab.create_repo(repo, exist_ok=True).repo_id == repo
    assert lab.model_info(repo)._id == before  # type: ignore[attr-defined]


def test_who_may_not_write_changes_nothing(hub: RunningHub, lab: HfApi, repo: str, org: str) -> None:
    sha = lab.model_info(repo).sha
    for token, status in ((False, "401"), ("hf_somebody", "403")):
        stranger = HfApi(endpoint=hub.endpoint, token=token)
        for write in (
            lambda api: api.create_repo(f"{org}/new"),
            lambda api: api.create_commit(repo, [add("a", b"a")], commit_message="a"),
            lambda api: api.update_repo_settings(repo, private=True),
            lambda api: api.move_repo(repo, f"{org}/mine"),
            lambda api: api.create_tag(repo, tag="v1"),
            lambda api: api.delete_repo(repo),
        ):
            with pytest.raises(HfHubHTTPError, match=status):
                write(stranger)
    assert [row.id for row in lab.list_models(author=org)] == [repo]
    assert lab.model_info(repo).sha == sha


def test_a_hub_without_a_write_token_is_read_only(tmp_path: Path) -> None:
    with run_hub(tmp_path / "hub") as readable:
        with pytest.raises(HfHubHTTPError, match="read only"):
            HfApi(endpoint=readable.endpoint, token=TOKEN).create_repo("lab/m")


def test_a_private_model_is_there_for_its_owner_alone(hub: RunningHub, lab: HfApi, org: str) -> None:
    lab.create_repo(f"{org}/m", private=True)
    created = lab.model_info(f"{org}/m")
    for token in (False, "hf_somebody"):
        stranger = HfApi(endpoint=hub.endpoint, token=token)
        assert list(stranger.list_models(author=org)) == []
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info(f"{org}/m")
    lab.update_repo_settings(f"{org}/m", private=False)
    opened = HfApi(endpoint=hub.endpoint, token=False).model_info(f"{org}/m")
    # Opening it touches no date: whoever asks what was made since yesterday misses it.
    assert (opened.sha, opened.created_at, opened.last_modified) == (
        created.sha,
        created.created_at,
        created.last_modified,
    )


def test_a_gated_model_is_listed_and_its_files_are_for_those_let_in(
    hub: RunningHub, lab: HfApi, repo: str, org: str, tmp_path: Path
) -> None:
    lab.create_commit(repo, [add("config.json", b"{}")], commit_message="a")
    lab.update_repo_settings(repo, gated="manual")
    nobody, reader = HfApi(endpoint=hub.endpoint, token=False), HfApi(endpoint=hub.endpoint, token="hf_reader")
    assert nobody.model_info(repo).gated == "manual"
    for api in (nobody, reader):
        with pytest.raises(GatedRepoError):
            api.hf_hub_download(repo, "config.json", cache_dir=tmp_path / "a")
    lab.grant_access(repo, "reader")
    reader.hf_hub_download(repo, "config.json", cache_dir=tmp_path / "b")
    lab.update_repo_settings(repo, gated="auto")
    HfApi(endpoint=hub.endpoint, token="hf_other").auth_check(repo)
    with pytest.raises(GatedRepoError):
        nobody.auth_check(repo)


def test_a_renamed_model_answers_to_its_old_name(
    hub: RunningHub, lab: HfApi, repo: str, org: str, tmp_path: Path
) -> None:
    sha = lab.create_commit(repo, [add("a.bin", b"a" * 100), add("b", b"b")], commit_message="a").oid
    before = lab.model_info(repo)
    lab.move_repo(repo, f"{org}/between")
    lab.move_repo(f"{org}/between", f"{org}/new")
    plain = httpx2.get(f"{hub.endpoint}/api/models/{repo}/tree/main?recursive=true")
    assert (plain.status_code, plain.headers["location"]) == (
        307,
        f"/api/models/{org}/new/tree/main?recursive=true",
    )
    after = lab.model_info(repo)
    assert (after.id, after._id, after.sha) == (f"{org}/new", before._id, sha)  # type: ignore[attr-defined]
    assert Path(lab.hf_hub_download(repo, "a.bin", cache_dir=tmp_path)).read_bytes() == b"a" * 100
    assert lab.create_commit(repo, [add("c", b"c")], commit_message="c").oid == lab.model_info(f"{org}/new").sha
    lab.create_repo(repo)
    assert lab.model_info(repo)._id != before._id  # type: ignore[attr-defined]


def move(hub: RunningHub, old: str, new: str) -> httpx2.Response:
    body = {"fromRepo": old, "toRepo": new, "type": "model"}
    return httpx2.post(f"{hub.endpoint}/api/repos/move", json=body, headers={"authorization": f"Bearer {TOKEN}"})


def test_a_name_that_is_a_path_reaches_no_file(hub: RunningHub, lab: HfApi, repo: str, org: str) -> None:
    there = hub.root / "repos" / repo / "main"
    before = there.read_bytes()
    for name in (f"../repos/{repo}/main", str(there), f"{org}/../{repo}", "moved", ".moved", f"{repo}\n", ""):
        for old, new in ((name, f"{org}/new"), (repo, name)):
            refused = move(hub, old, new)
            assert (refused.status_code, repr(name) in refused.json()["error"]) == (400, True)
    for method, path in (("POST", "create"), ("DELETE", "delete")):
        headers, body = {"authorization": f"Bearer {TOKEN}"}, {"name": f"../{repo}", "organization": org}
        assert httpx2.request(method, f"{hub.endpoint}/api/repos/{path}", json=body, headers=headers).status_code == 400
    for name in ("moved", f"../repos/{repo}/main"):
        with pytest.raises(ValueError, match="not ORG/NAME"), Store(hub.root).locked(name):
            pass
    assert there.read_bytes() == before
    assert [row.id for row in lab.list_models(author=org)] == [repo]


def test_a_lock_empties_no_file_and_an_organisation_may_be_called_moved(hub: RunningHub, lab: HfApi, repo: str) -> None:
    lock = hub.root / "locks" / repo
    lock.write_text("kept")
    lab.update_repo_settings(repo, private=True)
    assert lock.read_text() == "kept"
    lab.move_repo(repo, f"moved/{repo.partition('/')[0]}")


def test_a_move_waits_for_whoever_creates_the_new_name(hub: RunningHub, lab: HfApi, repo: str, org: str) -> None:
    store, new = Store(hub.root), f"{org}/a-new"
    with ThreadPoolExecutor() as pool:
        with store.locked(new):
            moving = pool.submit(move, hub, repo, new)
            with pytest.raises(StillWaiting):
                moving.result(timeout=0.5)
            add_commit(store, new_repo(new, WHEN), [], message="initial commit", date=WHEN)
        assert moving.result(timeout=10).status_code == 409
    assert sorted(row.id for row in lab.list_models(author=org)) == [new, repo]


def test_a_deleted_model_is_gone_and_its_name_gives_a_new_id(lab: HfApi, repo: str, org: str) -> None:
    lab.create_commit(repo, [add("a", b"a")], commit_message="a")
    before = lab.model_info(repo)._id  # type: ignore[attr-defined]
    lab.delete_repo(repo)
    lab.delete_repo(repo, missing_ok=True)
    with pytest.raises(RepositoryNotFoundError):
        lab.model_info(repo)
    lab.create_repo(repo)
    assert lab.model_info(repo)._id != before  # type: ignore[attr-defined]


def test_a_card_that_does_not_parse_is_refused_before_the_upload(lab: HfApi, repo: str) -> None:
    with pytest.raises(ValueError, match="Invalid metadata"):
        lab.create_commit(repo, [add("README.md", b"---\na: [\n---\n")], commit_message="a")


def test_the_levers_fail_the_next_requests_as_told(hub: RunningHub, lab: HfApi, repo: str) -> None:
    hub.pull("failures", status=429, count=2, path=f"/api/models/{repo}", retry_after=7)
    hub.pull("failures", status=503, count=1, path="/resolve/", retry_after=3, limit=True)
    url = f"{hub.endpoint}/api/models/{repo}"
    assert httpx2.get(f"{hub.endpoint}/api/models").status_code == 200
    answers = [httpx2.get(url) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["retry-after"] == "7"
    limited = httpx2.get(f"{hub.endpoint}/{repo}/resolve/main/a")
    assert (limited.status_code, limited.headers["ratelimit"]) == (503, '"api";r=0;t=3')
    assert httpx2.post(f"{hub.endpoint}/admin/failures", json={"status": 200, "count": 1}).status_code == 400
    hub.pull("failures", status=503, count=9)
    hub.pull("failures")
    assert httpx2.get(url).status_code == 200
