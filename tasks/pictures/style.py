"""One look for every plot: a colour and a mark per role, and an SVG that follows its reader's light or dark.

Colours are after Okabe and Ito, so that the colour-blind tell them apart, and the shape of a mark says the same again.
matplotlib draws with the light ones; each is then replaced by a CSS variable with a value of its own on dark paper.
"""

import re
from collections.abc import Iterable
from html import escape
from io import BytesIO
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_PX = 690
"""What Prefect's UI gives a page's column on a 1440 px wide screen; wider than the column an image is scaled down."""
PX = 0.75
"""Points in a CSS pixel: matplotlib counts points, and its SVG says so."""

GAP = "\N{EN SPACE}"
"""Between a number and a word: SVG makes one of two common spaces."""

LABELS_PX, LONGEST_NAME = 128, 17
"""Room for the names of rows, and the characters that fit into it."""

INK, MUTED, GRID, LIMIT = "#1f2430", "#5b6270", "#c6cad4", "#a8326f"
LIGHT_AND_DARK = {
    INK: ("ink", "#eceef2"),
    MUTED: ("muted", "#a3aab8"),
    GRID: ("grid", "#474d59"),
    LIMIT: ("limit", "#f08cc0"),
    "#0072b2": ("candidate", "#56b4e9"),
    "#2b2f38": ("live", "#e6e8ee"),
    "#c65a00": ("instruct", "#f0a04b"),
    "#00805f": ("tuned", "#3fd0a4"),
}
"""Colour drawn with -> name of the variable, colour on dark paper. Each reads at 4.5:1 or better on its own paper."""


class Look(NamedTuple):
    """How one role is drawn."""

    colour: str
    marker: str
    size: float
    """Points."""


TUNED_MARKERS = ("^", "v", "<", ">", "p", "h")
FONTS = "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
"""All as narrow as DejaVu Sans or narrower, by which matplotlib has laid out the text."""


def looks(roles: Iterable[str]) -> dict[str, Look]:
    """The look of each role, in the order in which they are always drawn: candidate, live, instruct, tuned by name."""
    given = set(roles)
    tuned = sorted(given - {"candidate", "live", "instruct"})
    fixed = {
        "candidate": Look("#0072b2", "o", 6.5),
        "live": Look("#2b2f38", "D", 4.6),
        "instruct": Look("#c65a00", "s", 4.8),
    }
    return {role: look for role, look in fixed.items() if role in given} | {
        role: Look("#00805f", TUNED_MARKERS[k % len(TUNED_MARKERS)], 5.4) for k, role in enumerate(tuned)
    }


def new_figure(height_px: float) -> Figure:
    """An empty figure of the page's width. Text stays text, so that it can be searched, read aloud and copied."""
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "empelt", "font.size": 9, "font.family": "DejaVu Sans"}
    )
    return Figure(figsize=(WIDTH_PX * PX / 72, height_px * PX / 72))


def panel(figure: Figure, top_px: float, tall_px: float, right_px: float, title: str) -> Axes:
    """Axes for the rows of one group, ``top_px`` below the figure's upper edge, with room for names and for values."""
    height = figure.get_figheight() * 72 / PX
    box = (LABELS_PX, height - top_px - tall_px, WIDTH_PX - LABELS_PX - right_px, tall_px)
    axes = figure.add_axes((box[0] / WIDTH_PX, box[1] / height, box[2] / WIDTH_PX, box[3] / height))
    axes.set_ylim(tall_px, 0)
    axes.set_yticks([])
    axes.set_title(title, loc="left", color=INK, fontsize=9.5, weight="bold", pad=7)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    axes.tick_params(axis="x", length=0, colors=MUTED, labelsize=8, pad=3)
    return axes


def beside(axes: Axes, y: float, name: str, said: str, colour: str) -> None:
    """The name of a row on its left and what is said of it on its right."""
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    for x, text, gap, side, ink in ((0, name, -8, "right", INK), (1, said, 10, "left", colour)):
        axes.annotate(
            text,
            (x, y),
            (gap * PX, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha=side,
            va="center",
            color=ink,
            annotation_clip=False,
        )


def verdict_colour(said: str) -> str:
    """The colour of a check's end: what blocks stands out, what decides nothing steps back."""
    return {"pass": INK, "FAIL": LIMIT}.get(said, MUTED)


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element: no prologue, no date, no ids that a second picture on the page could have."""
    out = BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"), None)
    figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue().decode()
    svg = re.sub(r' id="[a-z0-9]+(_[a-z0-9]+)+"', "", svg[svg.index("<svg") :])
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # Two decimals of a point are finer than any screen, and half the bytes. Text has at most three and stays.
    svg = re.sub(r"\d+\.\d{4,}", lambda found: f"{float(found[0]):.2f}", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    for colour, (name, _) in LIGHT_AND_DARK.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    svg = svg.replace("'DejaVu Sans'", FONTS)
    said = escape(title, quote=True)
    end = svg.index(">")
    return (
        f'{svg[:end]} role="img" aria-label="{said}"><title>{said}</title><style>{variables()}</style>{svg[end + 1 :]}'
    )


def variables() -> str:
    """The colours as CSS: dark paper where the reader's system or page asks for it, light paper in print."""
    light = "".join(f"--{name}:{colour};" for colour, (name, _) in LIGHT_AND_DARK.items())
    dark = "".join(f"--{name}:{colour};" for name, colour in LIGHT_AND_DARK.values())
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
