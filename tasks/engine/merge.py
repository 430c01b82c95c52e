"""One merge, from folders to a folder: open, plan, stream, commit, report."""

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from .checkpoint import Checkpoint
from .donor import donor_config, donor_files
from .errors import MergeError, refuse_all
from .norms import delta_norms
from .plan import DEFAULT_MAX_SHARD_BYTES, TunedInput, plan_merge
from .recipe import Coefficients, Recipe
from .stream import OnProgress, write_weights
from .writer import FileDigest, OutputFolder


class TunedPaths(NamedTuple):
    """Where a tuned base lies, and what it was trained from."""

    path: Path
    parent: Path | None = None
    """None means the base."""


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    files: dict[str, FileDigest]
    """Every file of the output by name."""
    tensors: int
    bytes_read: int
    """Of weights that entered the sum. A model with coefficient 0 is not read."""
    bytes_written: int
    """Of all files."""
    seconds: float
    coefficients: Coefficients
    peak_rss_bytes: int
    """The process's high-water mark, mapped pages and ``import torch`` included."""
    norms: dict[str, float]
    """``tau_I/base``, ``tau_<language>/base``, ``cos(tau_I,tau_<language>)``, from a sample of each tensor."""


def merge(
    recipe: Recipe,
    *,
    base: Path,
    instruct: Path,
    tuned: Mapping[str, TunedPaths],
    out: Path,
    on_progress: OnProgress | None = None,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
) -> MergeReport:
    """Merge checkpoints into a new folder that appears whole or not at all. The same inputs give the same bytes.

    Args:
        recipe: Method, weights, output dtype and policies.
        base: Folder of theta_0.
        instruct: Folder of theta_I; configuration, tokenizer and template come from here.
        tuned: theta_k by language name.
        out: The folder to be; it must not exist, its parent must.
        on_progress: Called about every 2 MB; what it raises ends the merge and leaves nothing behind.
        max_shard_bytes: Data bytes per output file.

    Raises:
        RecipeError: The recipe does not fit these languages.
        CheckpointError: An input is broken, or does not belong to the others.
        WriteError: The output exists or cannot be written; `DiskFull` when there is no room.
    """
    began = time.monotonic()
    with _one_torch_thread(), ExitStack() as opened:
        checkpoints = _open_all(opened, base, instruct, tuned)
        inputs = {
            language: TunedInput(checkpoints[paths.path], checkpoints[paths.parent] if paths.parent else None)
            for language, paths in tuned.items()
        }
        plan = plan_merge(recipe, checkpoints[base], checkpoints[instruct], inputs, max_shard_bytes=max_shard_bytes)
        config = donor_config(plan.donor, recipe.out_dtype)
        donated = donor_files(plan.donor)
        needed = plan.layout.size_bytes + len(config) + sum(path.stat().st_size for path in donated)
        with OutputFolder(out, needed) as folder:
            folder.write("config.json", config)
            for path in donated:
                folder.copy(path)
            write_weights(plan, folder, on_progress)
            norms = delta_norms(plan, inputs)
            folder.commit()
            files = folder.files
    return MergeReport(
        files=files,
        tensors=len(plan.steps),
        bytes_read=plan.bytes_to_read,
        bytes_written=sum(digest.size for digest in files.values()),
        seconds=time.monotonic() - began,
        coefficients=plan.coefficients,
        peak_rss_bytes=_peak_rss_bytes(),
        norms=norms,
    )


def _open_all(opened: ExitStack, base: Path, instruct: Path, tuned: Mapping[str, TunedPaths]) -> dict[Path, Checkpoint]:
    """Open every folder once; when several are broken, all are told."""
    paths = [base, instruct, *(path for paths in tuned.values() for path in paths if path is not None)]
    checkpoints: dict[Path, Checkpoint] = {}
    problems: list[MergeError] = []
    for path in dict.fromkeys(paths):
        try:
            checkpoints[path] = opened.enter_context(Checkpoint.open(path))
        except MergeError as error:
            problems += error.problems
    refuse_all(problems)
    return checkpoints


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Keep torch's own threads out: on a busy machine every operation on a block would wait for the slowest of them.

    (Two cores at load 7: 7.7 s with them, against a floor of 0.4 s.)
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _peak_rss_bytes() -> int:
    """VmHWM where there is a /proc. ru_maxrss survives exec, so a child would report the peak of its parent."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
