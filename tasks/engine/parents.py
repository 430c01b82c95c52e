"""The merge's own check of lineage: is every model of it the child of the checkpoint that its delta is taken against?

A wrong parent is the worst silent error of the field, since the result still speaks. tau_L = theta_L - parent:

- theta_L trained from the instruct model and said to come from the base: tau_L holds tau_I, which is counted twice;
- theta_L trained from the base and said to come from the instruct model: tau_L holds -tau_I, which is deleted.

What cannot be seen: a distance has no direction, so base and instruct model that have changed places are noticed only
by a tuned base that lies at the other one of the two, and of two models it stays open which one is the parent.
"""

from collections.abc import Mapping
from typing import NamedTuple

from .checkpoint import Checkpoint
from .errors import CheckpointError, ForeignParent, MergeError, UndecidedParent
from .lineage import ENOUGH_SIGMAS, RELATED, Between, Comparison, doubt

_ALLOW = "pass --allow-foreign-parent if you know why"


class _Stated(NamedTuple):
    """A tuned base and what it is said to come from."""

    label: str
    """``tuned base eu``."""
    checkpoint: Checkpoint
    parent: str
    """The label of the stated parent among the candidates."""


def check_parents(
    base: Checkpoint, instruct: Checkpoint, tuned: Mapping[str, tuple[Checkpoint, Checkpoint | None]]
) -> list[MergeError]:
    """Every model of a merge that is not, or not surely, the child of its stated parent.

    Reads a few hundred kB of each model. A tuned base may come from the base, the instruct model, or any parent that
    this merge states; the instruct model from the base, and from no tuned base of the merge.

    Args:
        base: theta_0.
        instruct: theta_I.
        tuned: Language -> the tuned base, and its stated parent (None: the base).

    Returns:
        A `ForeignParent` for each (`UndecidedParent` where the weights cannot tell), with both distances, its place
        between base and instruct model, what the merge would do, and what to do about it. A `CheckpointError` where a
        model cannot be sampled.
    """
    candidates = {"base": base, "instruct": instruct}
    labels = {base.path.resolve(): "base"}
    labels.setdefault(instruct.path.resolve(), "instruct")
    stated: list[_Stated] = []
    for language, (checkpoint, parent) in tuned.items():
        place = (parent or base).path.resolve()
        if place not in labels:
            labels[place] = f"parent of {language}"
            candidates[labels[place]] = parent or base
        stated.append(_Stated(f"tuned base {language}", checkpoint, labels[place]))
    problems: list[MergeError] = []
    refused: set[str] = set()
    for one in stated:
        found = _tuned_problems(one, candidates)
        problems += found
        refused |= {one.label for problem in found if isinstance(problem, ForeignParent)}
    return problems + _instruct_problems(instruct, candidates, stated, refused)


def _tuned_problems(tuned: _Stated, candidates: Mapping[str, Checkpoint]) -> list[MergeError]:
    own = tuned.checkpoint.path.resolve()
    # A tuned base may be another one's parent; one that is the instruct model itself has to be seen.
    others = {
        label: other
        for label, other in candidates.items()
        if label in ("base", "instruct", tuned.parent) or other.path.resolve() != own
    }
    try:
        found = Comparison(tuned.checkpoint, others)
    except CheckpointError as error:
        return list(error.problems)
    problem = _unrelated(tuned.label, tuned.checkpoint, tuned.parent, others, found)
    if problem:
        return [problem]
    nearest = str(found.nearest)
    place = found.between(nearest, tuned.parent)
    if place is None:  # the stated one, or one with the same weights: either gives the same delta
        return _doubts(tuned, others, found)
    if place.sigmas < ENOUGH_SIGMAS:
        return [_undecided(tuned, others, found, nearest, tuned.parent, place)]
    return [_foreign(tuned, others, found, nearest)]


def _doubts(tuned: _Stated, others: Mapping[str, Checkpoint], found: Comparison) -> list[MergeError]:
    """The stated parent is nearest; the first other candidate that could be it all the same."""
    for label in found.distances:
        place = found.between(tuned.parent, label)
        if place is not None and place.sigmas < ENOUGH_SIGMAS:
            return [_undecided(tuned, others, found, tuned.parent, label, place)]
    return []


