"""Real processes, started and ended: never one too many, never one left over, never one of somebody else's."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deployments.supervisor import MARK, Child, Supervisor, require_free
from tasks.domain.errors import AddressInUse, EndpointUnavailable, InputError
from tasks.processes import same_process
from tasks.store.identity import start_of
from tests.deployments import supervised
from tests.deployments.supervised import with_grandchild

ROOT = Path(__file__).parents[2]
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]


def alive(pid: int) -> bool:
    """Running, and not a zombie that nobody has fetched yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_of(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def records(home: Path) -> list[dict[str, object]]:
    return list(json.loads((home / "run" / "children.json").read_text()))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def supervisor(home: Path) -> Iterator[Supervisor]:
    with Supervisor(home) as opened:
        yield opened


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process, with an EMPELT_INSTANCE of another home."""
    process = subprocess.Popen(SLEEP, env={**os.environ, MARK: "another home"})
    yield process
    process.kill()
    process.wait()


def test_a_started_child_is_recorded_by_pid_and_start_time_and_gone_after_stop(home: Path) -> None:
    supervisor = Supervisor(home)
    child = Child("gateway", SLEEP, {"EMPELT_TEST": "x"})
    supervisor.start(child)
    pid = pid_of(child)
    process = psutil.Process(pid)
    assert records(home) == [{"name": "gateway", "pid": pid, "start_time": start_of(pid)}]
    assert os.getsid(pid) == pid
    until(lambda: bool(process.environ()))  # Linux shows it a moment after the program has begun
    assert process.environ()[MARK] == supervisor.instance
    assert process.environ()["EMPELT_TEST"] == "x"
    supervisor.stop()
    assert not psutil.pid_exists(pid)
    assert records(home) == []


def test_an_exception_inside_the_block_ends_the_children(home: Path) -> None:
    child = Child("gateway", SLEEP)

    def interrupted() -> None:
        with Supervisor(home) as supervisor:
            supervisor.start(child)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not alive(pid_of(child))


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(supervisor: Supervisor, home: Path) -> None:
    log = home / "logs" / "deaf.log"
    child = Child("deaf", DEAF, is_ready=lambda: "deaf" in log.read_text(), grace_seconds=0.5)
    supervisor.start(child)
    supervisor.wait_ready(child)
    supervisor.stop()
    assert child.process is not None
    assert child.process.returncode == -signal.SIGKILL


def test_the_folder_of_sockets_and_records_is_for_this_user_only(supervisor: Supervisor, home: Path) -> None:
    assert (home / "run").stat().st_mode & 0o777 == 0o700


def test_a_home_keeps_its_identity(home: Path, tmp_path: Path) -> None:
    instances = []
    for place in (home, home, tmp_path / "other"):
        with Supervisor(place) as supervisor:
            instances.append(supervisor.instance)
    assert instances[0] == instances[1] != instances[2]


def test_what_a_child_started_in_another_session_ends_with_it(supervisor: Supervisor, tmp_path: Path) -> None:
    child = with_grandchild("worker", tmp_path / "pid")
    supervisor.start(child)
    supervisor.wait_ready(child)
    grandchild = int((tmp_path / "pid").read_text())
    assert os.getsid(grandchild) == grandchild
    supervisor.stop()
    assert not alive(pid_of(child))
    assert not alive(grandchild)


def test_leftovers_are_ended_while_our_own_children_live_on(supervisor: Supervisor, tmp_path: Path) -> None:
    child, parent = Child("gateway", SLEEP), with_grandchild("worker", tmp_path / "pid")
    for each in (child, parent):
        supervisor.start(each)
    supervisor.wait_ready(parent)
    ended = supervisor.end_leftovers()
    assert [name.endswith(f"(pid {(tmp_path / 'pid').read_text()})") for name in ended] == [True]
    assert alive(pid_of(child))
    assert alive(pid_of(parent))


def test_what_a_leftover_starts_while_it_ends_is_ended_too(supervisor: Supervisor, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    body = (
        "import pathlib, signal, subprocess, sys, time\n"
        f"told = pathlib.Path({str(told)!r})\n"
        "def more(*_):\n"
        f"    told.write_text(str(subprocess.Popen({SLEEP!r}, start_new_session=True).pid))\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, more)\n"
        "told.touch()\n"
        "time.sleep(600)"
    )
    environment = {**os.environ, MARK: supervisor.instance}
    leftover = subprocess.Popen([sys.executable, "-c", body], env=environment, start_new_session=True)
    until(told.exists)
    assert len(supervisor.end_leftovers()) == 2
    assert leftover.wait(5) == 0
    assert not alive(int(told.read_text()))


def test_an_exited_process_that_nobody_has_fetched_is_not_waited_for(supervisor: Supervisor) -> None:
    # Its parent (this test) does not fetch it: a zombie, which no signal can end.
    leftover = subprocess.Popen(SLEEP, env={**os.environ, MARK: supervisor.instance})
    began = time.monotonic()
    assert len(supervisor.end_leftovers()) == 1
    assert time.monotonic() - began < 8
    assert psutil.Process(leftover.pid).status() == psutil.STATUS_ZOMBIE
    assert leftover.wait() == -signal.SIGTERM


@pytest.mark.parametrize("lose_the_record", [False, True])
def test_what_a_killed_supervisor_left_is_ended_by_the_next_and_nothing_else(
    home: Path, bystander: subprocess.Popen[bytes], lose_the_record: bool
) -> None:
    script = [sys.executable, str(supervised.__file__), str(home)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=environment)
    assert first.stdout is not None
    child, grandchild = map(int, first.stdout.readline().split())
    first.kill()
    first.wait()
    first.stdout.close()
    assert alive(child)
    assert alive(grandchild)
    if lose_the_record:
        (home / "run" / "children.json").write_text("[{")  # cut off by a power failure
    with Supervisor(home) as second:
        ended = second.end_leftovers()
        assert sorted(int(name.split("(pid ")[1].rstrip(")")) for name in ended) == sorted([child, grandchild])
        assert not alive(child)
        assert not alive(grandchild)
        assert second.end_leftovers() == []
    assert bystander.poll() is None


@pytest.mark.parametrize("started", [start_of, lambda pid: psutil.Process(pid).create_time()], ids=["now", "earlier"])
def test_a_recorded_process_is_ended_even_if_it_hides_its_environment(
    home: Path, started: Callable[[int], str | float]
) -> None:
    with Supervisor(home):
        pass
    process = subprocess.Popen(SLEEP, env={})
    row = {"name": "old", "pid": process.pid, "start_time": started(process.pid)}
    (home / "run" / "children.json").write_text(json.dumps([row]))
    with Supervisor(home) as supervisor:
        assert len(supervisor.end_leftovers()) == 1
    assert process.wait(5) == -signal.SIGTERM


def test_a_pid_that_now_belongs_to_another_process_is_not_touched(
    home: Path, bystander: subprocess.Popen[bytes]
) -> None:
    with Supervisor(home):
        pass
    started = psutil.Process(bystander.pid).create_time()
    row = {"name": "gateway", "pid": bystander.pid, "start_time": started - 3600}
    (home / "run" / "children.json").write_text(json.dumps([row]))
    with Supervisor(home) as supervisor:
        assert supervisor.end_leftovers() == []
    assert bystander.poll() is None
    assert same_process(bystander.pid, started - 3600) is None
    assert same_process(bystander.pid, started) is not None


def test_a_second_supervisor_of_one_home_is_refused_naming_the_first(supervisor: Supervisor, home: Path) -> None:
    code = "import pathlib, sys; from deployments.supervisor import Supervisor; Supervisor(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(home)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"InputError: {home} is in use by another `empelt up` (pid {os.getpid()})" in done.stderr
    assert "EMPELT_HOME" in done.stderr


def test_a_refused_supervisor_changes_nothing(supervisor: Supervisor, home: Path) -> None:
    child = Child("gateway", SLEEP)
    supervisor.start(child)
    before = records(home)
    with pytest.raises(InputError, match="in use"):
        Supervisor(home)
    assert alive(pid_of(child))
    assert records(home) == before
    with pytest.raises(InputError, match=rf"pid {os.getpid()}"):
        Supervisor(home)


def test_a_home_is_free_again_after_stop_though_children_have_inherited_much(home: Path) -> None:
    with Supervisor(home) as supervisor:
        supervisor.start(Child("gateway", SLEEP))
    with Supervisor(home):
        pass


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_that_dies_is_started_again_with_growing_pauses(supervisor: Supervisor, home: Path) -> None:
    said: list[str] = []
    child = Child("agent", [sys.executable, "-c", "import sys; sys.exit(7)"])
    supervisor.start(child)
    pauses, pids = [], []
    for _ in range(2):
        assert child.process is not None
        pids.append(child.process.pid)
        child.process.wait()
        seen = time.monotonic()

        def started_again() -> bool:
            supervisor.revive(said.append)
            return pid_of(child) != pids[-1]

        until(started_again)
        pauses.append(time.monotonic() - seen)
    assert said == ["agent ended with code 7; restarting it"] * 2
    assert pauses[0] == pytest.approx(1, abs=0.9)
    assert 2 <= pauses[1] < 6
    assert child.restarts == 2


def test_a_child_that_lives_is_left_alone(supervisor: Supervisor) -> None:
    child = Child("gateway", SLEEP)
    supervisor.start(child)
    pid = pid_of(child)
    supervisor.revive(pytest.fail)
    assert pid_of(child) == pid


def test_a_restarted_child_is_recorded_in_place_of_the_old(supervisor: Supervisor, home: Path) -> None:
    child = Child("gateway", SLEEP)
    supervisor.start(child)
    old = pid_of(child)
    os.kill(old, signal.SIGKILL)
    assert child.process is not None
    child.process.wait()

    def started_again() -> bool:
        supervisor.revive(lambda _: None)
        return pid_of(child) != old

    until(started_again)
    assert [row["pid"] for row in records(home)] == [pid_of(child)]
    assert len(supervisor.children) == 1


def test_what_a_killed_child_left_in_its_temporary_folder_goes_with_its_restart(
    supervisor: Supervisor, home: Path
) -> None:
    scratch = home / "run" / "tmp" / "worker"
    make = "import tempfile, time; print(tempfile.mkdtemp(suffix='prefect'), flush=True); time.sleep(600)"
    child = Child("worker", [sys.executable, "-c", make], scratch=scratch)
    supervisor.start(child)
    until(lambda: bool(list(scratch.iterdir())))
    left = list(scratch.iterdir())
    assert child.process is not None
    child.process.kill()
    child.process.wait()
    assert list(scratch.iterdir()) == left
    supervisor.start(child)
    until(lambda: bool(list(scratch.iterdir())))
    made = list(scratch.iterdir())
    assert len(made) == 1
    assert made != left


def test_the_folder_of_a_run_that_outlives_its_worker_stays_until_it_ends(supervisor: Supervisor, home: Path) -> None:
    scratch = home / "run" / "tmp" / "worker"
    run = "import pathlib, sys; print('here', flush=True); sys.stdin.read(); print(pathlib.Path.cwd())"
    worker = (
        "import subprocess, sys, tempfile, time\n"
        f"subprocess.Popen([sys.executable, '-c', {run!r}], cwd=tempfile.mkdtemp(), start_new_session=True,\n"
        "                 stdin=open(sys.argv[1]), stdout=open(sys.argv[2], 'w'))\n"
        "time.sleep(600)"
    )
    told, said = home / "told", home / "said"
    os.mkfifo(told)
    child = Child("worker", [sys.executable, "-c", worker, str(told), str(said)], scratch=scratch)
    supervisor.start(child)
    with told.open("w"):  # the run reads until this is closed, whatever becomes of its worker
        until(lambda: said.exists() and bool(said.read_text()))
        (folder,) = scratch.iterdir()
        assert child.process is not None
        child.process.kill()
        child.process.wait()
        (scratch / "nobody-works-here").mkdir()
        supervisor.start(Child("worker", [sys.executable, "-c", "import time; time.sleep(600)"], scratch=scratch))
        assert list(scratch.iterdir()) == [folder]
        supervisor.revive(lambda _: None)
        assert folder.exists()

    def gone() -> bool:
        supervisor.revive(lambda _: None)
        return not folder.exists()

    until(gone)
    assert said.read_text().split() == ["here", str(folder)]


def test_waiting_for_a_child_that_ends_quotes_its_log(supervisor: Supervisor, home: Path) -> None:
    code = "import sys; [print('line', n) for n in range(30)]; sys.exit(3)"
    child = Child("agent", [sys.executable, "-c", code], is_ready=lambda: False)
    supervisor.start(child)
    with pytest.raises(EndpointUnavailable, match="agent ended with code 3 before it was ready") as caught:
        supervisor.wait_ready(child)
    told = str(caught.value)
    assert str(home / "logs" / "agent.log") in told
    assert "line 29" in told
    assert "line 17" not in told


def test_waiting_for_a_child_that_is_slow_has_an_end(supervisor: Supervisor, home: Path) -> None:
    child = Child("agent", SLEEP, is_ready=lambda: False, ready_seconds=0.3)
    supervisor.start(child)
    with pytest.raises(EndpointUnavailable, match=r"agent was not ready after 0 s; .*agent\.log is empty"):
        supervisor.wait_ready(child)


def test_a_program_that_does_not_exist_leaves_no_record(supervisor: Supervisor, home: Path) -> None:
    with pytest.raises(FileNotFoundError):
        supervisor.start(Child("agent", [str(home / "no-python")]))
    assert supervisor.children == []


def test_a_port_that_somebody_listens_on_is_refused_naming_port_purpose_and_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(AddressInUse) as caught:
            require_free("127.0.0.1", port, "the gateway")
    told = str(caught.value)
    assert f"port {port} on 127.0.0.1, wanted for the gateway, is taken by pid {os.getpid()}" in told
    assert Path(sys.executable).name in told or "pytest" in told


def test_a_port_that_was_just_given_back_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        # A connection that we close first leaves TIME_WAIT behind, which must not count as taken.
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            client.recv(1)
    require_free("127.0.0.1", port, "the gateway")
