"""Which model was this one trained from, by samples of real weights on a real (local) Hub."""

import json
import math
import struct
from pathlib import Path

import pytest

from tasks.domain.errors import ModelRefused
from tasks.domain.models import ModelRef
from tasks.sources.hub import HubSource
from tasks.sources.parentage import ELEMENTS, MATRICES, nearest_parent, relative_distance
from tests.local_hub.hub_fixtures import Push, RunningHub, TinyModel, trained

MODELS = Path(__file__).parents[2] / "infra" / "demo_family" / "models"


@pytest.fixture
def family(hub: RunningHub, org: str) -> dict[str, ModelRef]:
    """The demo family's real models."""
    names = ("llama-tiny", "eu_llama-tiny", "llama-tiny-instruct-v1", "llama-tiny-instruct-v2")
    return {
        name: ModelRef(repo_id=f"{org}/{name}", revision=hub.push(f"{org}/{name}", MODELS / name)) for name in names
    }


def test_the_parent_of_a_tuned_base_is_the_base_and_not_an_instruct_model(
    hub: RunningHub, source: HubSource, family: dict[str, ModelRef]
) -> None:
    candidates = [family[f"llama-tiny{end}"] for end in ("-instruct-v2", "", "-instruct-v1")]
    hub.pull("requests")
    proof = nearest_parent(source, family["eu_llama-tiny"], candidates)
    assert proof.winner == family["llama-tiny"]
    assert proof.proven
    assert proof.sigmas is not None
    assert proof.sigmas > 5
    assert list(proof.distances) == sorted(proof.distances, key=lambda name: proof.distances[name])
    assert proof.elements == MATRICES * ELEMENTS
    # Four models of 5.2 MB were compared; what crossed the wire is that much and the headers' first 100 kB each.
    sent = sum(seen["bytes"] for seen in hub.answered() if seen["path"].endswith(".safetensors"))
    assert 4 * MATRICES * ELEMENTS * 2 < proof.bytes_read < 200_000
    assert sent < 4 * (100_000 + MATRICES * ELEMENTS * 2 + 1)


def test_an_instruct_model_lies_near_its_base(source: HubSource, family: dict[str, ModelRef]) -> None:
    exact = exact_distance("llama-tiny-instruct-v2", "llama-tiny")
    sampled = relative_distance(source, family["llama-tiny-instruct-v2"], family["llama-tiny"])
    assert sampled == pytest.approx(exact, rel=0.25)
    assert relative_distance(source, family["llama-tiny"], family["llama-tiny"]) == 0


def exact_distance(one: str, other: str) -> float:
    """Over all matrices of the layers, from the files."""
    (a, header), (b, _) = (read_weights(MODELS / name / "model.safetensors") for name in (one, other))
    found = []
    for name, entry in header.items():
        if ".layers." in name and len(entry["shape"]) > 1:
            x, y = (bf16(raw[slice(*entry["data_offsets"])]) for raw in (a, b))
            found.append(sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / sum(p * p for p in x))
    return math.sqrt(sum(found) / len(found))


def read_weights(path: Path) -> tuple[bytes, dict[str, dict[str, list[int]]]]:
    raw = path.read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:end])
    header.pop("__metadata__", None)
    return raw[end:], header


def bf16(raw: bytes) -> tuple[float, ...]:
    bits = struct.unpack(f"<{len(raw) // 2}H", raw)
    return struct.unpack(f"<{len(bits)}f", struct.pack(f"<{len(bits)}I", *(b << 16 for b in bits)))


def test_a_model_of_another_origin_is_no_parent(source: HubSource, push: Push) -> None:
    base, other = push("base", TinyModel(values=trained(1))), push("other", TinyModel(values=trained(2)))
    tuned = push("tuned", TinyModel(values=trained(1, steps=5)))
    assert relative_distance(source, other, base) == pytest.approx(math.sqrt(2), rel=0.2)
    assert not nearest_parent(source, tuned, [other]).proven
    assert nearest_parent(source, tuned, [other, base]).winner == base


def test_of_two_equal_candidates_none_is_proven(source: HubSource, push: Push) -> None:
    base, copy = push("base", TinyModel(values=trained(1))), push("copy", TinyModel(values=trained(1)))
    proof = nearest_parent(source, push("tuned", TinyModel(values=trained(1, steps=5))), [base, copy])
    assert (proof.margin, proof.sigmas, proof.descends, proof.proven) == (0, 0, True, False)


def test_what_cannot_be_compared_is_told(source: HubSource, push: Push, org: str) -> None:
    model = push("model", TinyModel(values=trained(1)))
    wide = TinyModel(values=trained(1))
    wide.tensors = {name: (3, *shape[1:]) for name, shape in wide.tensors.items()}
    foreign, gone = push("wide", wide), ModelRef(repo_id=f"{org}/gone", revision="0" * 40)
    proof = nearest_parent(source, model, [foreign, gone])
    assert (proof.winner, proof.distances, proof.margin, proof.proven) == (None, {}, None, False)
    told = proof.incomparable
    assert "0 of 3 matrices" in told[f"{foreign.repo_id}@{foreign.revision}"]
    assert f"{org}/gone" in told[f"{gone.repo_id}@{gone.revision}"]
    with pytest.raises(ModelRefused, match="cannot be compared"):
        relative_distance(source, model, foreign)


def test_float16_and_float32_are_read_too(source: HubSource, push: Push) -> None:
    bf16_model = push("bf16", TinyModel(values=trained(1)))

    def as_float16(name: str, count: int) -> bytes:
        return struct.pack(f"<{count}e", *bf16(trained(1)(name, count)))

    # The small rounding of float16 is all that is left.
    half = push("half", TinyModel(values=as_float16, dtype="F16"))
    assert relative_distance(source, half, bf16_model) < 0.001


def test_values_that_are_not_finite_are_refused_by_name(source: HubSource, push: Push) -> None:
    base, broken = push("base", TinyModel(values=trained(1))), push("broken", TinyModel(fill=0xFF))
    with pytest.raises(ModelRefused, match=r"down_proj.*not finite"):
        nearest_parent(source, broken, [base])
