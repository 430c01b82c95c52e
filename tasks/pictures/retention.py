"""The second picture: how much of its parents the candidate kept, with the least that the gate lets through."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from tasks.domain.evidence import Kept, mark
from tasks.domain.verdict import Verdict
from tasks.pictures.style import GAP, INK, LIMIT, beside, looks, new_figure, panel, to_svg, verdict_colour

VALUES_PX, ROW_PX, HEAD_PX, AXIS_PX, TOP_PX = 284, 26, 34, 26, 4
SHOWN = (0.0, 1.2)
"""What lies outside is drawn to the edge, and told as a number."""
HEADS = {
    "score": "Kept of the instruct parent's score",
    "gain": "Retention: kept of what the tuned parent gains on the instruct parent",
}


def draw_retention(verdict: Verdict, bars: Sequence[Kept]) -> str | None:
    """An SVG element; None if there are no bars, since the gate compares with no parent that was measured."""
    groups = [group for of in HEADS if (group := [bar for bar in bars if bar.of == of])]
    if not groups:
        return None
    ends = {(row.benchmark, row.metric): mark(row) for row in verdict.rows}
    figure = new_figure(TOP_PX + sum(HEAD_PX + len(group) * ROW_PX + AXIS_PX for group in groups))
    top = float(TOP_PX)
    for group in groups:
        axes = panel(figure, top + HEAD_PX, len(group) * ROW_PX, VALUES_PX, HEADS[group[0].of])
        axes.set_xlim(*SHOWN)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        for k, bar in enumerate(group):
            y, end = (k + 0.5) * ROW_PX, ends.get((bar.benchmark, bar.metric), "")
            said = f"{bar.share:.0%} ({bar.low:.0%} to {bar.high:.0%})"
            if bar.limit is not None:
                said += f", limit {bar.limit:.0%}{GAP}{end}"
            beside(axes, y, bar.benchmark, said, INK if bar.limit is None else verdict_colour(end))
            _draw_bar(axes, y, bar)
        top += HEAD_PX + len(group) * ROW_PX + AXIS_PX
    return to_svg(figure, f"What the candidate kept of its parents on {len(bars)} benchmarks, with the gate's limits")


def _draw_bar(axes: Axes, y: float, bar: Kept) -> None:
    colour = next(iter(looks([bar.parent]).values())).colour
    axes.barh(y, _within(bar.share), height=0.5 * ROW_PX, color=colour, alpha=0.45, linewidth=0)
    bounds = [_within(bar.low), _within(bar.high)]
    axes.plot(bounds, [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
    if bar.limit is not None and SHOWN[0] <= bar.limit <= SHOWN[1]:
        ends = [y - 0.42 * ROW_PX, y + 0.42 * ROW_PX]
        axes.plot([bar.limit] * 2, ends, color=LIMIT, linewidth=2, solid_capstyle="butt")


def _within(share: float) -> float:
    return min(max(share, SHOWN[0]), SHOWN[1])
