"""Is this release a model that we can merge? Answered from listings, small files and headers, before any download.

For 16 GB of weights this reads a few megabytes. Whatever is wrong is told at once, so that one look at the refusal is
enough.
"""

import math
from collections.abc import Collection

from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef, Noun
from tasks.sources.comparison import code_problems, config_problems, tensor_problems
from tasks.sources.download import FORBIDDEN_SUFFIXES, needed_bytes, wanted
from tasks.sources.facts import ModelFacts
from tasks.sources.protocol import Source
from tasks.sources.tokenizer import TokenizerDifference, compare

TOKENIZER = "tokenizer.json"


class PreflightReport(Noun):
    """What was found out about a release that may be downloaded."""

    release: ModelRef
    base: ModelRef
    architectures: tuple[str, ...]
    tensors: int
    parameters: int
    shards: tuple[str, ...]
    added_tokens: tuple[str, ...]
    """Tokens that only the release has."""
    renamed_tokens: tuple[str, ...]
    """Reserved tokens of the base that have a name in the release, as ``old -> new``."""
    ignored_weights: tuple[str, ...]
    """Weights in other formats, which are never downloaded."""
    download_bytes: int
    needed_bytes: int
    """Free bytes that the download asks for."""


def preflight(
    source: Source, release: ModelRef, base: ModelRef, *, allowed_architectures: Collection[str]
) -> PreflightReport:
    """Look over a release before it is downloaded.

    Args:
        source: has both models.
        release: the new instruct model.
        base: the model that its delta is taken against.
        allowed_architectures: the family's, by the names that config.json uses.

    Raises:
        ModelRefused: with every problem found.
        HubUnavailable: the source did not answer, so nothing is known.
    """
    ours, its = ModelFacts(source, release), ModelFacts(source, base)
    difference = _tokenizer_difference(ours, its)
    chosen = wanted(ours.files.values())
    comparisons = [
        *code_problems(ours),
        *config_problems(ours, its, allowed_architectures),
        *tensor_problems(ours, its),
        *(f"{TOKENIZER} of {release}: {problem}" for problem in difference.problems),
        *_format_problems(ours),
    ]
    # Read last: the comparisons above read files too, and what they could not read is told here.
    problems = [*ours.problems, *its.problems, *comparisons]
    if problems:
        raise ModelRefused(f"{release} cannot be merged with base {base}", problems=dict.fromkeys(problems))
    return PreflightReport(
        release=release,
        base=base,
        architectures=ours.architectures,
        tensors=len(ours.tensors),
        parameters=sum(math.prod(tensor.shape) for tensor in ours.tensors.values()),
        shards=tuple(header.path for header in ours.headers),
        added_tokens=difference.added,
        renamed_tokens=difference.renamed,
        ignored_weights=_other_weights(ours),
        download_bytes=sum(file.size for file in chosen),
        needed_bytes=needed_bytes(chosen),
    )


def _other_weights(facts: ModelFacts) -> tuple[str, ...]:
    return tuple(sorted(path for path in facts.files if path.endswith(FORBIDDEN_SUFFIXES)))


def _format_problems(facts: ModelFacts) -> list[str]:
    """Weights that are not there as safetensors, or that could not be verified after a download."""
    shards = [file for file in wanted(facts.files.values()) if file.path.endswith(".safetensors")]
    if not shards:
        others = ", ".join(_other_weights(facts)) or "no weights at all"
        return [f"weights of {facts.ref}: {others}; only *.safetensors are read"]
    return [
        f"{file.path} of {facts.ref}: no sha256 in the listing, so a download could not be verified"
        for file in shards
        if file.sha256 is None
    ]


def _tokenizer_difference(ours: ModelFacts, its: ModelFacts) -> TokenizerDifference:
    """Equal files are not read: they are most of what a pre-flight would transfer."""
    mine, theirs = ours.files.get(TOKENIZER), its.files.get(TOKENIZER)
    if mine is not None and theirs is not None and mine.blob_id == theirs.blob_id:
        return TokenizerDifference((), (), ())
    both = ours.json_object(TOKENIZER), its.json_object(TOKENIZER)
    if not both[0] or not both[1]:
        return TokenizerDifference((), (), ())  # not there or not sound, which is on the list of problems now
    rows = ours.config.get("vocab_size")
    try:
        return compare(both[0], both[1], rows if isinstance(rows, int) else 0)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return TokenizerDifference((f"not the structure that tokenizers writes ({error!r})",), (), ())
