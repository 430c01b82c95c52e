"""``python -m tasks.engine.adapt CONFIG OUT --rank R --base-name NAME``: the language part, in a process of its own.

CONFIG is what ``python -m tasks.engine`` takes. stdout has one JSON object per line, told apart by ``event``: progress,
then report or error. Exit code 0: done. 2: refused. 130 or 143: interrupted. Nothing is left of OUT after these.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from .adapter import AdapterReport, extract
from .command_file import read_merge_file
from .errors import MergeError
from .kernels.widths import load
from .merge import peak_rss_bytes
from .run import Progress


def _emit(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def _progress(progress: Progress) -> None:
    _emit("progress", done=progress.done_bytes, total=progress.total_bytes, tensor=progress.tensor)


def _leave(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that the temporary folder goes; a second signal must not cut that short."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Write the adapter; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.engine.adapt", description="The language part as an adapter."
    )
    parser.add_argument("config", type=Path, help="what is merged, with instruct weight 1")
    parser.add_argument("out", type=Path, help="the folder to be; it must not exist")
    parser.add_argument("--rank", type=int, required=True, help="of every module")
    parser.add_argument("--carry", choices=["layers", "input"], default="input", help="what is carried")
    parser.add_argument("--base-name", required=True, help="what the adapter calls the model that it is for")
    asked = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        load()
        file = read_merge_file(asked.config)
        named = {"carried": asked.carry, "base_name": asked.base_name}
        report = extract(file, asked.out, asked.rank, on_progress=_progress, **named)
    except MergeError as error:
        _emit("error", kind=error.kind, message=str(error))
        return 2
    _emit("report", **_fields(asked.out, asked.carry, report))
    return 0


def _fields(out: Path, carry: str, report: AdapterReport) -> dict[str, Any]:
    """As a merge's report has them, and what the rank keeps."""
    files = {name: digest._asdict() for name, digest in report.files.items()}
    energies = [one._asdict() for one in report.tensors]
    return {
        "out": str(out),
        "seconds": report.seconds,
        "peak_rss_bytes": peak_rss_bytes(),
        "bytes_written": sum(digest.size for digest in report.files.values()),
        "files": files,
        "coefficients": {"a": 1.0, "b": report.coefficients},
        "warnings": list(report.warnings),
        "adapter": {
            "rank": report.rank,
            "carry": carry,
            "parameters": report.parameters,
            "carried": report.carried,
            "kept": report.kept,
            "tensors": energies,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
