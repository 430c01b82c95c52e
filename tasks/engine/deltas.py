"""How long the deltas are, and whether they agree: the numbers that the literature ties to a merge that collapses.

Estimated from the sample of `sampling`, every element standing for its share of its kind, embeddings among them. The
warnings refuse nothing: where merges begin to fail depends on model and weights, and their limits are no laws.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .checkpoint import Checkpoint
from .errors import CheckpointError
from .sampling import ELEMENTS, Floats, Picked, choose_slices, pick, shared_matrices

LONG = 0.2
"""|tau_L| / |theta_0| from which on a delta is called long. Continued pre-training at a large scale is what merges are
known to fail with: Sailor on Qwen1.5-Chat keeps one ability or loses both (WIDEN, arXiv 2408.03092), and monolingual
pre-training collapses (arXiv 2605.25846), both without a figure. The figure is the demo family's: languages of 0.11
and 0.12 graft well, one tuned twice as far spoilt the answers' format, and four together, 0.28, undo one another."""
UNEVEN = 10.0
"""|tau_L| / |tau_I| from which on the instruct delta drowns. The demo's merges work at 2.5 to 4."""
ALIKE = 0.5
"""Cosine from which on two deltas are called near-duplicates: a quarter of the one's square length is the other's, and
a sum counts it twice. Deltas that were trained apart are nearly orthogonal (Ilharco et al., arXiv 2212.04089); in
the demo family 0.04 to 0.12."""
INSIDE = 0.5
"""Projection from which on so much of tau_I is in tau_L that weights chosen for the one change the other as well."""


@dataclass(frozen=True)
class LanguageFigures:
    """Of one language's delta tau_L = theta_L - its stated parent. None where a length below the line is 0."""

    length: float | None
    """|tau_L| / |theta_0|."""
    to_instruct: float | None
    """|tau_L| / |tau_I|."""
    cosine: float | None
    """Between tau_I and tau_L: 0 for deltas that have nothing in common."""
    projection: float | None
    """<tau_L, tau_I> / |tau_I|^2, the share of the instruct delta that is in this one: 0 if the parent is right, near 1
    if it was trained from the instruct model and its parent is said to be the base, near -1 the other way round."""


@dataclass(frozen=True)
class DeltaFigures:
    """Of all deltas of a merge."""

    instruct: float | None
    """|tau_I| / |theta_0|."""
    languages: dict[str, LanguageFigures]
    """By language."""
    together: float | None
    """|sum of tau_L| / |theta_0|, each with weight 1."""
    cosines: dict[str, float | None]
    """``ca,eu`` -> the cosine between two languages' deltas."""
    elements: int
    """Sampled of each model."""


def delta_figures(
    base: Checkpoint,
    instruct: Checkpoint,
    tuned: Mapping[str, tuple[Checkpoint, Checkpoint | None]],
    elements: int = ELEMENTS,
) -> DeltaFigures:
    """Lengths, cosines and projections of the deltas, over the matrices that all of these models share.

    Args:
        base: theta_0.
        instruct: theta_I.
        tuned: Language -> the tuned base, and its parent (None: the base).
        elements: Sampled of each model, at most.

    Raises:
        CheckpointError: The models share no matrices, or one has a sampled value that is not finite.
    """
    others = {"instruct": instruct}
    for language, (checkpoint, parent) in tuned.items():
        others[f"tuned base {language}"] = checkpoint
        if parent is not None:
            others[f"parent of {language}"] = parent
    specs, incomparable = shared_matrices(base, others)
    if incomparable or not specs:
        told = "; ".join(f"{label} ({others[label].path}): {why}" for label, why in incomparable.items())
        raise CheckpointError(f"{base.path}: the base cannot be compared with all others: {told or 'no shared matrix'}")
    slices = choose_slices(specs, elements)
    theta = pick(base, slices)
    sampled = {label: pick(other, slices).values for label, other in others.items()}
    # With its weight's root in each element, a plain product of vectors is the model's, and not the sample's.
    root = np.sqrt(np.repeat([piece.weight for piece in slices], _sizes(theta)))
    tau_i = root * (sampled["instruct"] - theta.values)
    taus = {
        language: root * (sampled[f"tuned base {language}"] - sampled.get(f"parent of {language}", theta.values))
        for language in tuned
    }
    length = float(np.linalg.norm(root * theta.values))
    return DeltaFigures(
        instruct=_ratio(float(np.linalg.norm(tau_i)), length),
        languages={language: _of_language(tau, tau_i, length) for language, tau in taus.items()},
        together=_ratio(float(np.linalg.norm(sum(taus.values(), np.zeros_like(tau_i)))), length),
        cosines={f"{one},{other}": _cosine(taus[one], taus[other]) for one, other in combinations(taus, 2)},
        elements=len(tau_i),
    )


