"""A process that supervises, for a test that kills it: ``python supervised.py HOME`` tells two pids and waits.

Its child starts a process in a session of its own, as a worker starts a flow run.
"""

import sys
import time
from pathlib import Path

from deployments.supervisor import Child, Supervisor

BODY = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
half = pathlib.Path(sys.argv[1] + ".half")
half.write_text(str(child.pid))
half.rename(sys.argv[1])
time.sleep(600)
"""


def with_grandchild(name: str, told: Path) -> Child:
    """A child that writes the pid of what it has started to ``told``."""
    return Child(name, [sys.executable, "-c", BODY, str(told)], is_ready=told.exists, ready_seconds=60)


if __name__ == "__main__":
    home = Path(sys.argv[1])
    supervisor = Supervisor(home)
    worker = with_grandchild("worker", home / "grandchild")
    supervisor.start(worker)
    supervisor.wait_ready(worker)
    assert worker.process is not None
    print(worker.process.pid, (home / "grandchild").read_text(), flush=True)
    time.sleep(600)
