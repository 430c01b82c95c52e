"""A model that is up is asked a few items twice, once for each way of serving."""

import pytest

from tasks.domain.errors import EndpointUnavailable
from tasks.domain.gate import Check, Gate
from tasks.domain.models import Artifact, Evaluation
from tasks.domain.repeats import of_repeats, repeats_key
from tasks.doors import open_ledger
from tasks.evaluate import evaluate_model
from tasks.repeats import items_of, repeated
from tests.tasks.measuring import SERVING, Serve, ready

GATE = Gate(
    name="g",
    checks=(
        Check(benchmark="en_bpb_short", metric="bits_per_byte", ceiling=99, critical=True),
        Check(benchmark="eu_text_short", metric="in_language", floor=0.1, max_drop={"instruct": 0.2}),
    ),
)


def otherwise(said: Evaluation, benchmark: str) -> Evaluation:
    """As if every answer of this benchmark had been the other way round."""
    scores = []
    for score in said.scores:
        items = tuple(item.model_copy(update={"value": 1 - item.value}) for item in score.items)
        scores.append(score.model_copy(update={"items": items}) if score.benchmark == benchmark else score)
    return said.model_copy(update={"scores": tuple(scores)})


def test_a_server_that_repeats_itself_is_asked_once_for_all_models_that_it_serves(
    artifact: Artifact, serve: Serve
) -> None:
    with serve() as up:
        first = evaluate_model.fn("first", up, GATE.benchmarks)
        found = repeated("first", "f", up, GATE, first)
    assert {(one.benchmark, one.n, one.value) for one in found} == {
        ("en_bpb_short:bits_per_byte", 40, 0.0),
        ("eu_text_short:in_language", 20, 0.0),
    }
    assert [(one.name, one.ok) for one in of_repeats(GATE, found, items_of(GATE))] == [
        ("repeats", True), ("noise:en_bpb_short", True), ("noise:eu_text_short", True),
    ]  # fmt: skip
    nobody = ready(artifact, 9)._replace(digest="f" * 64)
    assert repeated("another model", "f", nobody, GATE, first) == found
    with pytest.raises(EndpointUnavailable):
        repeated("another family", "g", ready(artifact, 9), GATE, first)
    kept = open_ledger().evaluation(repeats_key("f", SERVING, "eu_text_short"))
    assert kept is not None
    assert kept.facts == {"prompts:again_eu_text_short": "20", "requests:again_eu_text_short": "1"}


def test_what_was_asked_twice_is_no_benchmark_of_the_model(artifact: Artifact, serve: Serve) -> None:
    with serve() as up:
        repeated("first", "f", up, GATE, evaluate_model.fn("first", up, GATE.benchmarks))
    scores = open_ledger().scores_of(artifact.digest)
    assert {score["benchmark"] for score in scores} == set(GATE.benchmarks)


def test_a_server_that_answers_otherwise_the_second_time_is_told(artifact: Artifact, serve: Serve) -> None:
    with serve() as up:
        first = evaluate_model.fn("first", up, GATE.benchmarks)
        found = of_repeats(GATE, repeated("first", "f", up, GATE, otherwise(first, "eu_text_short")), items_of(GATE))
    assert next((one.name, one.ok, one.value) for one in found if one.ok is None) == ("repeats", None, 1.0)
