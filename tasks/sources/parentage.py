"""Which model was this one trained from? Asked of the weights, since cards are often silent or wrong about it.

Training moves weights a little: a child lies near its parent and far from every model of another origin. So a few
thousand elements of a few matrices, read by range, answer it at the price of some hundred kilobytes. Two models of
unrelated origin are about sqrt(2) apart; the demo family's instruct models lie 0.03 from their base, its Basque model
0.12. A distance has no direction: candidates are models that may be the parent, not children of the one asked about.
"""

import math
import struct
from collections.abc import Sequence

from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef, Noun
from tasks.sources.facts import ModelFacts
from tasks.sources.headers import Tensor
from tasks.sources.protocol import Source

MATRICES = 8
"""Sampled per model, spread over its layers."""
ELEMENTS = 2048
"""Consecutive elements per matrix: one ranged request of 4 to 8 KB."""
DESCENDS = 0.5
"""A model nearer than this to another one descends from it, or both from a third."""
ENOUGH_SIGMAS = 3.0
"""Standard errors by which the nearest candidate must be nearer than the next."""
FORMATS = {"BF16": (2, "H"), "F16": (2, "e"), "F32": (4, "f")}


class Proof(Noun):
    """What the weights of one model say about where it comes from."""

    model: ModelRef
    distances: dict[str, float]
    """``repo@revision`` -> |model - candidate| / |model| over the sampled elements; 0 is equal, 1.4 unrelated."""
    incomparable: dict[str, str]
    """Candidates that could not be compared -> why."""
    winner: ModelRef | None
    """The nearest candidate; None when there was none to compare."""
    margin: float | None
    """How much nearer the winner is than the next one, 0 to 1: 1 - first / second. None with one candidate."""
    sigmas: float | None
    """The same in standard errors over the sampled elements. None with one candidate."""
    elements: int
    """Sampled of each model."""
    bytes_read: int
    """Of all models: headers and sampled elements."""

    @property
    def distance(self) -> float | None:
        """Of the winner."""
        return None if self.winner is None else self.distances[_key(self.winner)]

    @property
    def descends(self) -> bool:
        """Whether the model and the winner are of one origin."""
        return self.distance is not None and self.distance < DESCENDS

    @property
    def proven(self) -> bool:
        """Whether the winner is the parent among these candidates: of one origin, and no other is about as near."""
        return self.descends and (self.sigmas is None or self.sigmas >= ENOUGH_SIGMAS)


def relative_distance(source: Source, a: ModelRef, b: ModelRef) -> float:
    """|a - b| / |a| over sampled elements of shared matrices: 0 is equal, about 1.4 unrelated.

    Raises:
        ModelRefused: one of the two cannot be read, or they share no matrices.
        HubUnavailable: the source did not answer.
    """
    proof = nearest_parent(source, a, [b])
    if proof.distance is None:
        raise ModelRefused(f"{a} cannot be compared with {b}: {proof.incomparable[_key(b)]}")
    return proof.distance


def nearest_parent(source: Source, model: ModelRef, candidates: Sequence[ModelRef]) -> Proof:
    """Which of ``candidates`` the weights of ``model`` lie nearest to. The same elements of all of them are compared.

    Args:
        source: has all of them.
        model: whose parent is asked for.
        candidates: models that it may have been trained from; those that cannot be read are told in the result.

    Raises:
        ModelRefused: ``model`` itself cannot be read or sampled.
        HubUnavailable: the source did not answer, so nothing is known.
    """
    ours = _Weights(source, model)
    others: dict[ModelRef, _Weights] = {}
    incomparable: dict[str, str] = {}
    for candidate in dict.fromkeys(candidates):
        try:
            weights = _Weights(source, candidate)
            _check_shared(ours, weights)
        except ModelRefused as refusal:
            incomparable[_key(candidate)] = str(refusal)
        else:
            others[candidate] = weights
    names = _chosen([ours, *others.values()])
    if not names:
        raise ModelRefused(f"{model} and its {len(others)} candidates share no matrix of one shape among them all")
    squares: dict[ModelRef, list[float]] = {candidate: [] for candidate in others}
    for place, name in enumerate(names):
        mine = ours.sample(name, place)
        scale = sum(x * x for x in mine) or 1.0
        for candidate, weights in others.items():
            theirs = weights.sample(name, place)
            squares[candidate] += [(x - y) ** 2 / scale for x, y in zip(mine, theirs, strict=True)]
    total = {candidate: math.sqrt(sum(found) / len(names)) for candidate, found in squares.items()}
    ranked = sorted(total, key=lambda candidate: total[candidate])
    margin = sigmas = None
    if len(ranked) > 1:
        first, second = ranked[:2]
        margin = 1 - total[first] / total[second] if total[second] else 0.0
        sigmas = _sigmas(squares[first], squares[second])
    return Proof(
        model=model,
        distances={_key(candidate): total[candidate] for candidate in ranked},
        incomparable=incomparable,
        winner=ranked[0] if ranked else None,
        margin=margin,
        sigmas=sigmas,
        elements=sum(min(ELEMENTS, _count(ours.matrices[name])) for name in names),
        bytes_read=ours.bytes_read + sum(weights.bytes_read for weights in others.values()),
    )


