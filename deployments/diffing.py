"""`empelt diff`: two folders compared tensor by tensor, as a table, a map in the terminal, and a picture."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn
from rich.text import Text

from deployments.showing import table

if TYPE_CHECKING:
    from tasks.engine.diff import Diff
    from tasks.engine.heatmap import Grid

MOST_ROWS = 600
"""Tensors in the table; of more, those that differ most. A dense model of 80 layers has 723, most of 32 have 291."""
SHADES = ((1, "·"), (25, "░"), (50, "▒"), (75, "▓"), (101, "█"))
"""Shade in per cent up to which a cell without a number is drawn so: readable where colours are not."""
NUMBER, NARROW = 6, 2
"""Characters of a cell with its number, and of one without."""


def compare(one: Path, other: Path, png: Path | None, *, quiet: bool, console: Console) -> "tuple[Diff, Grid]":
    """Read both models, with a progress bar, and draw the picture if one is asked for.

    Raises:
        MergeError: A folder cannot be opened, a file is shorter than its header says, or the picture has no place.
    """
    from tasks.engine.checkpoint import Checkpoint
    from tasks.engine.diff import diff
    from tasks.engine.errors import MergeError, WriteError, refuse_all
    from tasks.engine.heatmap import draw_png, grid_of

    problems: list[MergeError] = []
    if png is not None and (not png.parent.is_dir() or png.is_dir() or png.suffix.lower() != ".png"):
        problems.append(WriteError(f"{png}: expected a file name that ends in .png, in a folder that exists"))
    opened = []
    for folder in (one, other):
        try:
            opened.append(Checkpoint.open(folder))
        except MergeError as error:
            problems += error.problems
    refuse_all(problems)
    columns = (TextColumn("comparing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet, transient=True) as progress:
        bar = progress.add_task("compare", total=None)
        found = diff(*opened, on_read=lambda done, total: progress.update(bar, completed=done, total=total))
    grid = grid_of(found)
    if png is not None:
        told = "" if found.total.relative is None else f": {found.total.relative:.2%} over all"
        draw_png(grid, png, f"A = {one.name}   B = {other.name}", f"|A - B| / |A| in per cent{told}")
    return found, grid


def as_json(one: Path, other: Path, png: Path | None, found: "Diff") -> dict[str, Any]:
    """The report of the command. What is not finite is null: JSON has no word for it."""
    return {
        "a": str(one),
        "b": str(other),
        "total": _plain(found.total._asdict()),
        "tensors": [_plain(tensor._asdict()) for tensor in found.tensors],
        **{name: getattr(found, name) for name in ("only_a", "only_b", "shapes", "dtypes", "opaque", "same_tensors")},
        "png": None if png is None else str(png),
    }


def as_text(found: "Diff") -> str:
    """The table, and what is in one model only or not comparable."""
    shown = sorted(found.tensors, key=lambda t: -_finite(t.relative))[:MOST_ROWS]
    kept = {tensor.name for tensor in shown}
    rows = [_row(tensor) for tensor in (*(t for t in found.tensors if t.name in kept), found.total)]
    columns = ("tensor", "shape", "|A|", "|B|", "|A - B|", "relative", "cosine", "equal", "max |a - b|")
    lines = [table(columns, rows)]
    if len(found.tensors) > MOST_ROWS:
        lines.append(f"{len(found.tensors) - MOST_ROWS} tensors that differ less are left out; --json has all")
    lines += [f"only in A: {name} {shape}" for name, shape in found.only_a.items()]
    lines += [f"only in B: {name} {shape}" for name, shape in found.only_b.items()]
    lines += [f"shapes differ: {name} is {a} in A and {b} in B" for name, (a, b) in found.shapes.items()]
    lines += [f"types differ: {name} is {a} in A and {b} in B" for name, (a, b) in found.dtypes.items()]
    lines += [f"not compared: {name} is {told}" for name, told in found.opaque.items()]
    return "\n".join(lines)


def as_map(grid: "Grid", width: int) -> Text:
    """The heat map in coloured blocks, with numbers in per cent where ``width`` characters have room for them."""
    from tasks.engine.heatmap import percent

    if not grid.kinds and not grid.outside:
        return Text("")
    left = 1 + max((len(name) for name in (*grid.kinds, *grid.outside)), default=0)
    room = max(1, width - left)
    size = next((size for size in (NUMBER, NARROW) if size * len(grid.layers) <= room), 1)
    drawn = Text("|A - B| / |A| in per cent, by layer\n", style="bold")
    for start in range(0, len(grid.layers), room // size):
        layers = grid.layers[start : start + room // size]
        drawn.append(" " * left + _ruler(layers, size) + "\n", style="dim")
        for name, row in zip(grid.kinds, grid.cells, strict=True):
            drawn.append(f"{name:>{left - 1}} ")
            for value in row[start : start + room // size]:
                drawn.append_text(_cell(value, grid.largest, size))
            drawn.append("\n")
    for name, value in grid.outside.items():
        drawn.append(f"{name:>{left - 1}} ")
        drawn.append_text(_cell(value, grid.largest, NUMBER))
        drawn.append("\n")
    if size != NUMBER:
        drawn.append(f"{' ' * left}the darkest is {percent(grid.largest)} %\n", style="dim")
    return drawn


def _ruler(layers: tuple[int, ...], size: int) -> str:
    """Numbers of the layers, as many as do not touch."""
    if size == NUMBER:
        return "".join(f"{layer:^{size}}" for layer in layers)
    step = max(1, -(-4 // size))
    return "".join(f"{layer:<{step * size}}" for layer in layers[::step])


def _cell(value: float | None, largest: float, size: int) -> Text:
    from tasks.engine.heatmap import BROKEN, INK, PAPER, percent, shade_of

    if value is None:
        return Text(" " * size)
    sound = math.isfinite(value)
    shade = shade_of(value, largest) if sound else 1.0
    if size == NUMBER:
        ink = PAPER if shade > 0.66 else INK
        return Text(f"{percent(value):^{size}}", style=f"{ink} on {_colour(shade) if sound else BROKEN}")
    letter = next(letter for limit, letter in SHADES if 100 * shade < limit) if sound else "!"
    colour = _colour(shade) if sound else BROKEN
    return Text(letter * size, style=f"{colour} on {colour}")  # a plain block where there are colours


def _colour(shade: float) -> str:
    """Between the two colours of the picture's scale that ``shade`` lies between."""
    from tasks.engine.heatmap import SCALE

    place = shade * (len(SCALE) - 1)
    below = min(int(place), len(SCALE) - 2)
    ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in SCALE[below : below + 2]]
    mixed = (round(a + (b - a) * (place - below)) for a, b in zip(*ends, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def _row(tensor: Any) -> list[str]:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    norms = [f"{value:.4g}" for value in (tensor.norm_a, tensor.norm_b, tensor.norm_delta)]
    ratios = ["" if value is None else f"{value:.6f}" for value in (tensor.relative, tensor.cosine)]
    return [tensor.name, shape, *norms, *ratios, _share(tensor.equal), f"{tensor.max_abs:.3g}"]


def _share(value: float) -> str:
    """``100%`` and ``0%`` mean all and none."""
    return f"{value:.0%}" if value in (0.0, 1.0) else f"{min(max(value, 0.001), 0.999):.1%}"


def _finite(value: float | None) -> float:
    """For sorting: what is broken comes first, what has no ratio last."""
    return -1.0 if value is None else value if math.isfinite(value) else math.inf


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields.items()
    }
