from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import procfs

FOLDER = str(Path(procfs.__file__).parent)
SLEEP = "import time; time.sleep(60)"


def wait_until(true, limit: float = 5.0) -> bool:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return bool(true())


def gone(pid: int) -> bool:
    stat = procfs.read_stat(pid)
    return stat is None or stat.state in "ZX"


def test_a_process_is_identified_by_pid_and_start_time():
    mine = procfs.read_stat(os.getpid())
    assert (mine.pid, mine.parent, mine.group) == (os.getpid(), os.getppid(), os.getpgid(0))
    assert mine.start_time == procfs.start_time(os.getpid())
    assert int(mine.start_time) > 0
    assert procfs.read_stat(2**22 + 1) is None


def test_a_group_is_counted_and_killed_with_its_grandchildren():
    script = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', '{SLEEP}']); {SLEEP}"
    leader = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    assert wait_until(lambda: len(procfs.group_members(leader.pid)) == 2)
    procfs.kill_group(leader.pid)
    assert leader.wait(5) == -9
    assert wait_until(lambda: procfs.group_members(leader.pid) == [])


def test_forks_of_forks_die_with_the_first_process():
    script = f"""
import os, sys, time
sys.path.insert(0, {FOLDER!r})
import procfs
procfs.die_with_parent_in_every_fork()
if os.fork() == 0:
    grandchild = os.fork()
    if grandchild:
        print(os.getpid(), grandchild, flush=True)
time.sleep(60)
"""
    first = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child, grandchild = (int(word) for word in first.stdout.readline().split())
    assert not gone(child)
    assert not gone(grandchild)
    first.kill()
    first.wait(5)
    assert wait_until(lambda: gone(child) and gone(grandchild))
    first.stdout.close()


def test_mapped_weights_are_named_in_maps_even_after_they_were_removed(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"x" * 4096)
    maps = procfs.map_weights(tmp_path)
    assert procfs.mapped_weights(os.getpid()) == [str(weights)]
    weights.unlink()
    assert procfs.mapped_weights(os.getpid()) == [f"{weights} (deleted)"]
    for one in maps:
        one.close()
    assert procfs.mapped_weights(os.getpid()) == []
