"""Long work in a child process, with real modules: what it says, how it fails, that it keeps its deadline."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks import child
from tasks.child import run_child
from tasks.domain.errors import DiskFull, EndpointUnavailable, InputError, PipelineError, TransientError
from tasks.processes import MARK, end_orphans, recorded
from tasks.store.identity import Identity, is_same, start_of

Write = Callable[[str], str]
PREAMBLE = """
import json, os, signal, sys, time

def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the body of a program; gives the module's name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(body: str) -> str:
        (tmp_path / "a_child.py").write_text(PREAMBLE + textwrap.dedent(body))
        return "a_child"

    return write


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    assert not [p for p in psutil.Process().children(recursive=True) if p not in before]


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_last_event_is_the_result_and_progress_is_told_on_the_way(module: Write) -> None:
    name = module("""
        say("progress", done=1, total=2)
        print("a line for people")
        print("{not json")
        print('{"no": "event"}')
        say("progress", done=2, total=2)
        say("report", seconds=1.5, arguments=sys.argv[1:])
    """)
    events: list[dict[str, Any]] = []
    found = run_child(name, ["one", "--two"], deadline_seconds=60, on_event=events.append)
    assert found == {"event": "report", "seconds": 1.5, "arguments": ["one", "--two"]}
    assert [(e["event"], e.get("done")) for e in events] == [("progress", 1), ("progress", 2), ("report", None)]


def test_a_result_counts_like_a_report(module: Write) -> None:
    assert run_child(module("say('result', scores=3)"), [], deadline_seconds=60)["scores"] == 3


def test_progress_comes_while_the_child_works(module: Write, tmp_path: Path) -> None:
    go = tmp_path / "go"
    name = module(f"""
        say("progress", done=1)
        while not os.path.exists({str(go)!r}):
            time.sleep(0.01)
        say("report")
    """)
    # The child waits for what the first event causes: were events held back, this would run into the deadline.
    assert run_child(name, [], deadline_seconds=60, on_event=lambda _: go.touch())["event"] == "report"


@pytest.mark.parametrize(
    ("kind", "code", "error"),
    [
        ("ShapeMismatch", 2, InputError),
        ("DiskFull", 2, DiskFull),
        ("DiskFull", 1, DiskFull),
        ("EndpointUnavailable", 3, EndpointUnavailable),
        ("SomethingThatPasses", 3, TransientError),
    ],
)
def test_an_error_event_is_raised_as_its_kind_with_its_words(
    module: Write, kind: str, code: int, error: type[PipelineError]
) -> None:
    name = module(f"""
        say("progress", done=1)
        say("error", kind={kind!r}, message="model.norm: [16] and [32]")
        sys.exit({code})
    """)
    with pytest.raises(PipelineError, match=r"model\.norm: \[16\] and \[32\]") as caught:
        run_child(name, [], deadline_seconds=60)
    assert type(caught.value) is error
    if kind not in ("DiskFull", "EndpointUnavailable"):
        assert str(caught.value).startswith(f"{kind}: ")


