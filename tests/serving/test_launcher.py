"""The launcher with vLLM itself. The tests share two launchers and run in the order written, kills last."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any

import procfs
import pytest
import shared_segments

pytestmark = [pytest.mark.serving, pytest.mark.timeout(300)]


class Served(http.client.HTTPConnection):
    """HTTP to an instance, by port or by socket."""

    def __init__(self, place: int | Path) -> None:
        super().__init__("127.0.0.1", place if isinstance(place, int) else 80, timeout=60)
        self._place = place

    def connect(self) -> None:
        if isinstance(self._place, int):
            super().connect()
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(60)
            self.sock.connect(str(self._place))


def ask(place: int | Path, path: str, **body: Any) -> dict[str, Any]:
    connection = Served(place)
    connection.request("POST" if body else "GET", path, json.dumps(body) or None, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == 200, text
    return json.loads(text) if text else {}


def seconds_to_ready(place: int | Path, log: str, limit: float) -> float:
    began = time.monotonic()
    while time.monotonic() - began < limit:
        try:
            ask(place, "/health")
            return time.monotonic() - began
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"no /health after {limit} s:\n{Path(log).read_text()[-4000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listed(launcher: Any, name: str) -> dict[str, Any]:
    return next(item for item in launcher.ask("list")["instances"] if item["name"] == name)


def group_is_gone(group: int, limit: float = 5.0) -> bool:
    end = time.monotonic() + limit
    while procfs.group_members(group) and time.monotonic() < end:
        time.sleep(0.05)
    return not procfs.group_members(group)


def environment_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


@pytest.fixture(scope="module")
def fork(launchers: dict[str, Any]) -> Any:
    return launchers["fork"]


@pytest.fixture(scope="module")
def pair(fork: Any, tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two instances side by side: blue on a port, green on a socket."""
    places = {"blue": free_port(), "green": tmp_path_factory.mktemp("s") / "green.sock"}
    made = {}
    for name, place in places.items():
        answer = fork.start(tiny[name], name, place)
        assert answer["ok"], answer
        made[name] = answer | {"place": place, "seconds": seconds_to_ready(place, answer["log"], 60)}
    return made


def test_the_launcher_forks_and_says_what_it_is(fork):
    answer = fork.ask("ping")
    assert answer["ok"]
    assert (answer["mode"], answer["why"]) == ("fork", "")
    assert answer["pid"] == fork.process.pid
    assert answer["device"] == "cpu"
    assert stat.S_IMODE(fork.socket.stat().st_mode) == 0o600
    print(f"\nlauncher ready after {fork.import_seconds:.1f} s, of which vLLM's imports {answer['import_seconds']} s")


