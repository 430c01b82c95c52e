"""The third picture: the critical slices of a target's candidates, release by release."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from tasks.domain.trend import TrendPoint
from tasks.pictures.style import GRID, INK, LIMIT, MUTED, WIDTH_PX, beside, looks, new_figure, panel, to_svg

VALUES_PX, ROW_PX, HEAD_PX, AXIS_PX, TOP_PX = 132, 62, 30, 34, 4
LONGEST_RELEASE = 18
"""Characters of a release's name below the axis; the table beside the picture has all of it."""


def draw_trend(points: Sequence[TrendPoint]) -> str | None:
    """An SVG element; None with fewer than two releases, which are no trend."""
    names = list(dict.fromkeys((score.benchmark, score.metric) for point in points for score in point.scores))
    if len(points) < 2 or not names:
        return None
    figure = new_figure(TOP_PX + HEAD_PX + len(names) * ROW_PX + AXIS_PX)
    top = float(TOP_PX + HEAD_PX)
    for k, name in enumerate(names):
        title = "Candidates by release, with 95 % intervals" if k == 0 else ""
        axes = panel(figure, top + 6, ROW_PX - 12, VALUES_PX, title)
        _draw_slice(axes, points, name)
        _name_releases(axes, points if k == len(names) - 1 else [])
        top += ROW_PX
    return to_svg(figure, f"Scores of {len(points)} releases' candidates on {len(names)} benchmarks")


def _draw_slice(axes: Axes, points: Sequence[TrendPoint], name: tuple[str, str]) -> None:
    look = looks(["candidate"])["candidate"]
    found = [
        (at, point, score)
        for at, point in enumerate(points)
        for score in point.scores
        if (score.benchmark, score.metric) == name
    ]
    values = [score.value for _, _, score in found]
    reach = max([1.96 * score.stderr for _, _, score in found] + [1e-3])
    low, high = min(values) - 1.2 * reach, max(values) + 1.2 * reach
    axes.set_ylim(low, high)
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.grid(visible=False)
    axes.axhline(values[-1], color=GRID, linewidth=0.8)
    axes.plot([at for at, _, _ in found], values, color=look.colour, linewidth=1.2, alpha=0.6)
    for at, point, score in found:
        half = 1.96 * score.stderr
        axes.plot([at, at], [score.value - half, score.value + half], color=look.colour, linewidth=1.6)
        face, edge = ("none", LIMIT) if point.outcome == "rejected" else (look.colour, look.colour)
        face = "none" if point.outcome == "undecided" else face
        axes.plot([at], [score.value], look.marker, color=edge, markerfacecolor=face, markersize=look.size)
    first, last = found[0][2].value, found[-1][2].value
    beside(axes, (low + high) / 2, name[0], f"{last:.3f} ({last - first:+.3f})", INK)


def _name_releases(axes: Axes, points: Sequence[TrendPoint]) -> None:
    room = max(1, round(len(points) * 17 * 6 / (WIDTH_PX - 128 - VALUES_PX)))
    shown = [(at, point) for at, point in enumerate(points) if at % room == 0 or at == len(points) - 1]
    # The end of a name tells releases apart.
    cut = [f"…{p.release[1 - LONGEST_RELEASE :]}" if len(p.release) > LONGEST_RELEASE else p.release for _, p in shown]
    axes.set_xticks([at for at, _ in shown], cut)
    axes.tick_params(axis="x", length=0, colors=MUTED, labelsize=8, pad=8)
