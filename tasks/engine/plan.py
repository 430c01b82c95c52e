"""From a recipe and open checkpoints to a plan in which nothing is left to decide, or to a refusal that says it all."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from .checkpoint import Checkpoint
from .compatibility import config_problems, tensor_problems
from .donor import find_instruct
from .equal import WHOLE, without_repeated_heads
from .errors import CorruptShard, MergeError, RecipeError, UndecidedParent, refuse_all
from .header import ITEM_BYTES, TensorSpec
from .layout import Layout, lay_out
from .merge_config import MergeConfig, names, resolved, unmatched_filters
from .methods.deltas import Combination
from .methods.operation import BLOCK_ELEMENTS, WAITING_BLOCKS, Operation, Tensor
from .methods.registry import METHODS
from .parents import check_parents
from .rows import instruct_rows, is_router, is_token_tensor
from .token_rows import MatchedRows, Rows, match_rows, matched
from .values import count_layers, depth_of
from .vocabulary import read_vocabulary, vocabulary_problems

SAFETENSORS_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
TORCH_NAMES = {stored: name for name, stored in SAFETENSORS_DTYPES.items()}

DEFAULT_MAX_SHARD_BYTES = 5_000_000_000


class Source(NamedTuple):
    """One checkpoint that takes part."""

    label: str
    """What messages call it: ``tuned base eu``, or its folder."""
    checkpoint: Checkpoint


Roles = tuple[Checkpoint, Checkpoint, dict[str, tuple[Checkpoint, Checkpoint | None]]]
"""Base, instruct model, and each tuned base with its stated parent (None: the base)."""


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor."""

    tensor: Tensor
    method: str
    specs: tuple[TensorSpec | MatchedRows, ...]
    """Where it lies in each source."""
    instruct: int
    """Number of the source that is the instruct model."""
    dtype: str
    """What the output stores it as, as safetensors spells it."""
    copied: bool = False
    """The instruct model's, whole: a router, or a vocabulary that is kept."""
    copied_rows: tuple[int, ...] = ()
    """Rows that are the instruct model's whatever the method says, ascending."""

    def operation(self) -> Operation:
        """A new operation, with no statistics yet."""
        return Combination(self.instruct, []) if self.copied else METHODS[self.method](self.tensor)


@dataclass(frozen=True)
class MergePlan:
    """Everything a merge will do. It draws itself with ``str``."""

    config: MergeConfig
    sources: tuple[Source, ...]
    tensors: dict[str, TensorPlan]
    """By name, in the order of writing."""
    layout: Layout
    out_dtype: str
    """Of all tensors but those of whole numbers, as safetensors spells it."""
    names: tuple[str, ...]
    """What the configuration calls each source."""
    unread_base: Checkpoint | None = None
    """Of a method that does not read it."""
    warnings: tuple[str, ...] = ()
    """What the weights cannot tell about the stated parents, and heads that were left out."""

    @property
    def donor(self) -> Path:
        """The folder whose configuration, tokenizer and template the output gets: the instruct model's, always."""
        return self.sources[0].checkpoint.path

    def roles(self) -> Roles | None:
        """Who is whose child, where the method takes deltas against a base; None elsewhere."""
        known = dict(zip(self.names, self.sources, strict=True))
        base, instruct = self.unread_base, self.sources[0].checkpoint
        if self.config.base_model is not None and self.config.spec.base != "unused":
            base = known[self.config.base_model].checkpoint
        if base is None or base is instruct:
            return None
        tuned = {
            known[entry.model].label.removeprefix("tuned base "): (
                known[entry.model].checkpoint,
                known[entry.parent].checkpoint if entry.parent else None,
            )
            for entry in self.config.inputs
            if known[entry.model].checkpoint is not instruct
        }
        return base, instruct, tuned

    @property
    def bytes_to_read(self) -> int:
        """Of weights, by one pass over what the method reads."""
        return sum(
            plan.specs[source].end - plan.specs[source].begin
            for plan in self.tensors.values()
            for source in plan.operation().sources
        )

    def memory_bytes(self, threads: int) -> int:
        """Buffers of all threads together: for each source a raw and a float32 block, and blocks on their way out."""
        widest = max((plan.tensor.width for plan in self.tensors.values()), default=0)
        block = max(BLOCK_ELEMENTS, widest)
        return (
            threads * block * (6 * len(self.sources) + 16)
            + (WAITING_BLOCKS + 2 * threads) * block * ITEM_BYTES[self.out_dtype]
        )

    def inputs(self) -> dict[str, tuple[int, int, int]]:
        """Size, time of change in ns and inode of every shard that is read, by its path.

        Raises:
            CorruptShard: One is no longer there.
        """
        found = {}
        for source in self.sources:
            for shard in sorted({spec.shard for spec in source.checkpoint.tensors.values()}):
                try:
                    stat = shard.stat()
                except OSError as error:
                    raise CorruptShard(f"{shard}: is no longer there: {error.strerror}; fetch it again") from error
                found[str(shard)] = stat.st_size, stat.st_mtime_ns, stat.st_ino
        return found

    def identity(self) -> str:
        """Digest of what goes in, without reading weights: a killed merge is gone on with only under the same one.

        Tokenizers and the chat template enter by the rows that are copied or matched, the engine by its source.
        """
        engine = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))))
        rows = [spec.rows for plan in self.tensors.values() for spec in plan.specs if isinstance(spec, MatchedRows)]
        said = [
            self.config.digest(),
            self.out_dtype,
            [shard.header.hex() for shard in self.layout.shards],
            [[str(plan.copied), *plan.copied_rows] for plan in self.tensors.values()],
            [hashlib.sha256(of_one.tobytes()).hexdigest() for of_one in rows],
            list(self.inputs().items()),
            engine.hexdigest(),
        ]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def __str__(self) -> str:
        """A few lines for people and logs."""
        models = ", ".join(source.label for source in self.sources)
        return (
            f"{self.config.method} of {models}\n"
            f"{len(self.tensors)} tensors, {self.bytes_to_read} bytes in, {self.layout.size_bytes} bytes out as "
            f"{TORCH_NAMES[self.out_dtype]} in {len(self.layout.shards)} file(s)"
        )


