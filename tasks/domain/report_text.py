"""Words, numbers and tables as markdown shows them. Pure text."""

from collections.abc import Sequence
from typing import Any

NARROW = "\N{NO-BREAK SPACE}"


def number(value: float | None, stderr: float | None = None) -> str:
    """``0.534 ± 0.028`` that does not break over lines; a dash for what was not scored."""
    if value is None:
        return "–"
    return f"{value:.3f}" if stderr is None else f"{value:.3f}{NARROW}±{NARROW}{stderr:.3f}"


def markdown_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows as a markdown table; the columns are those of the first row."""
    columns = list(rows[0])
    return [table_line(columns), table_line(["---"] * len(columns))] + [
        table_line([row.get(c, "") for c in columns]) for row in rows
    ]


def plain(text: str) -> str:
    """Text that markdown shows as it is: no HTML, no code, no links or images, on one line."""
    for character in "\\`*[]":
        text = text.replace(character, f"\\{character}")
    # Only these end a line in markdown; other white space stays, since numbers are held together by it.
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "\n").split("\n"))


def table_line(cells: Sequence[Any]) -> str:
    """One row of a markdown table."""
    return f"| {' | '.join(plain(str(cell)).replace('|', '/') for cell in cells)} |"