def test_a_killed_child_may_be_tried_again_and_its_last_words_are_kept(module: Write) -> None:
    name = module("""
        say("progress", done=1)
        for number in range(40):
            print("line", number, "on stderr", file=sys.stderr)
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    with pytest.raises(TransientError, match="a_child ended with code -9") as caught:
        run_child(name, [], deadline_seconds=60)
    told = str(caught.value)
    assert "line 39 on stderr" in told
    assert "line 24 on stderr" not in told


def test_a_traceback_is_quoted(module: Write) -> None:
    with pytest.raises(TransientError, match="code 1 and no result") as caught:
        run_child(module("raise RuntimeError('torch is not amused')"), [], deadline_seconds=60)
    assert "RuntimeError: torch is not amused" in str(caught.value)


def test_a_child_that_ends_well_without_a_result_has_failed(module: Write) -> None:
    with pytest.raises(TransientError, match=r"ended with code 0 and no result; it said:\s+\(nothing\)"):
        run_child(module("say('progress', done=1)"), [], deadline_seconds=60)


def test_a_result_followed_by_a_crash_is_no_result(module: Write) -> None:
    with pytest.raises(TransientError, match="code 5"):
        run_child(module("say('report'); sys.exit(5)"), [], deadline_seconds=60)


def test_much_on_stderr_does_not_stop_the_child(module: Write) -> None:
    # A pipe holds 64 KiB; a child whose stderr nobody reads would stand still.
    name = module("for _ in range(20000): print('y' * 99, file=sys.stderr)")
    with pytest.raises(TransientError, match=r"y{99}"):
        run_child(name, [], deadline_seconds=60)


def slow(module: Write, *, before: str = "") -> str:
    return module(f"""
        {before}
        say("progress", pid=os.getpid())
        while True:
            time.sleep(0.05)
    """)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("", id="that ends on SIGTERM"),
        pytest.param("signal.signal(signal.SIGTERM, signal.SIG_IGN)", id="that ignores SIGTERM"),
    ],
)
def test_a_child_that_overruns_its_deadline_is_ended(
    module: Write, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 1.0)
    pids: list[int] = []
    began = time.monotonic()
    with pytest.raises(TransientError, match="a_child did not end within 5 s and was stopped"):
        run_child(slow(module, before=before), [], deadline_seconds=5, on_event=lambda e: pids.append(e["pid"]))
    assert time.monotonic() - began < 20
    assert pids
    assert gone(pids[0])


def test_a_child_that_is_told_to_end_and_has_a_result_has_a_result(module: Write) -> None:
    name = module("""
        signal.signal(signal.SIGTERM, lambda *_: (say("report", late=True), sys.exit(0)))
        while True:
            time.sleep(0.05)
    """)
    assert run_child(name, [], deadline_seconds=5)["late"] is True


def test_an_exception_while_listening_ends_the_child(module: Write) -> None:
    pids: list[int] = []

    def listen(event: dict[str, Any]) -> None:
        pids.append(event["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child(slow(module), [], deadline_seconds=60, on_event=listen)
    assert gone(pids[0])


def test_a_child_is_in_our_process_group_so_that_it_goes_with_a_cancelled_run(module: Write) -> None:
    name = module("say('report', group=os.getpgid(0))")
    assert run_child(name, [], deadline_seconds=60)["group"] == os.getpgid(0)


def test_two_children_at_once_keep_their_events_apart(module: Write) -> None:
    name = module("say('report', me=sys.argv[1])")
    found: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda me=me: found.update({me: run_child(name, [me], deadline_seconds=60)["me"]}))
        for me in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": "a", "b": "b"}


def test_a_child_uses_one_thread_unless_told_otherwise(module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    name = module("say('report', threads=os.environ['OMP_NUM_THREADS'])")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run_child(name, [], deadline_seconds=60)["threads"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run_child(name, [], deadline_seconds=60)["threads"] == "7"


def test_a_module_that_does_not_exist_is_said_so() -> None:
    with pytest.raises(TransientError, match="No module named a_module_that_nobody_wrote"):
        run_child("a_module_that_nobody_wrote", [], deadline_seconds=60)


# --- heartbeats, and everything below a child --------------------------------------------------------------------------
def test_a_child_that_says_nothing_is_ended_and_one_that_goes_on_speaking_is_not(module: Write) -> None:
    speaking = module("""
        for number in range(30):
            say("progress", done=number)
            time.sleep(0.1)
        say("report")
    """)
    assert run_child(speaking, [], deadline_seconds=60, silence_seconds=1.5)["event"] == "report"
    with pytest.raises(TransientError, match="a_child said nothing for 2 s and was stopped"):
        run_child(slow(module), [], deadline_seconds=60, silence_seconds=2)


GRANDCHILD = """
    import subprocess
    below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    say("progress", pid=below.pid)
"""


def test_what_a_child_started_ends_with_it(module: Write) -> None:
    pids: list[int] = []
    name = module(GRANDCHILD + '    say("report")\n')
    run_child(name, [], deadline_seconds=60, on_event=lambda event: pids.append(event.get("pid", 0)))
    assert gone(pids[0])


def test_what_a_child_started_does_not_keep_an_overrun_deadline_waiting(module: Write) -> None:
    pids: list[int] = []
    # It holds the child's stdout: were it left alone, reading would never come to an end.
    name = module(GRANDCHILD + "    time.sleep(300)\n")
    with pytest.raises(TransientError, match="did not end within 5 s"):
        run_child(name, [], deadline_seconds=5, on_event=lambda event: pids.append(event["pid"]))
    assert gone(pids[0])


def test_a_child_is_on_record_while_it_runs_by_pid_and_start(module: Write, tmp_path: Path) -> None:
    records, seen = tmp_path / "records", list[dict[str, Any]]()

    def look(event: dict[str, Any]) -> None:
        seen.extend(json.loads(path.read_text()) for path in records.glob("*.json"))
        seen[-1]["said"] = event["pid"]
        assert is_same(*seen[-1]["child"])

    run_child(module("say('report', pid=os.getpid())"), [], deadline_seconds=60, records=records, on_event=look)
    assert [(told["what"], told["child"][0], told["master"][0]) for told in seen] == [
        ("a_child", seen[0]["said"], os.getpid())
    ]
    assert list(records.iterdir()) == []


MASTER = """
import sys
from pathlib import Path
from tasks.child import run_child
run_child("a_child", [], deadline_seconds=300, records=Path(sys.argv[1]), on_event=lambda e: print(e["pid"], flush=True))
"""


def test_a_killed_master_leaves_no_child_and_the_next_to_look_ends_what_is_below(module: Write, tmp_path: Path) -> None:
    records = tmp_path / "records"
    module("say('progress', pid=os.getpid())\n" + textwrap.dedent(GRANDCHILD) + "time.sleep(300)\n")
    path = os.pathsep.join([str(tmp_path), str(Path(child.__file__).parents[1])])
    command = [sys.executable, "-c", MASTER, str(records)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as master:
        assert master.stdout is not None
        tied, below = int(master.stdout.readline()), int(master.stdout.readline())
        assert end_orphans(records) == []  # its master lives
        assert not gone(tied)
        master.kill()
        master.wait()
        deadline = time.monotonic() + 20
        while not gone(tied):
            assert time.monotonic() < deadline, "the kernel did not end the child with its master"
            time.sleep(0.05)
        assert not gone(below)
        assert end_orphans(records) == [f"a_child (pid {below})"]
    assert gone(below)
    assert list(records.iterdir()) == []


def test_a_record_whose_pid_was_given_to_somebody_else_ends_nobody(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        before = [stranger.pid, "of-an-earlier-boot:12"]
        told = {"what": "x", "mark": "m", "child": before, "master": before}
        (tmp_path / "m.json").write_text(json.dumps(told))
        assert end_orphans(tmp_path) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_record_that_a_power_cut_left_empty_stops_no_watch(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("")
    (tmp_path / "b.json").write_text('{"what": "a mer')
    assert end_orphans(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def merging() -> Iterator[subprocess.Popen[bytes]]:
    """A child at work, as this process would have started it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], env={**os.environ, MARK: "m"})
    yield process
    process.kill()
    process.wait()


