from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from refusals import REFUSED_FLAGS, check_start, flag_problems
from serving_environment import instance_environment, serving_environment


def request_for(model: Path, **changes: Any) -> dict[str, Any]:
    sound = {"op": "start", "name": "eu-abcdef123456", "model": str(model), "served_names": ["eu@abcdef123456"]}
    request = sound | {"uds": str(model.parent / "s.sock"), "flags": ["--dtype", "float32"], "env": {}} | changes
    return {key: value for key, value in request.items() if value is not None}


@pytest.fixture
def model(tiny: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny["blue"], tmp_path / "model"))


def refusals(request: dict[str, Any]) -> str:
    accepted, problems = check_start(request)
    assert accepted is None
    return "\n".join(problems)


def test_a_sound_request_becomes_a_command_line_on_loopback_with_safetensors_only(model):
    accepted, problems = check_start(request_for(model, uds=None, port=23456))
    assert problems == []
    line = accepted.arguments()
    assert line[line.index("--host") + 1] == "127.0.0.1"
    assert line[line.index("--load-format") + 1] == "safetensors"
    assert line[line.index("--port") + 1] == "23456"
    assert line[-2:] == ["--dtype", "float32"]


@pytest.mark.parametrize("flag", sorted(REFUSED_FLAGS))
def test_every_flag_on_the_list_is_refused_by_name(flag):
    assert flag in flag_problems([flag, "x"])[0]


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("--trust_remote_code", "--trust-remote-code"),
        ("--trust-remote", "--trust-remote-code"),
        ("--host=0.0.0.0", "--host"),
        ("--enable-prompt", "--enable-prompt-embeds"),
        ("--compilation-config.mode", "--compilation-config"),
        ("--speculative_config={}", "--speculative-config"),
    ],
)
def test_a_refused_flag_is_seen_through_its_spellings(given, means):
    assert f"{means}:" in flag_problems([given])[0]


def test_a_flag_that_vllm_does_not_have_is_refused_where_its_flags_are_known():
    known = {"--dtype", "--no-enable-log-requests"}
    assert flag_problems(["--dtype", "float32", "--no-enable-log-requests", "--seed", "-1"], known | {"--seed"}) == []
    assert "--dtyp" in flag_problems(["--dtyp", "float32"], known)[0]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "modeling_evil.py", "deep/down/x.pkl", "lib.SO"])
def test_a_folder_with_pickles_or_code_is_refused_by_the_file(model, name):
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_bytes(b"")
    said = refusals(request_for(model))
    assert name in said
    assert str(model) in said


