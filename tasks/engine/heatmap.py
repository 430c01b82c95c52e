"""Where in a model two checkpoints differ: kinds of tensors by layers, as numbers and as a PNG.

A cell is |A - B| / |A| of all tensors of one kind in one layer (the experts of a mixture are one cell). Colours go by
the square root, so that a head that differs ten times as much does not make all layers look alike; darker is farther.
"""

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .diff import Diff, TensorDiff
from .errors import WriteError
from .sampling import place_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, MUTED, BROKEN = "#ffffff", "#1f2430", "#5b6270", "#a8326f"
SCALE = ("#e7f0f6", "#a9d3ec", "#56a8d8", "#0072b2", "#00395a")
"""One hue from pale to dark: the order is seen by the colour-blind, and in grey."""
ROW_PX, CELL_PX, BAR_PX, LETTER_PX = 26, 46, 16, 6.3
MOST_NUMBERED = 20
"""Layers up to which the cells are wide enough for their numbers."""
_NARROW_PX = 960
"""Width of all layers together where there are more."""


@dataclass(frozen=True)
class Grid:
    """A model's relative distances, laid out."""

    kinds: tuple[str, ...]
    """Rows: matrices first, then norms and biases."""
    layers: tuple[int, ...]
    """Columns."""
    cells: tuple[tuple[float | None, ...], ...]
    """Row by row: |A - B| / |A|. None where a layer has no such tensor; infinite where only |A| is 0."""
    outside: dict[str, float]
    """The same of tensors that belong to no layer: embeddings, the last norm, the head."""

    @property
    def largest(self) -> float:
        """The largest finite value; 0 if there is none."""
        every = [*(cell for row in self.cells for cell in row if cell is not None), *self.outside.values()]
        return max((value for value in every if math.isfinite(value)), default=0.0)


def grid_of(found: Diff) -> Grid:
    """Lay the tensors of a comparison out by kind and layer."""
    members: dict[tuple[str, int | None], list[TensorDiff]] = defaultdict(list)
    flat: dict[str, bool] = {}
    for tensor in found.tensors:
        place = place_of(tensor.name)
        members[place.kind, place.layer].append(tensor)
        flat[place.kind] = len(tensor.shape) < 2
    kinds = sorted({kind for kind, layer in members if layer is not None}, key=lambda kind: (flat[kind], kind))
    layers = sorted({layer for _, layer in members if layer is not None})
    single = [kind for kind, layer in members if layer is None]
    return Grid(
        kinds=tuple(_short(kinds)),
        layers=tuple(layers),
        cells=tuple(tuple(_relative(members.get((kind, layer), ())) for layer in layers) for kind in kinds),
        outside={
            name: value
            for name, kind in zip(_short(single), single, strict=True)
            if (value := _relative(members[kind, None])) is not None
        },
    )


def shade_of(value: float, largest: float) -> float:
    """How dark a value is drawn, 0 to 1."""
    return math.sqrt(min(value, largest) / largest) if largest else 0.0


def percent(value: float) -> str:
    """Two digits of a share in per cent, in four characters at most: ``0.03``, ``2.6``, ``12``, ``141``, ``nan``."""
    if not math.isfinite(value):
        return f"{value}"
    hundred = 100 * value
    if hundred >= 9.95:
        return f"{hundred:.0f}" if hundred < 9999.5 else "much"
    if hundred >= 0.995:
        return f"{hundred:.1f}"
    return "0" if not value else f"{hundred:.2f}" if hundred >= 0.01 else "tiny"