def test_two_instances_are_ready_within_seconds_and_answer_differently(fork, pair):
    print("\nready after", {name: round(one["seconds"], 1) for name, one in pair.items()}, "s, forked")
    texts = {}
    for name, one in pair.items():
        body = {"model": name, "prompt": "Kaixo, ", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        answer = ask(one["place"], "/v1/completions", **body)
        assert answer["usage"]["completion_tokens"] == 12
        texts[name] = answer["choices"][0]["text"]
        assert listed(fork, name)["alive"]
    assert texts["blue"] != texts["green"]


def test_the_chat_template_of_the_model_is_used(pair):
    messages = [{"role": "user", "content": "Kaixo"}]
    answer = ask(pair["blue"]["place"], "/v1/chat/completions", model="blue", messages=messages, max_tokens=3)
    written = "<|im_start|>user\nKaixo<|im_end|>\n<|im_start|>assistant\n"
    characters = len(written.replace("<|im_start|>", "1").replace("<|im_end|>", "2"))
    assert answer["usage"]["prompt_tokens"] == characters


def test_an_instance_is_a_session_of_its_own_with_a_witness_of_its_weights_and_no_token(pair, tiny):
    for name, one in pair.items():
        seen = procfs.read_stat(one["pid"])
        assert (seen.session, seen.group, seen.start_time) == (one["pid"], one["pid"], one["start_time"])
        assert procfs.mapped_weights(one["pid"]) == [str(tiny[name] / "model.safetensors")]
        for member in procfs.group_members(one["pid"]):
            assert not any(line.startswith("HF_TOKEN=") for line in environment_of(member.pid))
        assert "EMPELT_INSTANCE=the-launchers-own" in environment_of(one["pid"])


def test_what_is_unsafe_or_taken_is_refused_by_name_and_starts_nothing(fork, pair, tiny, tmp_path):
    before = fork.ask("list")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for path in tiny["blue"].iterdir():
        (pickled / path.name).write_bytes(path.read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"")
    port = pair["blue"]["place"]
    for answer, named in (
        (fork.start(tiny["green"], "other", port), str(port)),
        (fork.start(tiny["green"], "other", pair["green"]["place"]), str(pair["green"]["place"])),
        (fork.start(tiny["blue"], "blue", free_port()), "name blue was refused"),
        (fork.start(pickled, "other", free_port()), "pytorch_model.bin"),
        (fork.start(tiny["blue"], "other", free_port(), flags=["--trust-remote-code"]), "--trust-remote-code"),
        (fork.start(tiny["blue"], "other", free_port(), flags=["--enable-scale"]), "--enable-scale"),
        (fork.start(tiny["blue"], "other", free_port(), flags=["--max-model-length", "9"]), "--max-model-length"),
        (fork.ask("stop", name="nobody"), "nobody"),
        (fork.ask("fly"), "'fly'"),
        (fork.ask_line(b"{"), "not a line of JSON"),
    ):
        assert not answer["ok"]
        assert named in answer["error"]
    assert fork.ask("list") == before


def segments(launcher: Any, pid: int | None = None) -> list[Path]:
    return sorted(shared_segments.FOLDER.glob(shared_segments.prefix_of(launcher.socket, pid) + "*"))


def test_stop_leaves_no_process_of_the_group_and_no_shared_memory(fork, pair):
    green = pair["green"]
    assert len(procfs.group_members(green["pid"])) >= 3
    assert segments(fork, green["pid"])
    assert segments(fork, pair["blue"]["pid"])
    assert fork.ask("stop", name="green", grace_seconds=10) == {"ok": True, "exit_code": 0}
    assert procfs.group_members(green["pid"]) == []
    assert segments(fork, green["pid"]) == []
    assert segments(fork, pair["blue"]["pid"])
    assert not green["place"].exists()
    assert not listed(fork, "green")["alive"]
    assert fork.ask("stop", name="green")["exit_code"] == 0


def test_an_instance_that_is_still_starting_is_stopped_at_once(fork, pair, tiny):
    answer = fork.start(tiny["blue"], "hasty", free_port())
    time.sleep(0.7)
    began = time.monotonic()
    ended = fork.ask("stop", name="hasty", grace_seconds=30)
    assert ended["ok"]
    assert ended["exit_code"] in (143, -9)  # by itself where it was quick, killed where vLLM sat it out
    assert time.monotonic() - began < 5
    assert procfs.group_members(answer["pid"]) == []
    assert segments(fork, answer["pid"]) == []


def test_sigkill_of_the_api_process_leaves_no_engine_and_no_worker(fork, pair):
    pid = pair["blue"]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert group_is_gone(pid)
    end = time.monotonic() + 3
    while listed(fork, "blue")["exit_code"] is None and time.monotonic() < end:
        time.sleep(0.05)
    assert (listed(fork, "blue")["alive"], listed(fork, "blue")["exit_code"]) == (False, -9)
    assert segments(fork, pid) == []


def test_sigkill_of_the_launcher_leaves_no_process_and_its_successor_removes_their_shared_memory(
    serving_python, fork, pair, tiny
):
    places = [free_port(), free_port()]
    answers = [fork.start(tiny["blue"], f"late{place}", place) for place in places]
    # One is serving and the other somewhere in its start.
    seconds_to_ready(places[0], answers[0]["log"], 60)
    fork.process.kill()
    fork.process.wait(10)
    for answer in answers:
        assert group_is_gone(answer["pid"])
    # What each kill leaves differs with what it hits first; this one is left for certain.
    (shared_segments.FOLDER / f"{shared_segments.prefix_of(fork.socket, answers[0]['pid'])}1234").write_bytes(b"left")
    stranger = shared_segments.FOLDER / f"{shared_segments.prefix_of(fork.socket.with_name('another.sock'), 1)}1234"
    stranger.write_bytes(b"another launcher's")
    successor = type(fork)(serving_python, fork.socket.parent)
    try:
        end = time.monotonic() + 60
        while segments(fork) and time.monotonic() < end:
            time.sleep(0.05)
        assert segments(fork) == []
        assert stranger.exists()
    finally:
        successor.end()
        stranger.unlink()


def test_a_plain_start_serves_too_says_why_and_dies_with_the_launcher(launchers, tiny, tmp_path_factory):
    plain = launchers["plain"]
    answer = plain.ask("ping")
    assert (answer["mode"], answer["why"]) == ("plain", "EMPELT_LAUNCHER=plain is set")
    place = tmp_path_factory.mktemp("p") / "plain.sock"
    begun = plain.start(tiny["blue"], "plain", place, env={"EMPELT_INSTANCE": "asked-for"})
    print(f"\nready after {seconds_to_ready(place, begun['log'], 200):.1f} s, plainly")
    assert ask(place, "/v1/completions", model="plain", prompt="a", max_tokens=2)["choices"]
    assert procfs.mapped_weights(begun["pid"]) == [str(tiny["blue"] / "model.safetensors")]
    members = procfs.group_members(begun["pid"])
    assert len(members) >= 3
    assert all("EMPELT_INSTANCE=asked-for" in environment_of(member.pid) for member in members)
    assert segments(plain, begun["pid"])
    plain.process.kill()
    plain.process.wait(10)
    assert group_is_gone(begun["pid"])