class _Weights:
    """The matrices of one model, and samples of them."""

    def __init__(self, source: Source, ref: ModelRef) -> None:
        facts = ModelFacts(source, ref)
        self._source, self._ref = source, ref
        self._place = {name: (header.path, header.starts[name]) for header in facts.headers for name in header.tensors}
        # Norms and biases are near 1 or 0 in every model: they tell nothing.
        self.matrices = {
            name: tensor
            for name, tensor in facts.tensors.items()
            if len(tensor.shape) > 1 and tensor.dtype in FORMATS and _count(tensor)
        }
        self.bytes_read = sum(min(header.starts.values(), default=0) for header in facts.headers)
        if not self.matrices:
            raise ModelRefused(f"{ref} has no matrix of {', '.join(FORMATS)} to sample", problems=facts.problems)

    def sample(self, name: str, place: int) -> tuple[float, ...]:
        """``ELEMENTS`` of one matrix, or all if it has fewer; ``place`` moves the spot from matrix to matrix."""
        tensor = self.matrices[name]
        size, letter = FORMATS[tensor.dtype]
        count = min(ELEMENTS, _count(tensor))
        # The golden ratio spreads the spots, so that not every matrix is sampled in the same rows.
        first = int((_count(tensor) - count) * ((place + 1) * 0.6180339887 % 1))
        path, start = self._place[name]
        raw = self._source.read_range(self._ref, path, start + first * size, count * size)
        self.bytes_read += len(raw)
        found = struct.unpack(f"<{count}{letter}", raw)
        if tensor.dtype == "BF16":  # the upper half of a float32
            found = struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(bits << 16 for bits in found)))
        if not all(map(math.isfinite, found)):
            raise ModelRefused(f"{name} in {path} of {self._ref} has values that are not finite")
        return found


def _check_shared(ours: _Weights, theirs: _Weights) -> None:
    alike = [n for n, tensor in ours.matrices.items() if n in theirs.matrices and _alike(tensor, theirs.matrices[n])]
    if 2 * len(alike) < len(ours.matrices):
        raise ModelRefused(f"{len(alike)} of {len(ours.matrices)} matrices have the same name and shape in both")


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape


def _chosen(models: Sequence[_Weights]) -> list[str]:
    """Names of the sampled matrices: in all models with one shape, spread over the layers.

    Matrices of layers are preferred: a row of an embedding whose token never came up is the same in child and parent.
    """
    first = models[0].matrices
    shared = [n for n in first if all(n in m.matrices and _alike(first[n], m.matrices[n]) for m in models)]
    names = sorted(name for name in shared if ".layers." in name) or sorted(shared)
    step = max(1.0, len(names) / MATRICES)
    return [names[int(place * step)] for place in range(min(MATRICES, len(names)))]


def _sigmas(first: Sequence[float], second: Sequence[float]) -> float:
    """Mean of the paired differences over its standard error; 0 if there is no difference at all."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / len(differences)
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / len(differences))
    return mean / (spread / math.sqrt(len(differences))) if spread else 0.0


def _count(tensor: Tensor) -> int:
    return math.prod(tensor.shape)


def _key(ref: ModelRef) -> str:
    return f"{ref.repo_id}@{ref.revision}"
