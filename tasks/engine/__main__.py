"""``python -m tasks.engine CONFIG OUT [--also CONFIG OUT ...]``: merges in a process of their own.

CONFIG is mergekit's YAML, or a merge of roles as JSON or YAML: ``{"recipe": {...}, "base": PATH, "instruct": PATH,
"tuned": {"eu": {"path": PATH, "parent": null}}}``, and ``"max_shard_bytes"`` if wanted. Every ``--also`` is one
more output from the same reading of the same models. Exit code 0: done. 2: refused. 130 or 143: interrupted. Nothing is
left after 2, 130 and 143; after a SIGKILL the same command goes on where it was. With ``--json-lines`` stdout has one
JSON object per line, told apart by ``event``: progress (at most ten a second), then report (one for each output), or
error; after a ``--dry-run`` one result.
"""

import argparse
import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

if __name__ == "__main__":
    from .quick_start import prepare

    prepare()

from .command_file import MergeFile, read_merge_file
from .errors import MergeError, RecipeError
from .estimate import Estimate, estimate
from .kernels.widths import load
from .merge import MergeReport, merge_configs, plan_all
from .places import places
from .quick_start import settle
from .run import Progress

_SECONDS_BETWEEN = 0.1


def _emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def _report_fields(out: Path, report: MergeReport) -> dict[str, Any]:
    fields = {**vars(report), "out": str(out)}
    fields["coefficients"] = None if report.coefficients is None else report.coefficients._asdict()
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.engine", description="Merge checkpoints into a new folder.")
    parser.add_argument("config", type=Path, help="what to merge: mergekit's YAML, or a merge of roles as JSON")
    parser.add_argument("out", type=Path, help="the folder to be; it must not exist")
    parser.add_argument(
        "--also", nargs=2, type=Path, action="append", default=[], metavar=("CONFIG", "OUT"), help="one more output"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and refuse what would fail")
    parser.add_argument("--json-lines", action="store_true", help="progress and report as JSON, one object per line")
    parser.add_argument("--threads", type=int, help="how many; all available cores by default")
    parser.add_argument(
        "--allow-foreign-parent", action="store_true", help="merge although the weights contradict a stated parent"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the merges; returns the exit code."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        wanted = _read([(options.config, options.out), *options.also], options.allow_foreign_parent)
        if not options.dry_run:
            load()
        settle()
        if options.dry_run:
            _tell_plans(wanted, options.threads, as_json=options.json_lines)
            return 0
        first = next(iter(wanted.values()))
        reports = merge_configs(
            {out: file.config for out, file in wanted.items()},
            on_progress=_Teller() if options.json_lines else None,
            max_shard_bytes=first.max_shard_bytes,
            threads=options.threads,
            labels=first.labels,
            base=first.base,
        )
    except MergeError as error:
        if options.json_lines:
            problems = [{"kind": problem.kind, "message": str(problem)} for problem in error.problems]
            _emit("error", kind=error.kind, message=str(error), problems=problems)
        else:
            print(f"{error.kind}: {error}", file=sys.stderr)
        return 2
    for out, report in reports.items():
        _tell_report(out, replace(report, coefficients=wanted[out].coefficients), as_json=options.json_lines)
    return 0


def _read(pairs: list[tuple[Path, Path]], allow_foreign_parent: bool) -> dict[Path, MergeFile]:
    wanted: dict[Path, MergeFile] = {}
    for config, out in pairs:
        if out in wanted:
            raise RecipeError(f"{out}: named for two outputs; name a folder for each")
        file = read_merge_file(config)
        allowed = file.config.allow_foreign_parent or allow_foreign_parent
        wanted[out] = file._replace(config=replace(file.config, allow_foreign_parent=allowed))
    return wanted


def _tell_plans(wanted: dict[Path, MergeFile], threads: int | None, *, as_json: bool) -> None:
    first = next(iter(wanted.values()))
    configs = {out: file.config for out, file in wanted.items()}
    plans: list[dict[str, Any]] = []
    wished = plan_all(configs, max_shard_bytes=first.max_shard_bytes, labels=first.labels, base=first.base)
    places(wished)  # refuses what is there already, and a full disk
    for out, plan in wished.items():
        told = estimate(plan, out, threads)
        text = "\n".join([str(plan), _in_words(told, out), *(f"warning: {warning}" for warning in plan.warnings)])
        plans.append({"out": str(out), **told._asdict(), "text": text})
        if not as_json:
            print(text)
    if as_json:
        _emit("result", plans=plans)


def _in_words(told: Estimate, out: Path) -> str:
    return (
        f"{out}: {told.bytes_out / 1e6:.1f} MB to write, {told.free_bytes / 1e9:.1f} GB free; about "
        f"{told.memory_bytes / 1e6:.0f} MB of buffers in {told.threads} threads; about {told.seconds:.1f} s"
    )


def _tell_report(out: Path, report: MergeReport, *, as_json: bool) -> None:
    if as_json:
        _emit("report", **_report_fields(out, report))
        return
    gigabytes = (report.bytes_read + report.bytes_written) / 1e9
    resumed = f", {report.resumed_bytes} of them from a merge that was killed" if report.resumed_bytes else ""
    print(
        f"{out}: {report.tensors} tensors, {report.bytes_written} bytes{resumed} in {report.seconds:.2f} s "
        f"({gigabytes / report.seconds:.2f} GB/s read and written), peak {report.peak_rss_bytes / 1e6:.0f} MB"
    )
    for warning in report.warnings:
        print(f"warning: {warning}")


if __name__ == "__main__":
    sys.exit(main())