def test_a_step_of_the_clock_does_not_end_a_running_merge(
    merging: subprocess.Popen[bytes], tmp_path: Path, step_clock: Callable[[float], None]
) -> None:
    child = Identity(merging.pid, start_of(merging.pid) or "")
    with recorded(tmp_path, child, "m", "a merge"):
        step_clock(3600)
        assert end_orphans(tmp_path) == []
        assert merging.poll() is None
        assert is_same(*child)


def test_a_record_of_an_earlier_version_ends_nobody_while_its_master_may_live(
    merging: subprocess.Popen[bytes], tmp_path: Path, step_clock: Callable[[float], None]
) -> None:
    mine, child = psutil.Process(), psutil.Process(merging.pid)
    told = {"what": "a merge", "mark": "m", "child": [child.pid, child.create_time()]}
    (tmp_path / "m.json").write_text(json.dumps({**told, "master": [mine.pid, mine.create_time()]}))
    step_clock(3600)
    assert end_orphans(tmp_path, grace_seconds=0) == []
    assert merging.poll() is None
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()  # nothing has its pid now
    (tmp_path / "m.json").write_text(json.dumps({**told, "master": [gone.pid, 12.5]}))
    assert end_orphans(tmp_path) == [f"a merge (pid {merging.pid})"]


SECRETS = {
    "EMPELT_HUB_TOKEN": "hf_canary",
    "EMPELT_HUB_TOKEN_FILE": "/run/secrets/canary",
    "EMPELT_LEDGER_URL": "postgresql://canary@db/ledger",
    "EMPELT_PREFECT_AUTH": "admin:canary",
    "EMPELT_WEBHOOK_SECRET": "canary",
    "EMPELT_DB_PASSWORD": "canary",
    "EMPELT_API_KEY": "canary",
    "HF_TOKEN": "hf_canary",
    "HUGGING_FACE_HUB_TOKEN": "hf_canary",
    "HF_TOKEN_PATH": "/root/canary",
    "PREFECT_API_KEY": "canary",
    "PREFECT_API_AUTH_STRING": "admin:canary",
    "PREFECT_CLIENT_CUSTOM_HEADERS": '{"x": "canary"}',
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://u:canary@db/prefect",
    "AWS_SECRET_ACCESS_KEY": "canary",
    "OPENAI_API_KEY": "canary",
    "PGPASSWORD": "canary",
    "HTTPS_PROXY": "http://user:canary@proxy:3128",
}
KEPT = {
    "EMPELT_INSTANCE": "of this home",
    "CUDA_VISIBLE_DEVICES": "0",
    "LD_LIBRARY_PATH": "/opt/libraries",
    "TOKENIZERS_PARALLELISM": "false",
    "EMPELT_HOME": "/srv/empelt",
}


def test_a_child_inherits_no_secrets_and_what_it_needs(module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SECRETS, **KEPT}.items():
        monkeypatch.setenv(name, value)
    dumps = module("say('report', environment=dict(os.environ), file=open('/proc/self/environ').read())")
    told = run_child(dumps, [], deadline_seconds=60)
    assert [name for name, value in told["environment"].items() if "canary" in value] == []
    assert "canary" not in told["file"]
    assert KEPT.items() <= told["environment"].items()
    assert told["environment"]["PATH"] == os.environ["PATH"]
    assert told["environment"]["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
    told = run_child(dumps, [], deadline_seconds=60, told={"EMPELT_API_KEY": "a canary of its own"})
    assert [name for name, value in told["environment"].items() if "canary" in value] == ["EMPELT_API_KEY"]
