"""`empelt merge`: the engine by itself, on folders of this disk."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
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
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{config}: neither YAML nor JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{config}: expected a mapping with recipe, base, instruct and tuned")
    columns = (TextColumn("merging"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet) as progress:
        bar = progress.add_task("merge", total=None)

        def on_event(event: Event) -> None:
            if event["event"] == "progress":
                progress.update(bar, completed=event["done"], total=event["total"])

        report = _merge(config, content, [str(folder), "--json-lines"], on_event)
    written = report.get("bytes_written", 0)
    return report, f"{folder}: {written / 1e6:.1f} MB in {report.get('seconds', 0):.2f} s"


def _merge(config: Path, content: dict[str, Any], arguments: list[str], on_event: Callable[[Event], None]) -> Event:
    with TemporaryDirectory(prefix="empelt-merge-") as scratch:
        as_json = Path(scratch) / config.name  # the engine reads JSON only
        as_json.write_text(json.dumps(content, default=str), encoding="utf-8")
        try:
            return run_child("tasks.engine", [str(as_json), *arguments], deadline_seconds=86400, on_event=on_event)
        except InputError as error:
            raise InputError(str(error).replace(str(as_json), str(config))) from error
