"""From a recipe and open checkpoints to a plan in which nothing is left to decide, or to a refusal that says it all.

The formula of `recipe` is collected per checkpoint: theta = sum_j c_j x_j with sum_j c_j = 1 always (the deltas' own
coefficients cancel). A checkpoint with c_j = 0 is not read: linear never touches the base, a weight of 0 costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import Checkpoint
from .compatibility import config_problems, tensor_problems
from .errors import CheckpointError, ConfigMismatch, MergeError, RecipeError, VocabularyMismatch, refuse_all
from .layout import Layout, lay_out
from .recipe import Coefficients, Recipe
from .vocabulary import chat_token_ids, compare_vocabularies, read_vocabulary

SAFETENSORS_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}

DEFAULT_MAX_SHARD_BYTES = 5_000_000_000

_ZERO = 1e-12
"""Below this a coefficient is rounding: 1 - 2/3 - 1/3 is 5.6e-17 in float64."""

_ROW_TENSORS = (
    "embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight",
    "word_embeddings.weight", "tok_embeddings.weight",
)  # fmt: skip
"""Endings of the tensors that have one row per token."""


@dataclass(frozen=True)
class TunedInput:
    """A tuned base and what it was trained from."""

    checkpoint: Checkpoint
    parent: Checkpoint | None = None
    """None means the base. Stated when the model was tuned from another checkpoint, such as the instruct model."""


@dataclass(frozen=True)
class MergeStep:
    """One output tensor."""

    name: str
    shape: tuple[int, ...]
    elements: int
    sources: tuple[str, ...]
    """Labels of the checkpoints to read; the one with the largest weight first."""
    weights: tuple[float, ...]
    """Their c_j, which sum to 1."""
    instruct_rows: tuple[int, ...] = ()
    """Rows that are copied from the instruct model after the merge, ascending."""


@dataclass(frozen=True)
class MergePlan:
    """Everything a merge will do. It draws itself with ``str``."""

    recipe: Recipe
    coefficients: Coefficients
    checkpoints: dict[str, Checkpoint]
    """Every input by label: base, instruct, tuned base eu, parent of eu."""
    steps: dict[str, MergeStep]
    """By tensor name, in the order of writing."""
    layout: Layout
    bytes_to_read: int

    @property
    def donor(self) -> Path:
        """The folder whose configuration, tokenizer and template the output gets: the instruct model's, always."""
        return self.checkpoints["instruct"].path

    def __str__(self) -> str:
        """A few lines for people and logs."""
        step = next(iter(self.steps.values()))
        terms = " ".join(f"{weight:+g} * {source}" for source, weight in zip(step.sources, step.weights, strict=True))
        return (
            f"{self.recipe.method}: {terms}\n"
            f"{len(self.steps)} tensors, {self.bytes_to_read} bytes in, {self.layout.size_bytes} bytes out as "
            f"{self.recipe.out_dtype} in {len(self.layout.shards)} file(s)"
        )


def plan_merge(
    recipe: Recipe,
    base: Checkpoint,
    instruct: Checkpoint,
    tuned: Mapping[str, TunedInput],
    *,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
) -> MergePlan:
    """Check that the inputs belong together, and place every output byte.

    Args:
        recipe: What to do.
        base: theta_0.
        instruct: theta_I, and the donor of every other file.
        tuned: theta_k by language name.
        max_shard_bytes: Data bytes per output file.

    Raises:
        RecipeError: The recipe does not fit these languages, or `max_shard_bytes` is not positive.
        CheckpointError: The inputs do not fit together: all problems at once, of the common class if they have one.
    """
    if max_shard_bytes <= 0:
        raise RecipeError(f"max_shard_bytes is {max_shard_bytes}, expected more than 0")
    coefficients = recipe.coefficients(list(tuned))
    checkpoints = _labelled(base, instruct, tuned)
    others = {label: checkpoint for label, checkpoint in checkpoints.items() if label != "instruct"}
    problems = [
        *config_problems(instruct, others),
        *_vocabulary_problems(instruct, others),
        *tensor_problems(instruct, others),
    ]
    refuse_all(problems)

    weights = _source_weights(coefficients, checkpoints, tuned)
    rows = _special_rows(instruct) if recipe.special_rows == "instruct" else {}
    layout = lay_out(
        {name: spec.shape for name, spec in instruct.tensors.items()},
        SAFETENSORS_DTYPES[recipe.out_dtype],
        max_shard_bytes,
    )
    steps = {}
    for name in (name for shard in layout.shards for name in shard.tensors):
        spec = instruct.tensors[name]
        steps[name] = MergeStep(
            name, spec.shape, spec.elements, tuple(weights), tuple(weights.values()), rows.get(name, ())
        )
    bytes_to_read = sum(
        checkpoints[label].tensors[step.name].end - checkpoints[label].tensors[step.name].begin
        for step in steps.values()
        for label in step.sources
    )
    return MergePlan(recipe, coefficients, checkpoints, steps, layout, bytes_to_read)


