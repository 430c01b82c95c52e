"""The launcher as a process that may be missing, end, or refuse."""

import sys
from pathlib import Path

import pytest

from tasks.domain.errors import EndpointUnavailable, ServingMissing
from tasks.endpoints.launcher_client import LauncherClient, LauncherProcess

HERE = Path(__file__).parent


def test_a_launcher_that_is_not_there_is_named_with_what_was_asked(tmp_path):
    with pytest.raises(EndpointUnavailable, match=r"the launcher at .*none\.sock did not answer 'list'"):
        LauncherClient(tmp_path / "none.sock").list()


def test_a_launcher_that_ends_at_once_is_reported_with_the_end_of_its_log(tmp_path):
    script = tmp_path / "launcher.py"
    script.write_text("raise SystemExit('no module named vllm')")
    launcher = LauncherProcess(Path(sys.executable), script, socket=tmp_path / "l.sock", logs=tmp_path / "logs")
    launcher.start()
    with pytest.raises(ServingMissing, match=r"(?s)ended with code 1.*no module named vllm"):
        launcher.wait(deadline_seconds=30)


def test_a_launcher_that_keeps_ending_is_not_started_in_a_tight_loop(tmp_path):
    script = tmp_path / "launcher.py"
    script.write_text("raise SystemExit('no module named vllm')")
    launcher = LauncherProcess(Path(sys.executable), script, socket=tmp_path / "l.sock", logs=tmp_path / "logs")
    for _ in range(5):
        launcher.start()
        launcher._started.wait(30)
    assert launcher.log.read_text().count("no module named vllm") == 1


def test_what_the_launcher_refuses_is_passed_on_with_its_reason(spawn, short_folder, until):
    socket = short_folder / "refusing.sock"
    spawn(sys.executable, HERE / "fake_launcher.py", "--socket", socket, "--logs", short_folder)
    until(socket.exists, what="the launcher")
    with pytest.raises(EndpointUnavailable, match="the launcher refused stop eu-1: no instance eu-1"):
        LauncherClient(socket).stop("eu-1")
