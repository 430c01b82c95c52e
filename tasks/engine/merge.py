"""One merge, from folders to a folder: open, plan, stream, commit, report. Or several of the same models at once."""

import resource
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoint import Checkpoint
from .deltas import delta_figures, warnings
from .donor import donor_config, donor_files
from .errors import CheckpointError, CorruptShard, MergeError, RecipeError, refuse_all
from .merge_config import MergeConfig, names
from .places import places
from .plan import DEFAULT_MAX_SHARD_BYTES, TORCH_NAMES, MergePlan, plan_merge
from .run import OnProgress, Output, available_threads, write_weights
from .writer import JOURNAL_BYTES, FileDigest

if TYPE_CHECKING:  # pydantic takes 0.06 s to load, and a merge by mergekit's YAML has no use for it
    from .recipe import Coefficients, Recipe


@dataclass(frozen=True)
class TunedPaths:
    """Where a tuned base lies, and what it was trained from."""

    path: Path
    parent: Path | None = None
    """None means the base."""


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    method: str
    files: dict[str, FileDigest]
    """Every file of the output by name."""
    tensors: int
    bytes_read: int
    """Of weights that entered the result, counted once; methods with statistics read them again."""
    bytes_written: int
    """Of all files."""
    resumed_bytes: int
    """Of weight files, taken over from a merge of the same that was killed."""
    seconds: float
    threads: int
    coefficients: "Coefficients | None"
    """The a and b_k of `recipe`, for its two sums of deltas."""
    seed: int | None
    """Of a random method."""
    peak_rss_bytes: int
    """The process's high-water mark, the interpreter and its libraries included."""
    norms: dict[str, float]
    """Of the deltas, sampled: ``tau_I/base``, ``tau_<language>/base``, ``tau_<language>/tau_I``,
    ``cos(tau_I,tau_<language>)``. Empty without a base."""
    warnings: list[str]
    """What these figures, or filters, make likely."""


def merge(
    recipe: "Recipe",
    *,
    base: Path,
    instruct: Path,
    tuned: Mapping[str, TunedPaths],
    out: Path,
    on_progress: OnProgress | None = None,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    threads: int | None = None,
    allow_foreign_parent: bool = False,
) -> MergeReport:
    """Merge by a recipe of roles. The folder appears whole or not at all, and the same inputs give the same bytes.

    Args:
        recipe: Method, weights, output dtype and policies.
        base: Folder of theta_0.
        instruct: Folder of theta_I; configuration, tokenizer and template come from here.
        tuned: theta_k by language name.
        out: The folder to be; it must not exist, its parent must.
        on_progress: Called about every 128 KB from a thread of the merge; what it raises ends the merge.
        max_shard_bytes: Data bytes per output file.
        threads: All available cores by default.
        allow_foreign_parent: Merge although the weights contradict a stated parent, or cannot tell.

    Raises:
        RecipeError: The recipe does not fit these languages.
        CheckpointError: An input is broken, or does not belong to the others.
        WriteError: The output exists or cannot be written; `DiskFull` when there is no room.
    """
    config, labels = by_roles(recipe, base, instruct, tuned)
    config = replace(config, allow_foreign_parent=allow_foreign_parent)
    report = merge_configs(
        {out: config},
        on_progress=on_progress,
        max_shard_bytes=max_shard_bytes,
        threads=threads,
        labels=labels,
        base=base,
    )[out]
    return replace(report, coefficients=recipe.sums(list(tuned)))


def by_roles(
    recipe: "Recipe", base: Path, instruct: Path, tuned: Mapping[str, TunedPaths]
) -> tuple[MergeConfig, dict[str, str]]:
    """The merge of a recipe of roles, and what messages call its folders."""
    from .recipe import Tuned

    paths = {k: Tuned(str(own.path), None if own.parent is None else str(own.parent)) for k, own in tuned.items()}
    labels = {own.parent: f"parent of {language}" for language, own in paths.items() if own.parent}
    labels |= {own.path: f"tuned base {language}" for language, own in paths.items()}
    labels |= {str(instruct): "instruct", str(base): "base"}
    return recipe.config(str(base), str(instruct), paths), labels


def merge_config(config: MergeConfig, out: Path, **options: Any) -> MergeReport:
    """Merge by a configuration of folders; see `merge_configs`."""
    return merge_configs({out: config}, **options)[out]