def draw_png(grid: Grid, path: Path, title: str, subtitle: str = "") -> None:
    """Write the picture; it appears whole or not at all, and replaces one of that name.

    Args:
        grid: What to draw.
        path: The file; its folder must exist.
        title: Above the picture: which models.
        subtitle: Below the title.

    Raises:
        WriteError: It cannot be written there.
    """
    import matplotlib

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with matplotlib.rc_context({"font.size": 9, "font.family": "DejaVu Sans"}):
            # Without a version in it, the same comparison gives the same bytes.
            _figure(grid, title, subtitle).savefig(
                part, format="png", dpi=144, facecolor=PAPER, metadata={"Software": None}
            )
        part.replace(path)
    except OSError as error:
        raise WriteError(f"{path}: the picture cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _figure(grid: Grid, title: str, subtitle: str) -> "Figure":
    from matplotlib.figure import Figure

    numbered = len(grid.layers) <= MOST_NUMBERED
    cell = CELL_PX if numbered else _NARROW_PX / len(grid.layers)
    names = [*grid.kinds, *grid.outside]
    left = 24 + LETTER_PX * max(map(len, names), default=0)
    below = 48 if grid.outside else 0
    wide = max(cell * len(grid.layers), 320)
    height = 74 + ROW_PX * len(grid.kinds) + 34 + below + ROW_PX * len(grid.outside) + 62
    width = left + max(wide, 7.2 * len(title), LETTER_PX * len(subtitle)) + 24
    figure = Figure(figsize=(width / 96, height / 96))

    def panel(top: float, tall: float, across: float) -> "Axes":
        axes = figure.add_axes((left / width, 1 - (top + tall) / height, across / width, tall / height))
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, colors=MUTED, labelsize=8.5)
        return axes

    top = 74.0
    figure.text(12 / width, 1 - 24 / height, title, color=INK, fontsize=11, weight="bold", va="center")
    figure.text(12 / width, 1 - 46 / height, subtitle, color=MUTED, va="center")
    if grid.kinds:
        tall = ROW_PX * len(grid.kinds)
        axes = panel(top, tall, cell * len(grid.layers))
        _draw_cells(axes, grid.kinds, grid.cells, grid.largest, numbered=numbered)
        step = 1 if numbered else max(1, round(len(grid.layers) / 16))
        axes.set_xticks(range(0, len(grid.layers), step), [str(layer) for layer in grid.layers[::step]])
        axes.set_xlabel("layer", color=MUTED, fontsize=8.5)
        top += tall + 34
    if grid.outside:
        top += below - 22
        figure.text(left / width, 1 - (top - 9) / height, "outside the layers", color=MUTED, fontsize=8.5, va="center")
        axes = panel(top, ROW_PX * len(grid.outside), CELL_PX)
        _draw_cells(axes, list(grid.outside), [[value] for value in grid.outside.values()], grid.largest, numbered=True)
        axes.set_xticks([])
        top += ROW_PX * len(grid.outside) + 22
    _draw_scale(panel(height - 46, BAR_PX, min(wide, 320)), grid.largest)
    return figure


def _draw_cells(
    axes: "Axes", names: Sequence[str], cells: Sequence[Sequence[float | None]], largest: float, *, numbered: bool
) -> None:
    from matplotlib.colors import LinearSegmentedColormap, to_hex
    from matplotlib.patches import Rectangle

    colours = LinearSegmentedColormap.from_list("distance", SCALE)
    gap = 0.04 if numbered else 0.0  # between columns; rows always stand apart
    for y, row in enumerate(cells):
        for x, value in enumerate(row):
            if value is None:
                continue
            sound = math.isfinite(value)
            shade = shade_of(value, largest) if sound else 1.0
            colour = to_hex(colours(shade)) if sound else BROKEN
            box = (x - 0.5 + gap / 2, y - 0.46)
            axes.add_patch(Rectangle(box, 1 - gap, 0.92, color=colour, linewidth=0))
            if numbered:
                ink = PAPER if shade > 0.66 else INK
                axes.text(x, y, percent(value), ha="center", va="center", color=ink, fontsize=8.5)
    axes.set_xlim(-0.5, max(map(len, cells)) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    for label in axes.get_yticklabels():
        label.set_color(INK)


def _draw_scale(axes: "Axes", largest: float) -> None:
    """The colours from 0 to the largest value, with numbers where they stand."""
    from matplotlib.colors import LinearSegmentedColormap

    axes.imshow(
        [[k / 255 for k in range(256)]],
        aspect="auto",
        extent=(0.0, 1.0, 0.0, 1.0),
        cmap=LinearSegmentedColormap.from_list("distance", SCALE),
    )
    shown = [largest * (k / 4) ** 2 for k in range(5)] if largest else [0.0]
    axes.set_xticks([shade_of(value, largest) for value in shown], [f"{percent(value)} %" for value in shown])
    axes.set_yticks([])


def _relative(members: Sequence[TensorDiff]) -> float | None:
    if not members:
        return None
    length = math.sqrt(sum(tensor.norm_a**2 for tensor in members))
    apart = math.sqrt(sum(tensor.norm_delta**2 for tensor in members))
    if length:
        return apart / length
    return math.inf if apart else 0.0


def _short(kinds: Sequence[str]) -> list[str]:
    """The last parts of each name, as many as tell it from the others; without ``.weight``."""
    bare = [kind.removesuffix(".weight") for kind in kinds]
    return [_shortest(name, bare) for name in bare]


def _shortest(name: str, names: Sequence[str]) -> str:
    parts = name.split(".")
    for count in range(1, len(parts)):
        tail = "." + ".".join(parts[-count:])
        if sum(f".{other}".endswith(tail) for other in names) == 1 and parts[-count] != "bias":
            return tail[1:]
    return name
