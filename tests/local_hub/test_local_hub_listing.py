"""The real client lists and looks up models on the local Hub."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_session
from huggingface_hub.errors import BadRequestError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder

from tests.local_hub.hub_fixtures import ARCHITECTURE, RunningHub, TinyModel

PARAMETERS = 16 * 8 + 2 * 8 * 16 + 8


def test_all_models_of_an_organisation_are_listed_over_several_pages(
    hub: RunningHub, api: HfApi, org: str, tmp_path: Path
) -> None:
    folder = TinyModel().write(tmp_path / "m")
    for number in range(5):
        hub.push(f"{org}/m{number}", folder)
    hub.push(f"{org}-other/m0", folder)
    # The Hub under test has two rows per page, so five rows are three requests joined by Link headers.
    assert [row.id for row in api.list_models(author=org)] == [f"{org}/m{n}" for n in range(5)]
    assert [row.id for row in api.list_models(author=org, limit=3)] == [f"{org}/m{n}" for n in range(3)]


def test_expand_tells_what_a_watch_needs_in_one_listing(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    sha = hub.push(f"{org}/m", TinyModel().write(tmp_path / "m"))
    asked = ["sha", "lastModified", "createdAt", "cardData", "tags", "gated", "disabled", "private"]
    asked += ["config", "safetensors", "library_name", "pipeline_tag", "siblings"]
    (row,) = api.list_models(author=org, expand=asked)  # type: ignore[arg-type]
    assert row.sha == sha
    assert row.last_modified == row.created_at == datetime(2026, 11, 20, 9, tzinfo=UTC)
    assert (row.private, row.gated, row.disabled) == (False, False, False)
    assert row.config == {"architectures": [ARCHITECTURE], "model_type": "llama"}
    assert row.safetensors is not None
    assert (row.safetensors.total, row.safetensors.parameters) == (PARAMETERS, {"BF16": PARAMETERS})
    assert row.card_data is not None
    assert row.card_data.base_model == "demo/base"
    assert set(row.tags or ()) >= {"en", "eu", "license:apache-2.0", "base_model:finetune:demo/base", "safetensors"}
    assert "config.json" in [sibling.rfilename for sibling in row.siblings or ()]
    assert len(row._id) == 24  # type: ignore[attr-defined]


def test_properties_that_were_not_asked_for_are_not_told(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    hub.push(f"{org}/m", TinyModel().write(tmp_path / "m"))
    (row,) = api.list_models(author=org, expand=["sha"])
    assert row.sha is not None
    assert (row.tags, row.last_modified, row.siblings) == (None, None, None)


def test_an_unknown_property_is_refused(api: HfApi) -> None:
    with pytest.raises(BadRequestError, match="lastmodified"):
        list(api.list_models(expand=["lastmodified"]))  # type: ignore[list-item]


def test_filters_are_tags_and_all_of_them_must_be_there(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    hub.push(f"{org}/child", TinyModel().write(tmp_path / "child"))
    hub.push(f"{org}/other", TinyModel(card="---\nlanguage: en\n---\n").write(tmp_path / "other"))
    lineage = "base_model:finetune:demo/base"
    assert [row.id for row in api.list_models(author=org, filter=lineage)] == [f"{org}/child"]
    assert len(list(api.list_models(author=org, filter=["en", "llama"]))) == 2
    assert list(api.list_models(author=org, filter=["en", "gl"])) == []
    assert [row.id for row in api.list_models(author=org, search="OTH")] == [f"{org}/other"]


def test_models_are_sorted_by_their_last_change(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    folder = TinyModel().write(tmp_path / "m")
    for name, day in (("a", 2), ("b", 3), ("c", 1)):
        hub.push(f"{org}/{name}", folder, when=f"2026-11-0{day}T00:00:00Z")
    assert [row.id[-1] for row in api.list_models(author=org, sort="last_modified")] == ["b", "a", "c"]


def test_model_info_tells_files_with_sizes_and_digests(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    sha = hub.push(f"{org}/m", TinyModel(shards=1).write(tmp_path / "m"))
    for revision in (None, "main", sha):
        info = api.model_info(f"{org}/m", revision=revision, files_metadata=True)
        assert info.sha == sha
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        weights, config = siblings["model.safetensors"], siblings["config.json"]
        assert weights.lfs is not None
        assert weights.lfs.size == weights.size == (tmp_path / "m" / "model.safetensors").stat().st_size
        assert config.lfs is None
        assert len(weights.lfs.sha256) == 64
        assert len(config.blob_id or "") == 40


def test_the_tree_tells_folders_files_and_their_last_commit(
    hub: RunningHub, api: HfApi, org: str, tmp_path: Path
) -> None:
    first = hub.push(f"{org}/m", TinyModel(others={"sub/deep/x.txt": b"x"}).write(tmp_path / "a"))
    second = hub.push(
        f"{org}/m", TinyModel(others={"sub/deep/x.txt": b"y"}).write(tmp_path / "b"), when="2026-11-21T09:00:00Z"
    )
    top = list(api.list_repo_tree(f"{org}/m"))
    assert [entry.path for entry in top if isinstance(entry, RepoFolder)] == ["sub"]
    entries = {e.path: e for e in api.list_repo_tree(f"{org}/m", recursive=True, expand=True)}
    assert {"sub", "sub/deep", "sub/deep/x.txt", "config.json"} <= entries.keys()
    changed, kept = entries["sub/deep/x.txt"], entries["config.json"]
    assert changed.last_commit is not None
    assert kept.last_commit is not None
    assert (changed.last_commit.oid, kept.last_commit.oid) == (second, first)
    (inner,) = api.list_repo_tree(f"{org}/m", "sub/deep", revision=first)
    assert (inner.path, isinstance(inner, RepoFile)) == ("sub/deep/x.txt", True)
    found = api.get_paths_info(f"{org}/m", ["config.json", "sub", "missing.txt"])
    assert [entry.path for entry in found] == ["config.json", "sub"]
    assert [commit.commit_id for commit in api.list_repo_commits(f"{org}/m")] == [second, first]
    (branch,) = api.list_repo_refs(f"{org}/m").branches
    assert (branch.name, branch.target_commit) == ("main", second)


def test_a_missing_repository_and_revision_are_the_clients_own_errors(
    hub: RunningHub, api: HfApi, org: str, tmp_path: Path
) -> None:
    hub.push(f"{org}/m", TinyModel().write(tmp_path / "m"))
    for client in (api, HfApi(endpoint=hub.endpoint, token="hf_any")):
        with pytest.raises(RepositoryNotFoundError):
            client.model_info(f"{org}/missing")
    for revision in ("v9", "0" * 40, "refs/pr/1"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info(f"{org}/m", revision=revision)


def test_a_path_out_of_the_store_is_no_repository(hub: RunningHub) -> None:
    # The client refuses such ids itself, so this asks by hand; %2e%2e reaches the server as "..".
    (hub.root / "main").write_text("0" * 40)
    for repo_id in ("%2e%2e/repos", "a/%2e%2e", "%2e%2e/%2e%2e"):
        answer = get_session().get(f"{hub.endpoint}/api/models/{repo_id}")
        assert (answer.status_code, answer.headers.get("x-error-code")) in ((401, "RepoNotFound"), (404, None))
