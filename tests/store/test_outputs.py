"""Reference outputs and audits, on both databases: the first that a model said counts, and every audit stays."""

from datetime import UTC, datetime

from tasks.domain.audit import AuditFact
from tasks.domain.outputs import Answer, Prompt, ReferenceOutputs, Step, reference_key


def outputs(samples, logprob: float) -> ReferenceOutputs:
    answer = Answer(
        prompt=Prompt(name="eu chat 1", kind="chat", text="Zein da hiriburua? ñ"),
        tokens=(1, 7, 9),
        logprobs=(logprob, -0.25),
        steps=(Step(token=5, logprob=-0.1, runner_up=-3.0),),
        text="Bratislava",
    )
    digest, facts = samples.digest("served"), {"flags": "--dtype float32", "device": "cpu", "image": "vllm 1"}
    return ReferenceOutputs(key=reference_key(digest, facts), artifact_digest=digest, facts=facts, answers=(answer,))


def test_what_a_model_said_first_is_what_it_is_known_by(ledger, samples):
    first = outputs(samples, -2.123456789012345)
    assert ledger.outputs_of(first.key) is None
    assert ledger.record_outputs(first)
    assert not ledger.record_outputs(first)
    assert not ledger.record_outputs(outputs(samples, -9.0))
    assert ledger.outputs_of(first.key) == first  # to the last digit


def test_every_audit_is_kept_newest_first(ledger, samples):
    made = [
        AuditFact(
            channel=channel, generation=number, artifact_digest=samples.digest("x"), outcome="wrong", said="it differs",
            problems=("one", "two"), seconds=0.5, at=datetime(2026, 11, 1, number, tzinfo=UTC),
        )
        for number, channel in enumerate(("eu", "gl", "eu"))
    ]  # fmt: skip
    for one in made:
        ledger.record_audit(one)
    assert ledger.audits() == made[::-1]
    assert ledger.audits("eu") == [made[2], made[0]]
    assert ledger.audits(limit=1) == [made[2]]