def test_a_folder_that_names_code_in_its_config_is_refused(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.Y"}}))
    assert "'auto_map'" in refusals(request_for(model))


def test_a_missing_folder_and_one_without_config_or_weights_are_refused(model):
    assert "no such folder" in refusals(request_for(model / "nowhere"))
    (model / "config.json").unlink()
    (model / "model.safetensors").unlink()
    said = refusals(request_for(model))
    assert "no config.json" in said
    assert "no *.safetensors" in said


def test_a_busy_port_is_refused_by_its_number(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} is busy" in refusals(request_for(model, uds=None, port=port))


def test_an_occupied_or_overlong_socket_path_is_refused(model, tmp_path):
    taken = tmp_path / "taken.sock"
    taken.touch()
    assert f"{taken} was refused: the path is occupied" in refusals(request_for(model, uds=str(taken)))
    assert "107" in refusals(request_for(model, uds="/" + "x" * 107))


def test_everything_wrong_with_a_request_is_listed_at_once(model):
    request = request_for(
        model, name="../x", served_names=[], uds=None, flags=["--host", "::"], env={"LD_PRELOAD": "x"}
    )
    said = refusals(request | {"colour": "blue"}).splitlines()
    for part in ("colour", "'../x'", "served_names []", "exactly one", "--host", "LD_PRELOAD"):
        assert any(part in line for line in said), (part, said)


def test_the_environment_holds_no_token_and_nothing_that_weakens_vllm():
    given = {
        "HF_TOKEN": "hf_x",
        "VLLM_SERVER_DEV_MODE": "1",
        "PATH": "/bin",
        "OMP_NUM_THREADS": "4",
        "HF_HUB_OFFLINE": "0",
    }
    made = serving_environment(given)
    assert "HF_TOKEN" not in made
    assert "VLLM_SERVER_DEV_MODE" not in made
    assert (made["PATH"], made["OMP_NUM_THREADS"], made["HF_HUB_OFFLINE"]) == ("/bin", "4", "1")
    assert serving_environment(made) == made


def test_a_cache_size_among_the_flags_is_not_overruled_by_the_environment():
    environ = serving_environment({})
    assert instance_environment(environ, {}, [])["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in instance_environment(environ, {}, ["--kv_cache_memory_bytes=1"])


def adapter(folder: Path, **changes: Any) -> dict[str, str]:
    """A folder that is an adapter of rank 16, or nearly one."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": ["q_proj", "embed_tokens"]} | changes
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return {"name": folder.name, "path": str(folder)}


def test_adapters_become_flags_with_a_place_more_than_there_are_and_no_module_but_theirs(model, tmp_path):
    asked = [adapter(tmp_path / "eu"), adapter(tmp_path / "gl", r=40, target_modules=["q_proj", "up_proj"])]
    accepted, problems = check_start(request_for(model, adapters=asked))
    assert problems == []
    line = accepted.arguments()
    assert line[line.index("--max-lora-rank") + 1] == "64"
    assert line[line.index("--max-loras") + 1] == line[line.index("--max-cpu-loras") + 1] == "3"
    targets = line[line.index("--lora-target-modules") + 1 : line.index("--lora-modules")]
    assert targets == ["embed_tokens", "q_proj", "up_proj"]
    at = line.index("--lora-modules")
    assert [json.loads(one) for one in line[at + 1 : at + 3]] == asked
    assert "--enable-lora" not in check_start(request_for(model))[0].arguments()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 513}, "rank 513; expected 1 to 512"),
        ({"r": True}, "rank True"),
        ({"target_modules": "all-linear"}, "target_modules 'all-linear'"),
        ({"target_modules": ["q_proj", "--host"]}, "target_modules ['q_proj', '--host']"),
        ({"target_modules": ["q_proj", "lm_head"]}, "it changes lm_head: two requests for log-probabilities"),
        ({"auto_mapping": {"parent_library": "evil"}}, "'auto_mapping'"),
    ],
)
def test_an_adapter_that_would_end_the_engine_or_load_code_is_refused_by_its_folder(model, tmp_path, changes, words):
    said = refusals(request_for(model, adapters=[adapter(tmp_path / "eu", **changes)]))
    assert words in said
    assert str(tmp_path / "eu") in said


def test_adapters_without_files_with_pickles_or_with_a_name_that_is_taken_are_refused_all_at_once(model, tmp_path):
    sound, pickled, empty = adapter(tmp_path / "eu"), adapter(tmp_path / "gl"), tmp_path / "empty"
    (tmp_path / "gl" / "adapter_model.bin").write_bytes(b"")
    empty.mkdir()
    asked = [sound, sound, pickled, {"name": "a b", "path": str(empty)}, {"name": "x", "path": "relative"}, "eu"]
    said = refusals(request_for(model, adapters=[*asked, {"name": "eu@abcdef123456", "path": sound["path"]}]))
    for words in (
        "adapter name eu was refused: it is taken",
        "adapter_model.bin, and .bin can run code",
        "adapter name 'a b' was refused",
        f"adapter {empty} was refused: it has no adapter_model.safetensors",
        "no `r` and `target_modules` in adapter_config.json (FileNotFoundError)",
        "adapter 'relative' was refused: expected the absolute path",
        "adapter 'eu' was refused: expected an object with name and path",
        "adapter name eu@abcdef123456 was refused: it is taken",
    ):
        assert words in said
    assert "expected a list of at most 64" in refusals(request_for(model, adapters={"eu": "x"}))