def plan_merge(
    config: MergeConfig,
    opened: Mapping[str, Checkpoint],
    *,
    base: str | None = None,
    labels: Mapping[str, str] | None = None,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    order: tuple[str, ...] | None = None,
) -> MergePlan:
    """Check that the inputs belong together, and place every output byte.

    Args:
        config: What to do.
        opened: Every model of `names(config)`, and `base`, open.
        base: The base of a method that does not read it: the others are held against it all the same.
        labels: What messages call them; their folders by default.
        max_shard_bytes: Data bytes per output file.
        order: The sources of another plan that reads the same models, to be numbered alike.

    Raises:
        RecipeError: The recipe does not fit these models, has another instruct model than the other plan, or
            `max_shard_bytes` is not positive.
        CheckpointError: The inputs do not fit together: all problems at once, of the common class if they have one.
    """
    if max_shard_bytes <= 0:
        raise RecipeError(f"max_shard_bytes is {max_shard_bytes}, expected more than 0")
    donor = config.instruct or find_instruct(config, opened)
    opened, left_out = without_repeated_heads(opened, donor)
    own = tuple(dict.fromkeys([donor, *names(config)]))
    order = order or own
    if set(order) != set(own) or order[0] != donor:
        raise RecipeError(
            f"{config.where}: merges {', '.join(own)} with instruct model {donor}, and another output of the same "
            f"reading {', '.join(order)} with instruct model {order[0]}; expected the same models. Merge them apart"
        )
    sources = tuple(Source((labels or {}).get(name, name), opened[name]) for name in order)
    instruct, others = sources[0].checkpoint, {source.label: source.checkpoint for source in sources[1:]}
    if base is not None:
        others.setdefault((labels or {}).get(base, base), opened[base])
    refuse_all(
        [
            *config_problems(instruct, others, config.vocabulary),
            *vocabulary_problems(instruct, others, config.vocabulary),
            *tensor_problems(instruct, others, config.vocabulary),
        ]
    )
    dtype = SAFETENSORS_DTYPES.get(config.output_dtype or "") or _stored_dtype(instruct)
    stored = {name: spec.dtype if spec.dtype in WHOLE else dtype for name, spec in instruct.tensors.items()}
    layout = lay_out({name: spec.shape for name, spec in instruct.tensors.items()}, stored, max_shard_bytes)
    refuse_all([RecipeError(line) for line in unmatched_filters(config, instruct.tensors)])
    written = [name for shard in layout.shards for name in shard.tensors]
    plan = MergePlan(
        config,
        sources,
        _tensor_plans(config, sources, order, {name: stored[name] for name in written}),
        layout,
        dtype,
        order,
        opened.get(base or ""),
        tuple(left_out),
    )
    roles = plan.roles()
    if roles is None or config.allow_foreign_parent:
        return plan
    problems = check_parents(*roles)
    refuse_all([problem for problem in problems if not isinstance(problem, UndecidedParent)])
    return replace(plan, warnings=(*plan.warnings, *map(str, problems)))


