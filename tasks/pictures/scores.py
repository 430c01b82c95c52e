"""The first picture: every score with its 95 % interval, by kind of metric, and the gate's limits as marks."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.domain.evidence import Evidence, interval, limits, mark, score_of
from tasks.domain.gate import LOWER_IS_BETTER, Check
from tasks.domain.verdict import Row, Verdict
from tasks.pictures.style import (
    GAP,
    GRID,
    INK,
    LIMIT,
    WIDTH_PX,
    Look,
    beside,
    looks,
    new_figure,
    panel,
    to_svg,
    verdict_colour,
)

KINDS = {
    "strict": "Chat: right, and in the format that was asked for (share)",
    "in_language": "Chat: answered in the language that was asked for (share)",
    "acc": "Multiple choice: right (share)",
    "pooled": "Slices: chance-adjusted mean of several benchmarks",
    "bits_per_byte": "Text: bits per byte (fewer is better)",
}
"""Metric -> heading, in the order of the panels; a metric that is not here comes last, under its own name."""

VALUES_PX, TOP_PX, PITCH_PX, PAD_PX, HEAD_PX, AXIS_PX, LEAST_PX = 132, 34, 9.5, 9, 30, 30, 34


def draw_scores(verdict: Verdict, evidence: Evidence) -> str:
    """An SVG element: rows in the gate's order, the roles of a row below each other and always in the same order."""
    # Mostly a row has the tuned parent of its own language only; then one name and one mark serve all of them.
    tuned = max(sum(role.startswith("tuned") for role in _told(row)) for row in verdict.rows)
    look = looks(role for row in verdict.rows for role in _told(row))
    if tuned < 2:
        look = {role: looks(["tuned"])["tuned"] if role.startswith("tuned") else one for role, one in look.items()}
    names = {"tuned" if tuned < 2 and role.startswith("tuned") else role: one for role, one in look.items()}
    checks: dict[tuple[str, str], Check] = {(check.benchmark, check.metric): check for check in evidence.gate.checks}
    order = [*KINDS, *sorted({row.metric for row in verdict.rows} - set(KINDS))]
    panels = [rows for kind in order if (rows := [row for row in verdict.rows if row.metric == kind])]
    height = TOP_PX + sum(HEAD_PX + AXIS_PX + sum(map(_tall, rows)) for rows in panels)
    figure, top = new_figure(height), float(TOP_PX)
    _legend(figure, names)
    for rows in panels:
        _draw_panel(
            figure, top + HEAD_PX, [(row, checks.get((row.benchmark, row.metric))) for row in rows], look, evidence
        )
        top += HEAD_PX + sum(map(_tall, rows)) + AXIS_PX
    said = f"Scores of {', '.join(names)} on {len(verdict.rows)} benchmarks, with 95 % intervals and the gate's limits"
    return to_svg(figure, said)


def _told(row: Row) -> dict[str, float]:
    """Role -> score, of those that were scored."""
    found = {"candidate": row.score, "live": row.live, **row.parents}
    return {role: value for role, value in found.items() if value is not None}


def _tall(row: Row) -> float:
    return max(len(_told(row)) * PITCH_PX + 2 * PAD_PX, LEAST_PX)


def _legend(figure: Figure, look: Mapping[str, Look]) -> None:
    height = TOP_PX / (figure.get_figheight() * 96)
    axes = figure.add_axes((0, 1 - height, 1, height))
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH_PX)
    axes.set_ylim(TOP_PX, 0)
    x, y = 8.0, TOP_PX / 2 - 4
    for role, one in look.items():
        _point(axes, x, y, one)
        axes.text(x + 10, y, role, color=INK, va="center", weight="bold" if role == "candidate" else "normal")
        x += 30 + 6.4 * len(role) + (8 if role == "candidate" else 0)
    axes.plot([x, x], [y - 7, y + 7], color=LIMIT, linewidth=2)
    axes.text(x + 8, y, "the gate's limit", color=INK, va="center")


def _draw_panel(
    figure: Figure,
    top: float,
    rows: Sequence[tuple[Row, Check | None]],
    look: Mapping[str, Look],
    evidence: Evidence,
) -> None:
    metric = rows[0][0].metric
    axes = panel(figure, top, sum(_tall(row) for row, _ in rows), VALUES_PX, KINDS.get(metric, metric))
    y = 0.0
    for row, check in rows:
        tall = _tall(row)
        if y:
            axes.axhline(y, color=GRID, linewidth=0.8, xmin=-0.28, xmax=1.3, clip_on=False)
        said = "–" if row.score is None else f"{row.score:.3f}"
        name = f"{row.benchmark}{' *' if row.critical else ''}"
        beside(axes, y + tall / 2, name, f"{said}{GAP}{mark(row)}", verdict_colour(mark(row)))
        _draw_row(axes, row, check, y + (tall - len(_told(row)) * PITCH_PX) / 2, look, evidence)
        at = limits(check, evidence) if check else []
        for value in at:  # the one that is hardest to meet decides, so it is the bold one
            wide = 2.2 if value == at[-1] else 0.9
            axes.plot(
                [value, value], [y + 3, y + tall - 3], color=LIMIT, linewidth=wide, solid_capstyle="butt", zorder=1
            )
        y += tall
    if metric in LOWER_IS_BETTER:
        axes.margins(x=0.06)
    else:
        axes.set_xlim(-0.02, 1.02)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.50", "0.75", "1"])


def _draw_row(
    axes: Axes, row: Row, check: Check | None, top: float, look: Mapping[str, Look], evidence: Evidence
) -> None:
    told = _told(row)
    measured = {"candidate": evidence.candidate, "live": evidence.live, **evidence.parents}
    for k, role in enumerate(role for role in look if role in told):
        y, one = top + (k + 0.5) * PITCH_PX, look[role]
        score = score_of(measured.get(role), check) if check else None
        if score is not None:
            wide = 2.4 if role == "candidate" else 1.3
            axes.plot(interval(score), [y, y], color=one.colour, linewidth=wide, solid_capstyle="butt", clip_on=False)
        _point(axes, told[role], y, one)


def _point(axes: Axes, x: float, y: float, look: Look) -> None:
    axes.plot(
        [x], [y], look.marker, color=look.colour, markersize=look.size, markeredgewidth=0, zorder=3, clip_on=False
    )
