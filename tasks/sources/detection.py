"""Which repositories are instruct releases of a family, and when one is ready to be used. Pure functions.

Names decide, since metadata does not: ``base_model`` is often missing and a base may carry a chat template. What a name
promises is then checked by the pre-flight.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from tasks.domain.errors import InputError
from tasks.sources.protocol import RepoState, SourceFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def instruct_releases(states: Iterable[RepoState], *, pattern: str, deny: Sequence[str]) -> list[RepoState]:
    """The states whose repository is an instruct release, the oldest first.

    Args:
        states: what a source lists.
        pattern: regular expression that the whole repository id must match.
        deny: words that rule a repository out, such as ``GGUF`` or ``Math``; whole words, whatever their case.
            A word ends where letters end, so ``VL`` rules out ``Qwen3-VL-8B`` and ``Qwen3VL`` but not ``EVLar``.

    Raises:
        InputError: ``pattern`` is not a regular expression.
    """
    _compiled(pattern)  # also when there is nothing to match
    found = [state for state in states if name_problem(state.repo_id, pattern, deny) is None]
    return sorted(found, key=lambda state: (state.last_modified, state.repo_id))


def name_problem(repo_id: str, pattern: str, deny: Sequence[str]) -> str | None:
    """Why this name is not that of a release, or None; arguments as for ``instruct_releases``."""
    if not _compiled(pattern).fullmatch(repo_id):
        return f"{repo_id} does not match the family's pattern {pattern}"
    denied = _words(tuple(deny)).search(repo_id) if deny else None
    return f"{repo_id} is ruled out by the word {denied[0]!r}" if denied else None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"release pattern {pattern!r} is not a regular expression: {error}") from error


@cache
def _words(deny: tuple[str, ...]) -> re.Pattern[str]:
    """Built once: putting it together anew for each of 30,000 names took 0.3 s."""
    words = "|".join(re.escape(word) for word in deny)
    return re.compile(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])", re.IGNORECASE)


def settled(state: RepoState, now: datetime, min_age_seconds: float) -> str | None:
    """Why this release must still wait, or None when it need not.

    Releases arrive in several commits: weights in batches, then a fixed card, then a fixed template.
    """
    if state.disabled:
        return f"{state.repo_id} is disabled at its source"
    age = (now - state.last_modified).total_seconds()
    if age < min_age_seconds:
        return f"{state.repo_id}@{state.sha[:12]} changed {age:.0f} s ago; it settles at {min_age_seconds:.0f} s"
    return None


def complete(files: Iterable[SourceFile], index: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What is missing from the weights, one line each; nothing when they are all there.

    Args:
        files: the repository's listing.
        index: the parsed ``model.safetensors.index.json``, or None when the repository has none.
    """
    by_path = {file.path: file for file in files}
    if index is None:
        if SINGLE in by_path:
            return ()
        others = sorted(path for path in by_path if path.endswith(".safetensors") and "/" not in path)
        return (f"neither {SINGLE} nor {INDEX}; safetensors there: {', '.join(others) or 'none'}",)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        return (f"{INDEX}: no weight_map",)
    shards = sorted({str(shard) for shard in weight_map.values()})
    problems = [f"{shard}: named by {INDEX} but not there" for shard in shards if shard not in by_path]
    empty = [shard for shard in shards if shard in by_path and by_path[shard].size == 0]
    problems += [f"{shard}: named by {INDEX} but empty" for shard in empty]
    return tuple(problems)