def _tensor_plans(
    config: MergeConfig, sources: Sequence[Source], order: Sequence[str], written: Mapping[str, str]
) -> dict[str, TensorPlan]:
    instruct = sources[0].checkpoint
    rows = instruct_rows(instruct) if config.special_rows == "instruct" else {}
    read = _Reading(config, sources)
    layers = count_layers(instruct.tensors)
    number = {name: place for place, name in enumerate(order)}
    has_base = config.base_model is not None and config.spec.base != "unused"
    base = number[config.base_model] if has_base and config.base_model is not None else None
    models = tuple(number[entry.model] for entry in config.inputs)
    fallback = base if base is not None else 0
    parents = tuple(fallback if entry.parent is None else number[entry.parent] for entry in config.inputs)
    plans: dict[str, TensorPlan] = {}
    problems: list[MergeError] = []
    for name, dtype in written.items():
        try:
            values = resolved(config, name, depth_of(name, layers))
        except RecipeError as error:
            problems += error.problems
            continue
        tensor = Tensor(
            name,
            instruct.tensors[name].shape,
            base,
            models,
            parents,
            values.shared,
            tuple(values.per_model),
            config.seed if config.spec.random else 0,  # ties breaks ties by chance, and has one result all the same
            config.compat is not None,
            0,
            layers,
        )
        plans[name] = TensorPlan(
            tensor,
            config.method,
            read.specs(name),
            0,
            dtype,
            copied=dtype in WHOLE
            or (config.routers == "instruct" and is_router(name))
            or (config.vocabulary == "keep_instruct" and is_token_tensor(name)),
            copied_rows=tuple(sorted({*rows.get(name, ()), *read.lacking(name)})),
        )
    refuse_all(problems)
    return plans


class _Reading:
    """Where a tensor lies in each source; rows in the order of the instruct model's tokens, where that is asked for."""

    def __init__(self, config: MergeConfig, sources: Sequence[Source]) -> None:
        self._checkpoints = [source.checkpoint for source in sources]
        self._policy = config.vocabulary
        self._matched: dict[int, list[Rows]] = {}
        self._tokens = [read_vocabulary(c.path) for c in self._checkpoints] if self._policy == "match_tokens" else []

    def specs(self, name: str) -> tuple[TensorSpec | MatchedRows, ...]:
        """By source. Of a tensor that is kept whole, the instruct model's for all: the others may lack rows."""
        ours = self._checkpoints[0].tensors[name]
        if not is_token_tensor(name) or self._policy == "refuse":
            return tuple(checkpoint.tensors[name] for checkpoint in self._checkpoints)
        if self._policy == "keep_instruct":
            return (ours,) * len(self._checkpoints)
        return matched([checkpoint.tensors[name] for checkpoint in self._checkpoints], self._rows(name))

    def lacking(self, name: str) -> list[int]:
        """Rows that some source has no token for."""
        if self._policy != "match_tokens" or not is_token_tensor(name) or len(self._checkpoints) == 1:
            return []
        return [int(row) for row in (self._rows(name)[0] < 0).nonzero()[0]]

    def _rows(self, name: str) -> list[Rows]:
        height = self._checkpoints[0].tensors[name].shape[0]
        if height not in self._matched:
            heights = [checkpoint.tensors[name].shape[0] for checkpoint in self._checkpoints[1:]]
            self._matched[height] = match_rows(self._tokens[0], height, self._tokens[1:], heights)
        return self._matched[height]


def _stored_dtype(instruct: Checkpoint) -> str:
    """What most of the instruct model's bytes are stored in."""
    counted: Counter[str] = Counter()
    for spec in instruct.tensors.values():
        if spec.dtype not in WHOLE:
            counted[spec.dtype] += spec.end - spec.begin
    found = counted.most_common(1)[0][0] if counted else ""
    return found if found in TORCH_NAMES else "F32"
