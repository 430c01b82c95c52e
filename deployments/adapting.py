"""`empelt adapter`: the language part of a graft as a low-rank adapter, and what the rank keeps of it."""

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from deployments.output import AsJson, show
from deployments.showing import human_bytes, table
from tasks.domain.errors import InputError

if TYPE_CHECKING:
    from tasks.engine.adapter import AdapterReport, Energy


def adapter(
    config: Annotated[Path, typer.Argument(help="What is merged, as for `empelt merge`; instruct weight 1.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; it must not exist.")],
    rank: Annotated[int, typer.Option(help="Of every module. vLLM serves 1, 8, 16, 32, 64, 128, 256, 320 or 512.")],
    carry: Annotated[
        str, typer.Option(help="layers: projections; input: and the input embeddings; all: and the output layer.")
    ] = "input",
    allow_foreign_parent: Annotated[
        bool, typer.Option("--allow-foreign-parent", help="Extract although the weights contradict a stated parent.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Of the decompositions; 1 gives the same bytes every time.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Write the language part of a merge as a LoRA adapter over its instruct model, and say what the rank keeps.

    One vLLM with the instruct model then serves many languages. What is served is to be judged like any candidate: the
    energy kept says how much of the weights is left, and nothing of what the model still can.

    Exit codes: 0 done, 2 refused, 3 the disk is full; after 2 and 3 nothing was written.
    """
    # Read when numpy is loaded, below. Two threads that share busy cores wait for each other: 190 s instead of 1 s.
    os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    from dataclasses import replace

    from tasks.engine.adapter import extract
    from tasks.engine.adapter_files import Carried
    from tasks.engine.command_file import read_merge_file

    if carry not in get_args(Carried):
        raise InputError(f"--carry {carry}: expected one of {', '.join(get_args(Carried))}")
    file = read_merge_file(config)
    allowed = file.config.allow_foreign_parent or allow_foreign_parent
    file = file._replace(config=replace(file.config, allow_foreign_parent=allowed))
    report = extract(file, folder, rank, carried=cast(Carried, carry))
    show({"out": str(folder), **report.as_dict()}, as_json, as_text(folder, report))


def as_text(folder: Path, report: "AdapterReport") -> str:
    """Energy by module and layer, what is left out and why, and the sums."""
    size = human_bytes(sum(digest.size for digest in report.files.values()))
    lines = [
        f"{folder}: rank {report.rank}, {report.parameters} numbers, {size} in {report.seconds:.1f} s",
        by_module(report.tensors),
        f"in the adapter: {report.kept:.1%} of the energy of the change; a full rank would have {report.carried:.1%}",
    ]
    lines += [f"not carried: {name}" for name in _left_out(report)]
    lines += [f"warning: {warning}" for warning in report.warnings]
    return "\n".join(lines)


def by_module(tensors: "tuple[Energy, ...]") -> str:
    """A row for each kind of module, a column for each layer: the share of the energy kept."""
    cells: dict[str, dict[int, Energy]] = defaultdict(dict)
    for one in tensors:
        if not one.why:
            parts = one.tensor.split(".")
            numbers = [int(part) for part in parts if part.isdigit()]
            cells[parts[-2]][numbers[0] if numbers else -1] = one
    layers = sorted({layer for row in cells.values() for layer in row if layer >= 0})
    whole = sum(one.energy for one in tensors)
    rows = []
    for kind, row in cells.items():
        energy = sum(one.energy for one in row.values())
        kept = sum(one.energy * one.kept for one in row.values()) / energy if energy else 1.0
        shown = [f"{row[layer].kept:.1%}" if layer in row else "" for layer in layers]
        rows.append([kind, f"{energy / whole:.1%}" if whole else "", f"{kept:.1%}", *shown])
    return table(("module", "share of the change", "kept", *(f"layer {layer}" for layer in layers)), rows)


def _left_out(report: "AdapterReport") -> list[str]:
    found: dict[str, list[Energy]] = defaultdict(list)
    for one in report.tensors:
        if one.why:
            found[f"{one.tensor.split('.')[-2]} ({one.why})"].append(one)
    return [
        f"{len(ones)} x {name}, {sum(one.energy for one in ones) / (report.energy or 1):.2%} of the energy"
        for name, ones in found.items()
    ]
