"""The levers: what a Hub does only on a bad day, told to the local one over HTTP; and a Hub below a path."""

import json
from pathlib import Path
from urllib.error import HTTPError

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_hub_download
from huggingface_hub.errors import DisabledRepoError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from tests.local_hub.hub_fixtures import RunningHub, TinyModel, run_hub


@pytest.fixture
def config(hub: RunningHub, org: str, tmp_path: Path) -> tuple[str, bytes]:
    """Address and content of a file on the Hub."""
    folder = TinyModel().write(tmp_path / "m")
    sha = hub.push(f"{org}/m", folder)
    return f"{hub.endpoint}/{org}/m/resolve/{sha}/config.json", (folder / "config.json").read_bytes()


def test_a_body_is_cut_once_though_its_length_was_promised(hub: RunningHub, config: tuple[str, bytes]) -> None:
    url, content = config
    hub.pull("failures", fault="cut", at=10, path="config.json")
    assert get_session().head(url).headers["content-length"] == str(len(content))  # a HEAD has no body to cut
    with pytest.raises(httpx.RemoteProtocolError):
        get_session().get(url)
    assert get_session().get(url).content == content


def test_one_bit_of_a_body_is_wrong_once(hub: RunningHub, config: tuple[str, bytes]) -> None:
    url, content = config
    hub.pull("failures", fault="flip", at=7, path="config.json")
    got = get_session().get(url).content
    assert [(n, a ^ b) for n, (a, b) in enumerate(zip(got, content, strict=True)) if a != b] == [(7, 1)]
    assert get_session().get(url).content == content


def test_an_answer_comes_late(hub: RunningHub, config: tuple[str, bytes]) -> None:
    url, content = config
    hub.pull("failures", fault="silent", seconds=2, path="config.json")
    with pytest.raises(httpx.ReadTimeout):
        get_session().get(url, timeout=0.3)
    assert get_session().get(url).content == content


def test_a_limit_is_told_in_the_words_of_the_hub(hub: RunningHub, config: tuple[str, bytes]) -> None:
    hub.pull("failures", status=429, retry_after=2, limit=True, path="config.json")
    answer = get_session().get(config[0])
    assert (answer.status_code, answer.headers["ratelimit"]) == (429, '"api";r=0;t=2')
    assert answer.headers["ratelimit-policy"] == '"fixed window";"api";q=500;w=300'


@pytest.mark.parametrize(
    "settings", [{"status": 200}, {"fault": "burn"}, {"fault": "cut", "status": 503}, {"status": 503, "path": "("}]
)
def test_a_fault_that_makes_no_sense_is_refused(hub: RunningHub, settings: dict[str, object]) -> None:
    with pytest.raises(HTTPError, match="400"):
        hub.pull("failures", **settings)


def test_the_staff_disable_a_repository_and_enable_it(hub: RunningHub, api: HfApi, org: str, tmp_path: Path) -> None:
    hub.push(f"{org}/m", TinyModel().write(tmp_path / "m"))
    hub.pull("repos", repo=f"{org}/m", disabled=True)
    with pytest.raises(DisabledRepoError):
        api.model_info(f"{org}/m")
    hub.pull("repos", repo=f"{org}/m", disabled=False)
    assert api.model_info(f"{org}/m").disabled is False
    with pytest.raises(HTTPError, match="400"):
        hub.pull("repos", repo=f"{org}/none", disabled=True)


def test_the_hub_remembers_who_sent_a_token(hub: RunningHub, config: tuple[str, bytes]) -> None:
    hub.pull("requests")
    get_session().get(config[0])
    get_session().get(config[0], headers={"authorization": "Bearer hf_x"})
    assert [seen["signed"] for seen in hub.answered()] == [False, True]


def test_a_hub_below_a_path_is_read_and_written_there_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As HF_HUB_DISABLE_XET=1, which the client reads when it is first imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with run_hub(tmp_path / "hub", "--page-size", "2", write_token="hf_w", prefix="/artifactory/api/hf") as hub:
        api = HfApi(endpoint=hub.endpoint, token="hf_w")
        for number in range(3):
            api.create_repo(f"lab/m{number}")
        weights = TinyModel(shards=1).write(tmp_path / "m") / "model.safetensors"
        operation = CommitOperationAdd(path_in_repo=weights.name, path_or_fileobj=weights)
        sha = api.create_commit("lab/m0", [operation], commit_message="Weights").oid
        api.move_repo("lab/m0", "lab/m9")
        assert [row.id for row in api.list_models(author="lab")] == ["lab/m2", "lab/m1", "lab/m9"]
        got = hf_hub_download("lab/m0", weights.name, revision=sha, local_dir=tmp_path / "x", endpoint=hub.endpoint)
        assert Path(got).read_bytes() == weights.read_bytes()
        assert get_session().get(f"{hub.admin[:-6]}/api/models").status_code == 404
        outside = {seen["path"] for seen in hub.answered() if not seen["path"].startswith(f"{hub.prefix}/")}
        assert outside == {"/", "/api/models"}  # asked by this test and its fixture, not by the client
        assert json.loads(get_session().get(f"{hub.endpoint}/api/models?limit=1").content)[0]["id"].startswith("lab/")
