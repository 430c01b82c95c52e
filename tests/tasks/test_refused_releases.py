"""A broken release on a real (local) Hub: one clear reason, a hold, and nothing live touched.

The releases are made from the demo family's real models, each broken in one way.
"""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from tasks import doors
from tasks.domain.errors import DiskFull, HubUnavailable, InputError, ModelRefused
from tasks.domain.models import ChannelState, ModelRef
from tasks.hub import fetch_model, find_releases
from tasks.jobs import open_job
from tasks.settings import settings
from tests.local_hub.hub_fixtures import RunningHub, run_hub

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "infra" / "demo_family" / "models"
LIVE = ModelRef(repo_id="empelt-demo/llama-tiny-instruct-v1", revision="1" * 40)
NEW = "empelt-demo/llama-tiny-instruct-v9"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    with run_hub(tmp_path_factory.mktemp("hub")) as running:
        for model in ("llama-tiny", "eu_llama-tiny"):
            running.push(f"empelt-demo/{model}", MODELS / model)
        yield running


@pytest.fixture
def live(hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChannelState]:
    """An installation whose channel eu serves v1; what it serves is checked again afterwards."""
    values = {"HOME": str(tmp_path), "FAMILIES": "llama-tiny", "HUB_ENDPOINT": hub.endpoint, "SETTLE_SECONDS": "0"}
    for name, value in values.items():
        monkeypatch.setenv(f"EMPELT_{name}", value)
    doors.forget()
    names = {"digest": "a" * 64, "release": LIVE, "target": "eu", "family": "llama-tiny", "reason": "test"}
    state = doors.open_ledger().switch_channel("eu", expected_generation=0, **names)
    settings().routes.parent.mkdir(parents=True, exist_ok=True)
    settings().routes.write_text('{"serial": 7}')
    before = doors.open_store().digests()
    with disable_run_logger():
        yield state
    assert doors.open_ledger().channel("eu") == state
    assert len(doors.open_ledger().promotions("eu")) == 1
    assert settings().routes.read_text() == '{"serial": 7}'
    assert doors.open_store().digests() == before
    doors.forget()


def copy_of_v2(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODELS / "llama-tiny-instruct-v2", tmp_path / "broken"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def foreign_architecture(folder: Path) -> None:
    edit_json(folder / "config.json", architectures=["MistralForCausalLM"], model_type="mistral")


def foreign_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    vocabulary = told["model"]["vocab"]
    first, second = [token for token, number in vocabulary.items() if number in (700, 701)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(told))


def truncated_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4096])


def missing_shard(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    names = [name for name in json.loads(raw[8 : 8 + length]) if name != "__metadata__"]
    path.rename(folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + (name == names[-1])}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def remote_code(folder: Path) -> None:
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (foreign_architecture, ["config.json", "MistralForCausalLM", "LlamaForCausalLM"]),
        (foreign_tokenizer, ["tokenizer.json", "700"]),
        (truncated_shard, ["model.safetensors"]),
        (missing_shard, ["model-00002-of-00002.safetensors"]),
        (remote_code, ["auto_map"]),
    ],
)
def test_a_broken_release_is_held_with_its_reason(
    hub: RunningHub, live: ChannelState, tmp_path: Path, broken: Callable[[Path], None], named: list[str]
):
    folder = copy_of_v2(tmp_path)
    broken(folder)
    sha = hub.push(NEW, folder)
    assert find_releases.fn("llama-tiny") == []
    (hold,) = doors.open_ledger().holds()
    assert hold.key == f"release:{NEW}@{sha}"
    for word in (NEW, *named):
        assert word in hold.reason
    with pytest.raises(ModelRefused) as refusal:  # by hand, from the UI, the same
        open_job.fn("llama-tiny", ModelRef(repo_id=NEW, revision=sha), "eu")
    for word in named:
        assert word in str(refusal.value)


def test_a_held_release_is_not_looked_at_again_until_it_changes(hub: RunningHub, live: ChannelState, tmp_path: Path):
    folder = copy_of_v2(tmp_path)
    foreign_architecture(folder)
    hub.push(NEW, folder)
    find_releases.fn("llama-tiny")
    find_releases.fn("llama-tiny")
    assert len(doors.open_ledger().holds()) == 1
    sha = hub.push(NEW, MODELS / "llama-tiny-instruct-v2")
    (release,) = find_releases.fn("llama-tiny")
    assert release.ref == ModelRef(repo_id=NEW, revision=sha)


def test_files_that_are_not_what_the_hub_announced_are_refused(hub: RunningHub, live: ChannelState, tmp_path: Path):
    folder = copy_of_v2(tmp_path)
    edit_json(folder / "generation_config.json", max_new_tokens=77)
    ref = ModelRef(repo_id=NEW, revision=hub.push(NEW, folder))
    with pytest.raises(ModelRefused) as refusal:
        fetch_model.fn("instruct", ref, "b" * 64)
    assert "b" * 64 in str(refusal.value)
    assert not doors.open_store().has("b" * 64)
    doors.open_store()  # what did arrive is a healthy model of another digest: it may stay, nothing points at it
    for digest in doors.open_store().digests():
        shutil.rmtree(settings().store / "artifacts" / digest, ignore_errors=True)
        (settings().store / "manifests" / f"{digest}.json").unlink(missing_ok=True)


def test_a_full_disk_is_a_wait_with_both_figures(
    hub: RunningHub, live: ChannelState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ref = ModelRef(repo_id=NEW, revision=hub.push(NEW, MODELS / "llama-tiny-instruct-v2"))
    (release,) = find_releases.fn("llama-tiny")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=123_456))
    with pytest.raises(DiskFull) as wait:
        fetch_model.fn("instruct", ref, release.content_digest)
    assert "123" in str(wait.value)
    assert not list((settings().store).rglob("*.safetensors"))


def test_a_hub_that_is_down_is_transient(live: ChannelState, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EMPELT_HUB_ENDPOINT", "http://127.0.0.1:9")
    settings.cache_clear()
    doors.open_source.cache_clear()
    with pytest.raises(HubUnavailable, match=r"127\.0\.0\.1:9"):
        find_releases.fn("llama-tiny")


def test_an_unknown_family_or_target_lists_the_known_ones(live: ChannelState):
    with pytest.raises(InputError, match=r"\['llama-tiny'\]"):
        find_releases.fn("llama-huge")
