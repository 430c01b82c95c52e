"""The switch of a channel: one compare-and-swap on (generation, fence)."""

import pytest

from tasks.domain.errors import InputError, PromotionFailed


@pytest.fixture
def switch(ledger, samples):
    def switch_to(name, expected, **others):
        release = {"digest": samples.digest(name), "release": samples.ref(name), "target": "eu", "family": "tiny"}
        return ledger.switch_channel("eu", expected_generation=expected, **{**release, **others})

    return switch_to


def test_a_first_switch_makes_generation_1(ledger, switch, samples, clock):
    assert ledger.channel("eu") is None
    state = switch("v1", 0, reason="first", flow_run_id="run-1")
    assert state == ledger.channel("eu")
    assert ledger.channels() == [state]
    assert (state.generation, state.artifact_digest, state.previous_digest) == (1, samples.digest("v1"), None)
    assert (state.switched_at, state.acknowledged_generation, state.release) == (clock(), 0, samples.ref("v1"))


def test_every_switch_is_a_promotion_on_record_newest_first(ledger, switch, samples):
    switch("v1", 0, reason="first")
    switch("v2", 1, reason="better", flow_run_id="run-2")
    switch("v1", 2, reason="rollback by hand")
    history = ledger.promotions("eu")
    assert [(p.generation, p.artifact_digest) for p in history] == [
        (3, samples.digest("v1")),
        (2, samples.digest("v2")),
        (1, samples.digest("v1")),
    ]
    assert (history[0].previous_digest, history[0].reason) == (samples.digest("v2"), "rollback by hand")
    assert history[1].flow_run_id == "run-2"
    assert ledger.promotions("gl") == []
    assert ledger.releases_served("eu") == {(samples.ref(v).repo_id, samples.ref(v).revision) for v in ("v1", "v2")}
    assert ledger.releases_served("gl") == set()


def test_switching_to_what_is_live_changes_nothing_even_with_an_old_generation(ledger, switch):
    switch("v1", 0)
    live = switch("v2", 1)
    assert switch("v2", 1) == live
    assert len(ledger.promotions("eu")) == 2


def test_another_generation_than_expected_is_refused_and_both_are_named(ledger, switch):
    switch("v1", 0)
    live = switch("v2", 1)
    with pytest.raises(PromotionFailed) as refused:
        switch("v3", 1)
    assert refused.value.problems == (f"it is at generation 2 ({live.artifact_digest[:12]}), and 1 was expected",)
    assert ledger.channel("eu") == live
    assert len(ledger.promotions("eu")) == 2


def test_a_stale_attempt_cannot_switch_and_both_fences_are_named(ledger, switch, clock):
    stale = ledger.claim("job", "one", 60)
    clock.forward(61)
    present = ledger.claim("job", "two", 60)
    with pytest.raises(PromotionFailed) as refused:
        switch("v1", 0, fence=stale.fence, claim_key="job")
    assert refused.value.problems == (
        f"fence {stale.fence} was superseded: job job is now at fence {present.fence} (attempt 2, two)",
    )
    assert ledger.channel("eu") is None
    assert ledger.promotions("eu") == []
    assert switch("v1", 0, fence=present.fence, claim_key="job").generation == 1
    assert ledger.promotions("eu")[0].fence == present.fence


def test_all_reasons_against_a_switch_are_listed_at_once(ledger, switch):
    switch("v1", 0)
    with pytest.raises(PromotionFailed) as refused:
        switch("v2", 0, fence=7, claim_key="job")
    assert len(refused.value.problems) == 2
    assert "fence 7 belongs to no claim" in refused.value.problems[1]


def test_an_attempt_that_gave_its_job_back_cannot_switch(ledger, switch):
    claim = ledger.claim("job", "one", 60)
    ledger.expire_claims_of("one")
    with pytest.raises(PromotionFailed, match=rf"fence {claim.fence} .attempt 1 of job job. was given up at"):
        switch("v1", 0, fence=claim.fence, claim_key="job")
    assert ledger.channel("eu") is None


def test_a_lease_that_ran_out_while_nobody_took_the_job_still_switches(ledger, switch, clock):
    claim = ledger.claim("job", "one", 60)
    clock.forward(3600)
    assert switch("v1", 0, fence=claim.fence, claim_key="job").generation == 1


def test_a_fence_without_its_claim_is_refused(ledger, switch):
    with pytest.raises(InputError, match="fence is 1 and claim_key is None; give both or neither"):
        switch("v1", 0, fence=1)
    assert ledger.channel("eu") is None


def test_a_rollback_serves_as_the_artifact_was_served_before(ledger, switch, samples):
    ledger.want_staged(samples.digest("v1"), "eu", owner="run", lease_seconds=60, extra={"flags": ["--dtype=bfloat16"]})
    switch("v1", 0)
    switch("v2", 1, extra={"flags": []})
    switch("v1", 2)
    assert [p.extra for p in ledger.promotions("eu")] == [
        {"flags": ["--dtype=bfloat16"]},
        {"flags": []},
        {"flags": ["--dtype=bfloat16"]},
    ]
    assert ledger.desired().live[0].extra == {"flags": ["--dtype=bfloat16"]}


def test_acknowledging_never_goes_back_and_a_switch_keeps_it(ledger, switch):
    switch("v1", 0)
    assert ledger.acknowledge("eu", 1).acknowledged_generation == 1
    assert switch("v2", 1).acknowledged_generation == 1
    assert ledger.acknowledge("eu", 2).acknowledged_generation == 2
    assert ledger.acknowledge("eu", 1).acknowledged_generation == 2


def test_a_generation_that_was_never_reached_cannot_be_acknowledged(ledger, switch):
    with pytest.raises(InputError, match="generation 1 of channel 'eu' cannot be acknowledged: it was never switched"):
        ledger.acknowledge("eu", 1)
    switch("v1", 0)
    with pytest.raises(InputError, match=r"generation 2 of channel 'eu' .*: it is at generation 1"):
        ledger.acknowledge("eu", 2)
    assert ledger.channel("eu").acknowledged_generation == 0
