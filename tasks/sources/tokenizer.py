"""Whether two models read text alike: id for id, since a merge adds up the embedding rows of equal ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHOWN = 5
"""Differences named one by one; the rest are counted."""


@dataclass(frozen=True)
class TokenizerDifference:
    """How a release's tokenizer departs from its base's."""

    problems: tuple[str, ...]
    added: tuple[str, ...]
    """Tokens that only the release has, after those of the base: chat markers, which is fine."""
    renamed: tuple[str, ...]
    """Reserved tokens of the base that the release has given a name, which is fine."""


def compare(release: Mapping[str, Any], base: Mapping[str, Any], rows: int) -> TokenizerDifference:
    """Compare two parsed ``tokenizer.json`` files.

    Args:
        release: the newer one.
        base: the one that it must agree with.
        rows: rows of the embedding; every id must have one.
    """
    mine, theirs = _tokens(release), _tokens(base)
    my_added, their_added = _added(release), _added(base)
    problems: list[str] = []
    kinds = _kind(release), _kind(base)
    if kinds[0] != kinds[1]:
        problems.append(f"model type is {kinds[0]} but the base's is {kinds[1]}")
    shared = sorted(mine.keys() & theirs.keys())
    differing = [i for i in shared if mine[i] != theirs[i]]
    renamed = [i for i in differing if i in my_added and i in their_added]
    foreign = [i for i in differing if not (i in my_added and i in their_added)]
    if foreign:
        named = ", ".join(f"{i}: {mine[i]!r} but {theirs[i]!r} in the base" for i in foreign[:SHOWN])
        problems.append(f"{len(foreign)} of {len(shared)} ids mean another token; the first: {named}")
    lost = sorted(theirs.keys() - mine.keys())
    if lost:
        named = ", ".join(f"{i}: {theirs[i]!r}" for i in lost[:SHOWN])
        problems.append(f"{len(lost)} ids of the base are missing; the first: {named}")
    fresh = sorted(mine.keys() - theirs.keys())
    plain = [i for i in fresh if i not in my_added]
    if plain:
        named = ", ".join(f"{i}: {mine[i]!r}" for i in plain[:SHOWN])
        problems.append(f"{len(plain)} ids are new and not added tokens; the first: {named}")
    outside = [i for i in fresh if i >= rows]
    if outside:
        problems.append(f"{len(outside)} new ids have no row in an embedding of {rows}; the first: {outside[:SHOWN]}")
    merges = _merges(release), _merges(base)
    if merges[0] != merges[1]:
        at = next((n for n, pair in enumerate(zip(*merges, strict=False)) if pair[0] != pair[1]), min(map(len, merges)))
        told = [side[at] if at < len(side) else None for side in merges]
        problems.append(
            f"merges differ ({len(merges[0])}, {len(merges[1])} in the base); "
            f"the first at {at}: {told[0]} but {told[1]} in the base"
        )
    return TokenizerDifference(
        tuple(problems),
        tuple(mine[i] for i in fresh if i in my_added),
        tuple(f"{theirs[i]} -> {mine[i]}" for i in renamed),
    )


def _kind(tokenizer: Mapping[str, Any]) -> str:
    return str((tokenizer.get("model") or {}).get("type"))


def _tokens(tokenizer: Mapping[str, Any]) -> dict[int, str]:
    """Id -> token. Unigram vocabularies are lists of (token, score); all others are token -> id."""
    vocab = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocab, list):
        tokens = {number: str(entry[0]) for number, entry in enumerate(vocab)}
    else:
        tokens = {int(number): str(token) for token, number in vocab.items()}
    return tokens | {int(t["id"]): str(t["content"]) for t in tokenizer.get("added_tokens") or []}


def _added(tokenizer: Mapping[str, Any]) -> set[int]:
    return {int(t["id"]) for t in tokenizer.get("added_tokens") or []}


def _merges(tokenizer: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Older files write a merge as "a b", newer ones as ["a", "b"]."""
    merges = (tokenizer.get("model") or {}).get("merges") or []
    return [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(map(str, m)) for m in merges]
