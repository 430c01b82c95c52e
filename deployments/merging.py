"""`empelt merge`: the engine by itself, on folders of this disk."""

from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

from tasks.child import Event, run_child
from tasks.domain.errors import InputError


def merge_here(config: Path, folder: Path, *, quiet: bool, console: Console) -> tuple[dict[str, Any], str]:
    """Run the engine in a child process with a progress bar; its report, and a sentence."""
    if not config.is_file():
        raise InputError(f"{config}: no such file; expected YAML or JSON with recipe, base, instruct and tuned")
    if not isinstance(yaml.safe_load(config.read_text(encoding="utf-8")), dict):
        raise InputError(f"{config}: expected a mapping with recipe, base, instruct and tuned")
    columns = (TextColumn("merging"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet) as progress:
        bar = progress.add_task("merge", total=None)

        def on_event(event: Event) -> None:
            if event["event"] == "progress":
                progress.update(bar, completed=event["done"], total=event["total"])

        report = run_child(
            "tasks.engine", [str(config), str(folder), "--json-lines"], deadline_seconds=86400, on_event=on_event
        )
    written = report.get("bytes_written", 0)
    return report, f"{folder}: {written / 1e6:.1f} MB in {report.get('seconds', 0):.2f} s"
