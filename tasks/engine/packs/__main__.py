"""``python -m tasks.engine.packs pack FOLDER PARENT OUT DIGEST`` or ``unpack FOLDER OUT``, in a process of its own.

stdout has one JSON object per line, told apart by ``event``: progress (at most ten a second), then report or error.
Exit code 0: done. 2: refused. 130 or 143: interrupted. Nothing is left of OUT after these two.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import MergeError
from ..run import available_threads
from .writing import pack, unpack


def _emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class _Teller:
    """Progress, thinned out."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= 0.1:
            self._last = now
            _emit("progress", done=done, total=total)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Pack or unpack; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.engine.packs", description="Pack a checkpoint.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing, unpacking = verbs.add_parser("pack"), verbs.add_parser("unpack")
    for one in (packing, unpacking):
        one.add_argument("folder", type=Path)
    packing.add_argument("parent", type=Path)
    for one in (packing, unpacking):
        one.add_argument("out", type=Path)
    packing.add_argument("digest")
    asked = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    told: dict[str, Any] = {"on_bytes": _Teller(), "threads": available_threads()}
    try:
        if asked.verb == "pack":
            report = pack(asked.folder, asked.parent, asked.out, digest=asked.digest, **told)
            _emit("report", **vars(report), ratio=report.ratio)
        else:
            _emit("report", raw_bytes=unpack(asked.folder, asked.out, **told))
    except MergeError as error:
        _emit("error", kind=error.kind, message=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
