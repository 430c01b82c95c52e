"""Crash points, put into a running installation from outside: nothing of this is in the product.

Python imports a module of this name by itself, if its folder is on PYTHONPATH; the matrix puts it there. And it does
nothing unless CRASH_MATRIX_AT names a file: a JSON list of rows, each with a point and a victim.

    {"row": "3", "point": "task:graft:after", "victim": "self"}

Points are ``task:<name>:before|after`` (around the body of each Prefect task in tasks/*.py) and
``write:<function>:before|after`` (around the commit of each write of the ledger). When one is reached, a mark is made
with O_EXCL, so that it fires once, written to the disk, and only then the victim is killed: this very process, or the
child of `empelt up` of that name, known by pid and start time.
"""

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

PLAN = os.environ.get("CRASH_MATRIX_AT", "")
HOME = Path(os.environ.get("EMPELT_HOME", "."))


def reach(point):
    """Called at every point; ends the victim of the row that is for it, once."""
    try:
        rows = json.loads(Path(PLAN).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return
    for row in rows:
        if row["point"] == point:
            _fire(row)


def _fire(row):
    victim = os.getpid() if row["victim"] == "self" else _child(row["victim"])
    if victim is None:  # it is away just now: the point comes by again, or the row fails
        return
    try:
        mark = os.open(f"{PLAN}.{row['row']}.fired", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    from tasks.store.identity import start_of

    command = " ".join(Path(f"/proc/{victim}/cmdline").read_text().split("\0"))
    about = {"command": command, "started": start_of(victim), "at": time.time()}
    os.write(mark, json.dumps({**row, "killer": os.getpid(), "victim_pid": victim, **about}).encode())
    os.fsync(mark)
    os.close(mark)
    os.kill(victim, signal.SIGKILL)


def _child(name):
    """The pid of a child of `empelt up`, if it is still the process that was recorded."""
    from tasks.store.identity import is_same

    for known in json.loads((HOME / "run" / "children.json").read_text(encoding="utf-8")):
        if known["name"] == name and is_same(known["pid"], known["start_time"]):
            return known["pid"]
    return None


def _around_writes(module):
    write = module.Database._write

    @contextmanager
    def watched(self):
        frame = sys._getframe(2)  # past contextlib's __enter__, to the function that writes
        name = frame.f_code.co_name
        with write(self) as connection:
            yield connection
            reach(f"write:{name}:before")
        reach(f"write:{name}:after")

    module.Database._write = watched


def _around_tasks(module):
    begin = module.Task.__init__

    @wraps(begin)
    def watched(self, fn, *args, **more):
        begin(self, fn, *args, **more)
        if fn.__module__.startswith("tasks.") and not hasattr(fn, "__crash_point__"):
            self.fn = _watched_body(fn, self.name)

    module.Task.__init__ = watched


def _watched_body(fn, name):
    @wraps(fn)
    def body(*args, **more):
        reach(f"task:{name}:before")
        result = fn(*args, **more)
        reach(f"task:{name}:after")
        return result

    body.__crash_point__ = name
    return body


WATCHED = {"tasks.store.database": _around_writes, "prefect.tasks": _around_tasks}


class _Finder(importlib.abc.MetaPathFinder):
    """Calls one of the functions above when a module has just been imported."""

    def find_spec(self, name, path, target=None):
        if name not in WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def loaded(module):
            load(module)
            WATCHED[name](module)

        spec.loader.exec_module = loaded
        return spec


if PLAN:
    sys.meta_path.insert(0, _Finder())