def merge_configs(
    configs: Mapping[Path, MergeConfig],
    *,
    on_progress: OnProgress | None = None,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    threads: int | None = None,
    labels: Mapping[str, str] | None = None,
    base: Path | None = None,
    journal_bytes: int = JOURNAL_BYTES,
) -> dict[Path, MergeReport]:
    """Merge the same models in several ways, each input read once: a sweep over k weights costs k writes, not k reads.

    Args:
        configs: By the folder to be. All name the same models, in the same roles.
        on_progress: As in `merge`.
        max_shard_bytes: As in `merge`.
        threads: As in `merge`.
        labels: What messages call the folders.
        base: The base of a method that does not read it: the others are held against it all the same.
        journal_bytes: So much of each output file is lost at most when the merge is killed.

    Raises:
        MergeError: As in `merge`; then none of the folders exists.
    """
    began = time.monotonic()
    plans = plan_all(configs, max_shard_bytes=max_shard_bytes, labels=labels, base=base)
    workers = threads or available_threads()
    figures = {out: _figures(plan) for out, plan in plans.items()}
    inputs = {out: plan.inputs() for out, plan in plans.items()}
    with ExitStack() as folders:
        outputs = [
            Output(plans[out], folders.enter_context(folder)) for out, folder in places(plans, journal_bytes).items()
        ]
        for plan, folder in outputs:
            folder.write("config.json", donor_config(plan.donor, TORCH_NAMES[plan.out_dtype]))
            for path in donor_files(plan.donor):
                folder.copy(path)
        write_weights(outputs, on_progress, workers)
        refuse_all([problem for out, plan in plans.items() for problem in _changed(inputs[out], plan.inputs())])
        for output in outputs:
            output.folder.check()
        for output in outputs:
            output.folder.commit()
    seconds, peak = time.monotonic() - began, peak_rss_bytes()
    return {
        out: _report(output, seconds, workers, peak, *figures[out]) for out, output in zip(plans, outputs, strict=True)
    }


def plan_all(
    configs: Mapping[Path, MergeConfig],
    *,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    labels: Mapping[str, str] | None = None,
    base: Path | None = None,
) -> dict[Path, MergePlan]:
    """Open every model once, and plan each output; what is wrong anywhere is told at once.

    Raises:
        RecipeError: The configurations name different models.
        MergeError: What `plan_merge` refuses.
    """
    policies = {config.vocabulary for config in configs.values()}
    if len(policies) > 1:  # rows of one reading are in one order
        told = ", ".join(sorted(policies))
        raise RecipeError(f"outputs of one reading need one policy for vocabulary, found {told}; merge them apart")
    opened: dict[str, Checkpoint] = {}
    problems: list[MergeError] = []
    apart = [] if base is None else [str(base)]
    for name in dict.fromkeys([name for config in configs.values() for name in names(config)] + apart):
        try:
            opened[name] = Checkpoint.open(Path(name))
        except MergeError as error:
            problems += error.problems
    refuse_all(problems)
    plans: dict[Path, MergePlan] = {}
    order: tuple[str, ...] | None = None
    for out, config in configs.items():
        plans[out] = plan_merge(
            config,
            opened,
            base=None if base is None else str(base),
            labels=labels,
            max_shard_bytes=max_shard_bytes,
            order=order,
        )
        order = plans[out].names
    return plans


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> list[MergeError]:
    """Shards that are no longer those whose headers were read."""
    return [
        CorruptShard(
            f"{shard}: was written during the merge: size, time of change in ns and inode were {before[shard]} and are "
            f"{after[shard]}; the result would be a mixture. Merge again when it is complete"
        )
        for shard in before
        if before[shard] != after[shard]
    ]


def _figures(plan: MergePlan) -> tuple[dict[str, float], list[str]]:
    """Lengths and angles of the deltas, and what they warn of."""
    roles = plan.roles()
    if roles is None:
        return {}, list(plan.warnings)
    try:
        found = delta_figures(*roles)
    except CheckpointError as error:  # models of vectors alone; NaN, which the merge itself names by its place
        return {}, [*plan.warnings, str(error)]
    told = {"tau_I/base": found.instruct}
    for language, one in found.languages.items():
        told |= {f"tau_{language}/base": one.length, f"tau_{language}/tau_I": one.to_instruct}
        told[f"cos(tau_I,tau_{language})"] = one.cosine
    return {name: value for name, value in told.items() if value is not None}, [*plan.warnings, *warnings(found)]


def _report(
    output: Output, seconds: float, threads: int, peak: int, norms: dict[str, float], told: list[str]
) -> MergeReport:
    plan, folder = output
    return MergeReport(
        method=plan.config.method,
        files=folder.files,
        tensors=len(plan.tensors),
        bytes_read=plan.bytes_to_read,
        bytes_written=sum(digest.size for digest in folder.files.values()),
        resumed_bytes=folder.resumed_bytes,
        seconds=seconds,
        threads=threads,
        coefficients=None,
        seed=plan.config.seed if plan.config.spec.random else None,
        peak_rss_bytes=peak,
        norms=norms,
        warnings=told,
    )


def peak_rss_bytes() -> int:
    """VmHWM where there is a /proc. ru_maxrss survives exec, so a child would report the peak of its parent."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
