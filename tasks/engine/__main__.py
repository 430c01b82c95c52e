"""``python -m tasks.engine CONFIG.json OUT [--json-lines]``: one merge in a process of its own.

CONFIG.json: ``{"recipe": {...}, "base": PATH, "instruct": PATH, "tuned": {"eu": {"path": PATH, "parent": null}}}``, and
``"max_shard_bytes"`` if wanted. Exit code 0: done. 2: refused. 130 or 143: interrupted. Nothing is left after 2, 130
and 143. With ``--json-lines`` stdout has one JSON object per line, told apart by ``event``: progress (at most ten a
second), then report or error.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from .errors import MergeError, RecipeError
from .merge import MergeReport, TunedPaths, merge
from .plan import DEFAULT_MAX_SHARD_BYTES
from .recipe import Recipe, parse_recipe
from .stream import Progress

_SECONDS_BETWEEN = 0.1


class MergeFile(NamedTuple):
    """CONFIG.json, understood."""

    recipe: Recipe
    base: Path
    instruct: Path
    tuned: dict[str, TunedPaths]
    max_shard_bytes: int


def read_merge_file(path: Path) -> MergeFile:
    """Read and check CONFIG.json.

    Raises:
        RecipeError: The file is missing or no JSON, a key is unknown or missing, a value has the wrong form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as JSON: {error}") from error
    _expect(content, str(path), required={"recipe", "base", "instruct", "tuned"}, optional={"max_shard_bytes"})
    _expect(content["tuned"], f"{path}: tuned", required=set(), optional=None)
    tuned = {}
    for language, source in content["tuned"].items():
        where = f"{path}: tuned.{language}"
        _expect(source, where, required={"path"}, optional={"parent"})
        parent = source.get("parent")
        tuned[language] = TunedPaths(
            _path(source["path"], f"{where}.path"), None if parent is None else _path(parent, f"{where}.parent")
        )
    size = content.get("max_shard_bytes", DEFAULT_MAX_SHARD_BYTES)
    if type(size) is not int or size <= 0:
        raise RecipeError(f"{path}: max_shard_bytes is {size!r}, expected a number of bytes above 0")
    return MergeFile(
        parse_recipe(content["recipe"], f"{path}: recipe"),
        _path(content["base"], f"{path}: base"),
        _path(content["instruct"], f"{path}: instruct"),
        tuned,
        size,
    )


def _expect(value: object, where: str, *, required: set[str], optional: set[str] | None) -> None:
    """A mapping with these keys; ``optional=None`` allows any."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, found {value!r}")
    unknown = set() if optional is None else set(value) - required - optional
    missing = required - set(value)
    if unknown or missing:
        known = sorted(required | (optional or set()))
        raise RecipeError(f"{where}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}; known are {known}")


def _path(value: object, where: str) -> Path:
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{where}: {value!r} is no path; expected a string")
    return Path(value)


def _emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def _report_fields(report: MergeReport) -> dict[str, Any]:
    fields = {**vars(report), "coefficients": report.coefficients._asdict()}
    return fields | {"files": {name: digest._asdict() for name, digest in report.files.items()}}


class _Teller:
    """Progress as JSON lines, thinned out; the last one always comes through."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN or progress.done_bytes == progress.total_bytes:
            self._last = now
            _emit("progress", done=progress.done_bytes, total=progress.total_bytes, tensor=progress.tensor)


def _leave(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that the temporary folder goes; a second signal must not cut that short."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Run one merge; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tasks.engine", description="Merge checkpoints into a new folder.")
    parser.add_argument("config", type=Path, help="what to merge, as JSON")
    parser.add_argument("out", type=Path, help="the folder to be; it must not exist")
    parser.add_argument("--json-lines", action="store_true", help="progress and report as JSON, one object per line")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        wanted = read_merge_file(options.config)
        report = merge(
            wanted.recipe,
            base=wanted.base,
            instruct=wanted.instruct,
            tuned=wanted.tuned,
            out=options.out,
            on_progress=_Teller() if options.json_lines else None,
            max_shard_bytes=wanted.max_shard_bytes,
        )
    except MergeError as error:
        if options.json_lines:
            problems = [{"kind": problem.kind, "message": str(problem)} for problem in error.problems]
            _emit("error", kind=error.kind, message=str(error), problems=problems)
        else:
            print(f"{error.kind}: {error}", file=sys.stderr)
        return 2
    if options.json_lines:
        _emit("report", **_report_fields(report))
    else:
        gigabytes = (report.bytes_read + report.bytes_written) / 1e9
        print(
            f"{options.out}: {report.tensors} tensors, {report.bytes_written} bytes in {report.seconds:.2f} s "
            f"({gigabytes / report.seconds:.2f} GB/s read and written), peak {report.peak_rss_bytes / 1e6:.0f} MB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
