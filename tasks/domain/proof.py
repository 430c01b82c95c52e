"""The proof that what answers is the model that was judged: from what was heard, and what is on record. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from tasks.domain.errors import WrongModel
from tasks.domain.models import Digest
from tasks.domain.outputs import (
    Answer,
    Apart,
    ReferenceOutputs,
    compare,
    measured_facts,
    tell_apart,
    tolerance_of,
)


class Proof(NamedTuple):
    """By what a model is known to be the one that was judged; no proof where ``unproven`` says why."""

    digest: Digest
    compared: int = 0
    """Log-probabilities."""
    largest: float = 0.0
    """Greatest difference of one, in nats."""
    tolerance: float = 0.0
    apart: Apart | None = None
    """Whether the model before it would have been seen; None where there was none."""
    unproven: str = ""

    def __str__(self) -> str:
        """For logs and pages."""
        if self.unproven:
            return f"not proved: {self.unproven}"
        told = f"{self.compared} log-probabilities as judged, greatest difference {self.largest:.4f}"
        before = "" if self.apart is None else f"; beside the model before it: {self.apart.why}"
        return f"{told} of {self.tolerance:g}{before}"


def prove(
    known: ReferenceOutputs,
    heard: Sequence[Answer],
    *,
    where: str,
    served_by: Collection[tuple[str, str]],
    generation: int | None = None,
    previous: Digest | None = None,
    before: ReferenceOutputs | None = None,
) -> Proof:
    """Hold what was heard against what was recorded when the model was judged.

    Args:
        known: what is on record of the artifact that should answer.
        heard: what answered now.
        where: who was asked, for the message.
        served_by: artifact and generation that the gateway named, each pair once.
        generation: the one that must be named; None for any.
        previous: artifact that the channel served before; None if it served nothing.
        before: what is on record of that one, served in the same way.

    Raises:
        WrongModel: something else answers; everything that differs is listed.
    """
    tolerance, digest = tolerance_of(known.facts), known.artifact_digest
    found = compare(known.answers, heard, tolerance)
    wanted = digest if generation is None else f"{digest} as generation {generation}"
    problems = list(found.problems)
    problems += [
        f"an answer came from artifact {artifact or 'unknown'} as generation {told or 'unknown'}, expected {wanted}"
        for artifact, told in served_by
        if artifact != digest or (generation is not None and told != str(generation))
    ]
    is_other = before is not None and before.artifact_digest != digest
    if found.problems and before is not None and is_other and not compare(before.answers, heard, tolerance).problems:
        problems.append(f"these are the answers of {before.artifact_digest[:12]}, which the channel served before")
    if problems:
        raise WrongModel(
            f"what answers {where} is not artifact {digest[:12]} as it was judged. Do not let it serve: look at the "
            "instance's log, and stage it anew",
            problems=problems,
        )
    apart = None
    if previous is not None and previous != digest:
        apart = (
            tell_apart(known.answers, before.answers, tolerance)
            if before is not None and is_other
            else Apart(
                False, f"cannot tell them apart: nothing is on record of {previous[:12]} as it would be served now"
            )
        )
    return Proof(digest, found.compared, found.largest, tolerance, apart)


def nothing_on_record(digest: Digest, serving: Mapping[str, Any]) -> Proof:
    """There is nothing to compare with, which proves nothing."""
    served = ", ".join(f"{name} {value}" for name, value in measured_facts(serving).items())
    return Proof(
        digest,
        unproven=f"no reference outputs are on record for artifact {digest[:12]} as it is served now ({served}): "
        "it was judged by an earlier version, or served otherwise",
    )
