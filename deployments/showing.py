"""Figures and tables as people read them in a terminal."""

from collections.abc import Iterable, Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

WIDTH = 160


def human_bytes(count: int | None) -> str:
    """``5.2 MB``; ``unknown`` for None, which is not 0."""
    if count is None:
        return "unknown"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> str:
    """A table as text; cells are shown as they are, whatever brackets they hold."""
    console = Console(record=True, width=WIDTH, file=StringIO())
    shown = Table(*columns, title=title or None, title_justify="left", title_style="bold")
    for row in rows:
        shown.add_row(*(str(cell).replace("[", "\\[") for cell in row))
    console.print(shown, highlight=False)
    return console.export_text().rstrip("\n")
