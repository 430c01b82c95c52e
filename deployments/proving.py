"""What the weights say about a tuned base's parent: the delta is taken against it, so it is proven and not believed."""

from typing import Any, NamedTuple

from tasks.domain.catalog import Family, Repository
from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef
from tasks.doors import open_ledger, open_source
from tasks.sources.detection import instruct_releases
from tasks.sources.parentage import ENOUGH_SIGMAS, Proof, nearest_parent

ALIKE = 1e-6
"""A model nearer than this to its parent has nothing of its own: rounding to bfloat16 alone moves weights by 1e-3."""


class Proven(NamedTuple):
    """A parent, and the numbers that speak for it."""

    parent: ModelRef
    proof: Proof
    absent: tuple[str, ...]
    """Tuned bases of other languages that could not be compared, since they are not to be had."""

    @property
    def says(self) -> str:
        """In one sentence."""
        told = f"{self.parent}: {_distances(self.proof)}"
        if self.proof.sigmas is not None:
            told += f"; the next is farther by {self.proof.sigmas:.1f} standard errors"
        return f"{told} ({self.proof.elements:,} weights compared)"

    def as_json(self) -> dict[str, Any]:
        """As in the report of the command."""
        proof = self.proof
        return {
            **{"repo": self.parent.repo_id, "revision": self.parent.revision, "distances": proof.distances},
            **{"sigmas": proof.sigmas, "margin": proof.margin, "says": self.says},
            "incomparable": {**proof.incomparable, **dict.fromkeys(self.absent, "not to be had")},
        }


def prove_parent(family: Family, language: str, model: ModelRef, base: ModelRef, stated: Repository | None) -> Proven:
    """That ``model`` was trained from the parent that the catalog states, or from the base where it states none.

    Candidates are the base, that parent, the family's other tuned bases, and every instruct release that is known.

    Raises:
        ModelRefused: another one is nearer, none is near, or two are about as near; with the distances.
    """
    source = open_source()
    parent = source.resolve(stated.repo, stated.revision) if stated else base
    others, absent = _siblings(family, language)
    states = [state for org in family.instruct.organizations for state in source.list_organisation(org)]
    listed = instruct_releases(states, pattern=family.instruct.pattern, deny=family.instruct.deny)
    releases = [state.ref for state in listed] + [r.ref for r in open_ledger().releases(family.family)]
    candidates = [ref for ref in (base, parent, *others, *releases) if ref.repo_id != model.repo_id]
    proof = nearest_parent(source, model, candidates)
    problem = _problem(proof, parent, stated is not None)
    if problem:
        raise ModelRefused(f"the parent of {model} is not proven", problems=[problem])
    return Proven(parent, proof, absent)


def _siblings(family: Family, language: str) -> tuple[list[ModelRef], tuple[str, ...]]:
    """The family's other tuned bases; and the names of those that are not there (yet), which is no reason to refuse."""
    found, absent = [], []
    for code, tuned in family.tuned_bases.items():
        if code == language:
            continue
        try:
            found.append(open_source().resolve(tuned.repo, tuned.revision))
        except ModelRefused:
            absent.append(tuned.repo)
    return found, tuple(absent)


def _problem(proof: Proof, parent: ModelRef, is_stated: bool) -> str | None:
    told, model = _distances(proof), proof.model
    says = "the catalog states" if is_stated else "without a stated parent it is the base,"
    if proof.winner is None or not proof.descends:
        return f"weights of {model}: no relative of this family ({told}; unrelated models are about 1.4 apart)"
    if (proof.distance or 0.0) < ALIKE:
        return f"weights of {model} are those of {proof.winner}: there is no difference to graft"
    if proof.winner != parent:
        known = proof.incomparable.get(f"{parent.repo_id}@{parent.revision}")
        why = f" ({parent} could not be compared: {known})" if known else ""
        return (
            f"weights of {model}: nearest is {proof.winner}, but {says} {parent}{why}; {told}. If it was trained from "
            f"the former, state `parent: {{repo: {proof.winner.repo_id}}}` in its entry"
        )
    if not proof.proven:
        return (
            f"weights of {model}: {parent} is nearest, by only {proof.sigmas or 0:.1f} standard errors where "
            f"{ENOUGH_SIGMAS:g} are asked for; {told}. Two of these are about the same model: which one is the parent?"
        )
    return None


def _distances(proof: Proof) -> str:
    shown = [f"{key.partition('@')[0]} {value:.4f}" for key, value in list(proof.distances.items())[:4]]
    return "distance to " + ", ".join(shown) if shown else "no candidate could be compared"
