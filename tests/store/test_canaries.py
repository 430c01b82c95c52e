"""A canary in the ledger: one at a time for each channel, fenced, gone with its lease and with the switch."""

from typing import Any

import pytest

from tasks.domain.errors import InputError, PromotionFailed
from tasks.store.ledger import Ledger

JOB = "e" * 64


def switch(ledger: Ledger, samples: Any, name: str, generation: int) -> None:
    ledger.switch_channel(
        "eu",
        digest=samples.digest(name),
        release=samples.ref(name),
        target="eu",
        family="tiny",
        expected_generation=generation,
    )


@pytest.fixture
def live(ledger, samples):
    """Channel eu serves v1."""
    switch(ledger, samples, "v1", 0)
    return ledger


def tried(ledger, samples, weight=5.0, **more):
    asked = {"digest": samples.digest("v2"), "generation": 1, "owner": "run:1", "lease_seconds": 60}
    return ledger.set_canary("eu", weight=weight, **{**asked, **more})


def test_a_canary_is_desired_until_its_lease_ends(live, samples, clock):
    wish = tried(live, samples)
    assert live.desired().canaries == (wish,)
    clock.forward(50)
    again = tried(live, samples)
    assert (again.at, again.lease_until > wish.lease_until) == (wish.at, True)
    clock.forward(50)
    assert live.canary_of("eu") == again
    clock.forward(10)
    assert live.desired().canaries == ()
    assert live.canary_of("eu") is None


def test_another_weight_begins_anew(live, samples, clock):
    tried(live, samples)
    clock.forward(5)
    assert tried(live, samples, 50.0).at == clock.moment
    assert [wish.weight for wish in live.desired().canaries] == [50.0]


def test_a_switch_ends_it_and_the_old_flow_cannot_set_it_again(live, samples):
    tried(live, samples, 100.0)
    switch(live, samples, "v2", 1)
    assert live.desired().canaries == ()
    with pytest.raises(PromotionFailed, match="at generation 2, and 1 was expected"):
        tried(live, samples, 100.0)
    switch(live, samples, "v1", 2)
    assert live.desired().canaries == ()


def test_one_at_a_time(live, samples, clock):
    first = tried(live, samples)
    with pytest.raises(PromotionFailed, match=f"{first.digest[:12]} is tried on 5 % by run:1"):
        tried(live, samples, digest=samples.digest("v3"), owner="run:2")
    with pytest.raises(PromotionFailed, match="is tried on 5 % by run:1"):
        tried(live, samples, owner="run:2")
    assert live.desired().canaries == (first,)
    clock.forward(61)
    tried(live, samples, digest=samples.digest("v3"), owner="run:2")
    assert [wish.owner for wish in live.desired().canaries] == ["run:2"]


def test_under_the_newest_claim_the_same_artifact_is_taken_over_and_another_one_is_not(live, samples):
    old = live.claim(JOB, owner="run:1", lease_seconds=60)
    tried(live, samples, fence=old.fence, claim_key=JOB)
    live.expire_claims_of("run:1")
    new = live.claim(JOB, owner="run:2", lease_seconds=60)
    with pytest.raises(PromotionFailed, match=f"fence {old.fence} was superseded"):
        tried(live, samples, fence=old.fence, claim_key=JOB)
    assert tried(live, samples, owner="run:2", fence=new.fence, claim_key=JOB).owner == "run:2"
    with pytest.raises(PromotionFailed, match="is tried on 5 % by run:2"):
        tried(live, samples, digest=samples.digest("v3"), owner="run:2b", fence=new.fence, claim_key=JOB)


def test_a_channel_that_serves_nothing_has_no_canary(ledger, samples):
    with pytest.raises(PromotionFailed, match="serves nothing yet"):
        tried(ledger, samples, generation=0)
    assert ledger.desired().canaries == ()


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"weight": 101}, {"lease_seconds": 0}, {"fence": 3}])
def test_what_makes_no_sense_is_refused(live, samples, wrong):
    with pytest.raises(InputError):
        tried(live, samples, **wrong)
    assert live.desired().canaries == ()


def test_it_is_taken_back_by_name_and_with_all_of_its_owner(live, samples):
    tried(live, samples)
    assert not live.end_canary("eu", samples.digest("v2"), owner="run:2"), "a run that was superseded ends its own only"
    assert live.end_canary("eu", samples.digest("v2"), owner="run:1")
    assert not live.end_canary("eu", samples.digest("v2"))
    tried(live, samples)
    live.want_staged(samples.digest("v2"), "eu", owner="run:1", lease_seconds=60)
    assert live.unstage_all("run:1") == 1
    assert live.desired().canaries == ()


def test_steps_are_facts_in_their_order(live, samples, clock):
    asked = {"generation": 1, "digest": samples.digest("v2")}
    first = live.record_step("eu", "canary 5", ended="done", seconds=1.5, figures={"canary": {"requests": 3}}, **asked)
    clock.forward(1)
    second = live.record_step("eu", "take back", ended="refused", seconds=0.0, said="too slow", **asked)
    other = live.record_step("eu", "warm", ended="done", seconds=0.1, generation=1, digest=samples.digest("v3"))
    assert live.promotion_steps("eu") == [first, second, other]
    assert live.promotion_steps("eu", digest=samples.digest("v2"), generation=1) == [first, second]
    assert live.promotion_steps("eu", generation=2) == []
