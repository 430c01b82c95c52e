"""The parts of an insight as rows of tables, in words: for markdown, and for whatever shows no pictures."""

from collections.abc import Sequence
from typing import Any

from tasks.domain.cost import StageCost
from tasks.domain.flips import Lost
from tasks.domain.insight import Insight
from tasks.domain.matrix import Against, Cell, at, grid, references
from tasks.domain.report_text import NARROW, markdown_table, number, plain
from tasks.domain.trend import TrendPoint

Rows = list[dict[str, Any]]
SHOWN = 20
"""Lost items on a page."""

AGAINST_CAPTION = (
    "Difference to each reference with its one-sided 95 % bounds, item by item where both were asked the same; positive"
    " is better, for bits per byte too."
)
LOST_CAPTION = (
    "Items that the candidate has wrong and a reference right, worst first: known by most references, critical slices"
    " before others."
)


def matrix_rows(cells: Sequence[Cell]) -> Rows:
    """Languages by capabilities: score and result of each check."""
    languages, capabilities, by_place = grid(tuple(cells))
    return [
        {
            "": language,
            **{
                name: "; ".join(_cell(cell) for cell in by_place.get((language, name), [])) or "–"
                for name in capabilities
            },
        }
        for language in languages
    ]


def against_rows(cells: Sequence[Cell]) -> Rows:
    """One row a check, one column a reference."""
    roles = references(tuple(cells))
    return [
        {
            "benchmark": f"{cell.check.benchmark}{' *' if cell.check.critical else ''}",
            "score (95 %)": _interval(cell),
            **{role: _difference(one) if (one := at(cell, role)) else "–" for role in roles},
            "": cell.end,
        }
        for cell in cells
    ]


def lost_rows(lost: Sequence[Lost]) -> Rows:
    """One row an item: who knew it, and both answers."""
    return [
        {
            "item": f"{one.benchmark} {one.item_id}",
            "asked": (one.question or "–") + (f" (right: {one.gold})" if one.gold else ""),
            "known by": ", ".join(one.known_by),
            "answered before": one.before.strip() or "–",
            "candidate": one.after.strip() or "–",
        }
        for one in lost[:SHOWN]
    ]


def cost_rows(costs: Sequence[StageCost]) -> Rows:
    """One row a stage."""
    return [
        {
            "stage": one.words,
            "time": one.took,
            "requests": "–" if one.requests is None else f"{one.requests:,}",
            "": one.said,
        }
        for one in costs
    ]


def trend_rows(points: Sequence[TrendPoint]) -> Rows:
    """One row a release, the newest last."""
    names = list(dict.fromkeys(score.benchmark for point in points for score in point.scores))
    return [
        {
            "release": point.release,
            "verdict": point.outcome,
            **{
                name: next((number(s.value, s.stderr) for s in point.scores if s.benchmark == name), "–")
                for name in names
            },
        }
        for point in points
    ]


def first_lines(more: Insight) -> list[str]:
    """Markdown of what is asked first: what an undecided verdict still needs, the matrix, the references."""
    lines: list[str] = []
    if more.needed:
        lines += ["## What it would take to decide", "", *(f"- {plain(one.sentence)}" for one in more.needed), ""]
    if more.cells:
        lines += ["## Languages by slices", "", *markdown_table(matrix_rows(more.cells)), ""]
        lines += ["## Against each reference", "", *markdown_table(against_rows(more.cells)), "", AGAINST_CAPTION, ""]
    return lines


def last_lines(more: Insight) -> list[str]:
    """Markdown of what is looked up: lost items, cost, the releases before."""
    lines: list[str] = []
    if more.lost:
        lines += ["## Worst lost items", "", *markdown_table(lost_rows(more.lost)), "", LOST_CAPTION, ""]
    if more.costs:
        lines += ["## What it cost", "", *markdown_table(cost_rows(more.costs)), ""]
    if len(more.trend) > 1:
        lines += ["## Releases so far", "", *markdown_table(trend_rows(more.trend)), ""]
    return lines


def _cell(cell: Cell) -> str:
    return f"{number(cell.score)} {cell.end}"


def _interval(cell: Cell) -> str:
    if cell.score is None or cell.interval is None:
        return "unscored"
    return f"{cell.score:.3f} ({cell.interval.low:.3f}{NARROW}to{NARROW}{cell.interval.high:.3f})"


def _difference(one: Against) -> str:
    limit = "" if one.limit is None else f", limit {one.limit:+.3g}"
    return f"{one.gain:+.3f} ({one.low:+.3f}{NARROW}to{NARROW}{one.high:+.3f}){limit}"