def _labelled(base: Checkpoint, instruct: Checkpoint, tuned: Mapping[str, TunedInput]) -> dict[str, Checkpoint]:
    checkpoints = {"base": base, "instruct": instruct}
    for language, source in tuned.items():
        checkpoints[f"tuned base {language}"] = source.checkpoint
        if source.parent is not None:
            checkpoints[f"parent of {language}"] = source.parent
    return checkpoints


def _vocabulary_problems(instruct: Checkpoint, others: Mapping[str, Checkpoint]) -> list[MergeError]:
    problems: list[MergeError] = []
    vocabularies: dict[str, dict[int, str]] = {}
    for label, checkpoint in {"instruct": instruct, **others}.items():
        try:
            vocabularies[label] = read_vocabulary(checkpoint.path)
        except CheckpointError as error:
            problems.append(type(error)(f"{label}: {error}"))
    ours = vocabularies.pop("instruct", None)
    if ours is None:
        return problems
    rows = instruct.config.get("vocab_size")
    if isinstance(rows, int) and ours and max(ours) >= rows:
        problems.append(
            VocabularyMismatch(
                f"instruct ({instruct.path}): its tokenizer has ids up to {max(ours)}, config.json: vocab_size {rows}; "
                "expected a row for every id"
            )
        )
    compared = [compare_vocabularies(label, theirs, ours) for label, theirs in vocabularies.items()]
    return problems + [problem for problem in compared if problem is not None]


def _source_weights(
    coefficients: Coefficients, checkpoints: Mapping[str, Checkpoint], tuned: Mapping[str, TunedInput]
) -> dict[str, float]:
    """The c_j by label, without zeros, the largest first (ties: the instruct model, then the order of labels)."""
    label_of: dict[Path, str] = {}
    for label in ["instruct", *checkpoints]:
        label_of.setdefault(checkpoints[label].path.resolve(), label)
    weights = dict.fromkeys(["instruct", *checkpoints], 0.0)

    def add(checkpoint: Checkpoint, weight: float) -> None:
        weights[label_of[checkpoint.path.resolve()]] += weight

    base = checkpoints["base"]
    # Summed in this order 1 - a - sum b is exactly what it would be on paper, up to _ZERO.
    add(base, 1.0)
    add(base, -coefficients.a)
    add(checkpoints["instruct"], coefficients.a)
    for language, source in tuned.items():
        add(source.checkpoint, coefficients.b[language])
        add(source.parent or base, -coefficients.b[language])
    kept = {label: weight for label, weight in weights.items() if abs(weight) > _ZERO}
    return dict(sorted(kept.items(), key=lambda item: -item[1]))


def _special_rows(instruct: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Rows of the chat template's special tokens, for each tensor that has one row per token."""
    ids = chat_token_ids(instruct.path)
    rows = {
        name: tuple(number for number in ids if number < spec.shape[0])
        for name, spec in instruct.tensors.items()
        if name.endswith(_ROW_TENSORS) and len(spec.shape) == 2
    }
    if not rows:
        raise ConfigMismatch(
            f"{instruct.path}: no tensor ends in one of {', '.join(_ROW_TENSORS)}, so special_rows: instruct finds no "
            "rows; set special_rows: merge"
        )
    return rows