def _instruct_problems(
    instruct: Checkpoint, candidates: Mapping[str, Checkpoint], stated: list[_Stated], refused: set[str]
) -> list[MergeError]:
    """Unrelated to the base, or trained from a tuned base: then tau_I would hold that language's delta."""
    try:
        found = Comparison(instruct, {"base": candidates["base"]})
        unrelated = _unrelated("instruct", instruct, "base", candidates, found)
        problems: list[MergeError] = [unrelated] if unrelated else []
        for tuned in [] if unrelated else stated:
            parent = candidates[tuned.parent]
            if instruct.path.resolve() in (parent.path.resolve(), tuned.checkpoint.path.resolve()):
                continue
            found = Comparison(instruct, {tuned.parent: parent, tuned.label: tuned.checkpoint})
            if found.incomparable:
                continue  # told of the tuned base
            place = found.between(tuned.label, tuned.parent)
            if place is None or place.sigmas < ENOUGH_SIGMAS:
                continue
            # A tuned base that comes from the instruct model is about as near. Of three models in a row the middle one
            # is the parent: what lies farther along the way from the stated parent to the other one comes later.
            if tuned.label in refused and not _is_middle(tuned, instruct, parent):
                continue
            problems.append(
                ForeignParent(
                    f"{instruct.path}: instruct lies nearer to {tuned.label} ({tuned.checkpoint.path}), "
                    f"{found.distances[tuned.label]:.4f} of its length, than to {tuned.parent} ({parent.path}), "
                    f"{found.distances[tuned.parent]:.4f}. It was trained from that tuned base, or they have most of "
                    "their training in common: the merge would count the language delta twice. Take an instruct model "
                    f"that was trained from {tuned.parent}, or {_ALLOW}"
                )
            )
    except CheckpointError as error:
        return list(error.problems)
    return problems


def _is_middle(tuned: _Stated, instruct: Checkpoint, parent: Checkpoint) -> bool:
    """Whether the tuned base lies between its stated parent and the instruct model, rather than beyond the latter."""
    of_instruct = Comparison(instruct, {"parent": parent, "tuned": tuned.checkpoint}).between("parent", "tuned")
    of_tuned = Comparison(tuned.checkpoint, {"parent": parent, "instruct": instruct}).between("parent", "instruct")
    if of_instruct is None or of_tuned is None:
        return False
    return of_instruct.projection > of_tuned.projection


def _unrelated(
    label: str, model: Checkpoint, parent: str, candidates: Mapping[str, Checkpoint], found: Comparison
) -> ForeignParent | None:
    stated = f"its stated parent {parent} ({candidates[parent].path})"
    if parent in found.incomparable:
        return ForeignParent(
            f"{model.path}: {label} cannot be compared with {stated}: {found.incomparable[parent]}. Expected models of "
            "one shape; take the checkpoint that it was trained from"
        )
    if found.nearest is not None and found.distances[found.nearest] >= RELATED:
        return ForeignParent(
            f"{model.path}: {label} has nothing to do with {stated}: {found.distances[parent]:.2f} of its length away, "
            f"expected less than {RELATED} (unrelated models are about 1.41 apart){_nearest_of(found, parent)}. Their "
            f"difference is noise; take the checkpoint that it was trained from, or {_ALLOW}"
        )
    return None


def _nearest_of(found: Comparison, parent: str) -> str:
    return "" if found.nearest in (None, parent) else f"; nor with {found.nearest}, the nearest of this merge"


def _foreign(tuned: _Stated, others: Mapping[str, Checkpoint], found: Comparison, nearest: str) -> ForeignParent:
    swap = ""
    if (tuned.parent, nearest) == ("base", "instruct"):
        effect = "the merge would count the instruct delta twice, once inside the language delta"
        swap = ". If base and instruct model have changed places in the recipe, change them back"
    elif (tuned.parent, nearest) == ("instruct", "base"):
        effect = "the language delta would hold the instruct delta with a minus sign, and the merge would delete it"
    else:
        effect = f"the language delta would also hold all that lies between {tuned.parent} and {nearest}"
    direction = f". A distance has no direction: that {nearest} was trained from it would look the same"
    return ForeignParent(
        f"{_both(tuned, others, found, nearest)}: {effect}. State `parent: {others[nearest].path}` for it, or {_ALLOW}"
        f"{swap}{'' if nearest == 'base' else direction}"
    )


def _undecided(
    tuned: _Stated, others: Mapping[str, Checkpoint], found: Comparison, one: str, other: str, place: Between
) -> UndecidedParent:
    told = _both(tuned, others, found, other if one == tuned.parent else one)
    return UndecidedParent(
        f"{told}: undecided, {doubt(one, other, place)}, and {ENOUGH_SIGMAS:g} standard errors are asked for. With the "
        f"wrong one of the two the language delta would hold the difference between them, or lack it. Find out which "
        "it was trained from"
    )


def _both(tuned: _Stated, others: Mapping[str, Checkpoint], found: Comparison, rival: str) -> str:
    told = [f"{found.distances[label]:.4f} from {label} ({others[label].path})" for label in (tuned.parent, rival)]
    place = found.between("base", "instruct") if {"base", "instruct"} <= found.distances.keys() else None
    projection = (
        f"; projection of its way from the base on the instruct delta {place.projection:.2f} +- {place.stderr:.2f} (0: "
        "trained from the base, 1: from the instruct model)"
        if place
        else ""
    )
    return (
        f"{tuned.checkpoint.path}: {tuned.label} is stated to come from {tuned.parent}, and lies {' and '.join(told)}, "
        f"in units of its length{projection}"
    )
