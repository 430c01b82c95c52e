"""Where the outputs of a merge go: each place is free, and the disks have room for all of them together."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .donor import donor_config, donor_files
from .errors import DiskFull, MergeError, refuse_all
from .plan import TORCH_NAMES, MergePlan
from .writer import HEADROOM, JOURNAL_BYTES, OutputFolder


def output_bytes(plan: MergePlan) -> int:
    """Bytes of every file of the folder to be."""
    config = len(donor_config(plan.donor, TORCH_NAMES[plan.out_dtype]))
    return plan.layout.size_bytes + config + sum(path.stat().st_size for path in donor_files(plan.donor))


def free_bytes(out: Path) -> int:
    """Room on the file system of a folder to be."""
    return shutil.disk_usage(out.absolute().parent).free


def places(plans: Mapping[Path, MergePlan], journal_bytes: int = JOURNAL_BYTES) -> dict[Path, OutputFolder]:
    """The folders to be, in the order of the plans; nothing is created yet.

    Raises:
        MergeError: A place is taken, or cannot be written, or a disk lacks room for what goes there; all at once.
    """
    found: dict[Path, OutputFolder] = {}
    problems: list[MergeError] = []
    for out, plan in plans.items():
        try:
            found[out] = OutputFolder(out, output_bytes(plan), plan.identity(), journal_bytes=journal_bytes)
        except MergeError as error:
            problems.append(error)
    refuse_all(problems or _crowded(found))
    return found


def _crowded(folders: Mapping[Path, OutputFolder]) -> list[MergeError]:
    """Disks that have room for each output and not for all."""
    disks: dict[int, list[Path]] = {}
    for out in folders:
        disks.setdefault(os.stat(out.absolute().parent).st_dev, []).append(out)
    problems: list[MergeError] = []
    for outs in disks.values():
        needed = int(sum(folders[out].missing_bytes for out in outs) * HEADROOM)
        free = free_bytes(outs[0])
        if needed > free:
            listed = ", ".join(map(str, outs))
            problems.append(
                DiskFull(
                    f"{listed}: need {needed} bytes together (5 % headroom included), {free} are free on "
                    f"{outs[0].absolute().parent}; make room, name folders on other disks, or merge one after the other"
                )
            )
    return problems
