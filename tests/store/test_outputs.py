"""Reference outputs and audits, on both databases: the first that a model said counts, and every audit stays."""


def test_what_a_model_said_first_is_what_it_is_known_by(ledger, samples):
    first = samples.outputs(-2.123456789012345)
    assert ledger.outputs_of(first.key) is None
    assert ledger.record_outputs(first)
    assert not ledger.record_outputs(first)
    assert not ledger.record_outputs(samples.outputs(-9.0))
    assert ledger.outputs_of(first.key) == first  # to the last digit


def test_every_audit_is_kept_newest_first(ledger, samples):
    made = [samples.audit("eu", 1), samples.audit("gl", 1), samples.audit("eu", 2)]
    for one in made:
        ledger.record_audit(one)
    assert ledger.audits() == made[::-1]
    assert ledger.audits("eu") == [made[2], made[0]]
    assert ledger.audits(limit=1) == [made[2]]