def warnings(figures: DeltaFigures) -> list[str]:
    """What these figures make likely, each with its number and the limit; empty if there is nothing to say."""
    told: list[str] = []
    if figures.instruct == 0:
        told.append("the instruct model equals the base in every sampled element: there is no instruct delta")
    for language, found in figures.languages.items():
        told += _of_one(language, found)
    if len(figures.languages) > 1 and (figures.together or 0) > LONG:
        told.append(
            f"the language deltas together are {figures.together:.2f} of the base's length (over {LONG}): with weights "
            "of 1 they are likely to undo one another; choose smaller ones"
        )
    told += [
        f"the deltas of {pair.replace(',', ' and ')} are near-duplicates (cosine {cosine:.2f}, over {ALIKE}): what "
        "they share is counted once for each; was one trained from the other? Then state it as `parent:`"
        for pair, cosine in figures.cosines.items()
        if cosine is not None and cosine > ALIKE
    ]
    return told


def _of_one(language: str, found: LanguageFigures) -> list[str]:
    if found.length == 0:
        return [f"{language} equals its parent in every sampled element: there is no language delta"]
    told: list[str] = []
    if (found.length or 0) > LONG:
        told.append(
            f"the delta of {language} is {found.length:.2f} of the base's length (over {LONG}): merges with deltas of "
            "so much training are known to collapse; try smaller weights"
        )
    if (found.to_instruct or 0) > UNEVEN:
        told.append(
            f"the delta of {language} is {found.to_instruct:.1f} times as long as the instruct delta (over "
            f"{UNEVEN:g}): expect the language to stay and the instructions to go; try smaller weights for it"
        )
    if found.cosine is not None and abs(found.cosine) > ALIKE:
        share = "a near-duplicate" if found.cosine > 0 else "nearly the opposite"
        told.append(
            f"the delta of {language} is {share} of the instruct delta (cosine {found.cosine:.2f}, limit {ALIKE}): the "
            f"merge {'counts what they share twice' if found.cosine > 0 else 'takes it away'}; is its parent right?"
        )
    elif found.projection is not None and abs(found.projection) > INSIDE:
        told.append(
            f"the delta of {language} holds {found.projection:.2f} times the instruct delta (limit {INSIDE}): each "
            "weight given to the language changes the instructions as well; is its parent right?"
        )
    return told


def _of_language(tau: Floats, tau_i: Floats, length: float) -> LanguageFigures:
    own, instruct = float(np.linalg.norm(tau)), float(np.linalg.norm(tau_i))
    return LanguageFigures(
        length=_ratio(own, length),
        to_instruct=_ratio(own, instruct),
        cosine=_cosine(tau, tau_i),
        projection=_ratio(float(tau @ tau_i), instruct * instruct),
    )


def _cosine(one: Floats, other: Floats) -> float | None:
    return _ratio(float(one @ other), float(np.linalg.norm(one)) * float(np.linalg.norm(other)))


def _ratio(above: float, below: float) -> float | None:
    return above / below if below and math.isfinite(above / below) else None


def _sizes(picked: Picked) -> list[int]:
    """Elements of each slice."""
    ends = [*picked.first[1:], len(picked.values)]
    return [int(end - begin) for begin, end in zip(picked.first, ends, strict=True)]
