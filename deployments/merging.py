"""`empelt merge`: the engine by itself, on folders of this disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tasks.child import Event, run_child
from tasks.domain.errors import InputError
from tasks.domain.words import size

DAY_SECONDS = 86_400.0


def merge_here(
    config: Path,
    folder: Path,
    *,
    quiet: bool,
    console: Console,
    also: Sequence[str] = (),
    dry_run: bool = False,
    threads: int | None = None,
    allow_foreign_parent: bool = False,
) -> tuple[dict[str, Any], str]:
    """Run the engine in a child process with a progress bar; what it reported, and the same in words.

    Args:
        config: mergekit's YAML, or a merge of roles as YAML or JSON.
        folder: The folder to be.
        quiet: Show no bar.
        console: Where the bar is drawn.
        also: Further outputs of the same models, as ``CONFIG=OUT``.
        dry_run: Only say what it would take.
        threads: All available cores by default.
        allow_foreign_parent: Merge although the weights contradict a stated parent.

    Raises:
        InputError: An `also` without ``=``.
        PipelineError: What the engine refused.
    """
    arguments = [str(config), str(folder), "--json-lines"]
    for pair in also:
        other, equals, out = pair.rpartition("=")
        if not equals or not other or not out:
            raise InputError(f"--also {pair!r}: expected CONFIG=OUT, a merge file and the folder to be made from it")
        arguments += ["--also", other, out]
    arguments += ["--dry-run"] if dry_run else []
    arguments += ["--allow-foreign-parent"] if allow_foreign_parent else []
    arguments += ["--threads", str(threads)] if threads else []
    columns = (TextColumn("merging"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    reports: list[Event] = []
    with Progress(*columns, console=console, disable=quiet or dry_run) as progress:
        bar = progress.add_task("merge", total=None)

        def on_event(event: Event) -> None:
            if event["event"] == "progress":
                progress.update(bar, completed=event["done"], total=event["total"])
            elif event["event"] == "report":
                reports.append(event)

        last = run_child("tasks.engine", arguments, deadline_seconds=DAY_SECONDS, on_event=on_event)
    if dry_run:
        return last, "\n".join(plan["text"] for plan in last["plans"])
    text = "\n".join(_in_words(report) for report in reports)
    return (reports[0] if len(reports) == 1 else {"reports": reports}), text


def _in_words(report: Event) -> str:
    written, seconds = int(report["bytes_written"]), float(report["seconds"])
    told = f"{report['out']}: {size(written)} in {seconds:.2f} s, peak {size(report['peak_rss_bytes'])}"
    if report["resumed_bytes"]:
        told += f"; {size(report['resumed_bytes'])} were there from a merge that was killed"
    return "\n".join([told, *(f"warning: {warning}" for warning in report["warnings"])])
