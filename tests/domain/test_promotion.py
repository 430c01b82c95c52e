"""The rules by which a canary is taken back: each with its value, its limit and the least that it decides on."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.domain.promotion import (
    FINEST_SECONDS,
    GROWTH,
    HOPELESS,
    AbortRules,
    CanaryStep,
    Counted,
    PromotionPolicy,
    bucket_of,
    judge,
)

RULES = AbortRules(min_requests=20, errors=0.02, empty=0.05, latency=2.0, foreign=0.2)


def counted(requests: int, *, seconds: float = 0.1, **more: Any) -> Counted:
    answered = requests - more.get("errors", 0) - more.get("refused", 0)
    return Counted(requests=requests, seconds={bucket_of(seconds): answered}, **more)


LIVE = counted(1000, errors=10, empty=20, sampled=500, foreign=50)


def test_a_canary_as_good_as_the_live_one_goes_on():
    told = judge(RULES, counted(100, errors=1, empty=2, sampled=100, foreign=10), LIVE)
    assert told == ((), ())


@pytest.mark.parametrize(
    ("canary", "named"),
    [
        # 1 % of the live one's are lost: up to 3 % pass here.
        (counted(100, errors=4, sampled=100), ["lost or failed", "4.0% (4 of 100)", "1.0% (10 of 1000)", "2.0% more"]),
        (counted(100, refused=3, sampled=100), ["answered 4xx", "3.0% (3 of 100)", "the live one 0.0%"]),
        (counted(100, empty=8, sampled=100), ["empty", "8.0% (8 of 100)", "2.0% (20 of 990)", "5.0% more"]),
        (counted(100, sampled=100, foreign=31), ["another language", "31.0% (31 of 100)", "10.0% (50 of 500)"]),
        (counted(100, sampled=100, seconds=0.3), ["95 %", "times the live one's", "the limit is 2 times"]),
    ],
)
def test_each_rule_names_its_value_the_live_ones_and_the_limit(canary: Counted, named: list[str]):
    told = judge(RULES, canary, LIVE)
    assert len(told.reasons) == 1
    for part in named:
        assert part in told.reasons[0]


@pytest.mark.parametrize(
    "canary",
    [
        counted(100, errors=3, sampled=100),
        counted(100, empty=7, sampled=100),
        counted(100, sampled=100, foreign=30),
        counted(100, sampled=100, seconds=0.19),
    ],
)
def test_at_the_limit_it_goes_on(canary: Counted):
    assert judge(RULES, canary, LIVE).reasons == ()


def test_too_little_traffic_is_stated_and_decides_nothing():
    told = judge(RULES, counted(19, errors=5, empty=9), LIVE)
    assert told.reasons == ()
    assert "asked 19 times, and 20 are needed" in told.unjudged[0]


def test_one_that_answers_nothing_is_not_waited_for():
    assert judge(RULES, counted(HOPELESS, errors=HOPELESS), LIVE).reasons
    assert not judge(RULES, counted(HOPELESS + 1, errors=HOPELESS), LIVE).reasons


@pytest.mark.parametrize(("seconds", "is_lost"), [(30.0, True), (5.0, False)])
def test_a_request_that_waits_for_far_too_long_counts_as_lost(seconds: float, is_lost: bool):
    hanging = Counted(waiting={bucket_of(seconds): HOPELESS})
    assert bool(judge(RULES, hanging, LIVE).reasons) is is_lost
    assert bool(judge(RULES, hanging, Counted()).reasons) is is_lost
    slow = counted(1000, seconds=20.0)  # where the live one takes 20 s, 30 s are nothing
    assert not judge(RULES, hanging, slow).reasons


def test_several_rules_are_told_together():
    assert len(judge(RULES, counted(100, errors=50, empty=40, seconds=9.0), LIVE).reasons) == 3


def test_without_a_live_one_shares_are_compared_with_none_and_latency_is_not_judged():
    told = judge(RULES, counted(100, errors=3, sampled=100), Counted())
    assert "the live one none" in told.reasons[0]
    assert "its latency" in told.unjudged[0]


def test_short_answers_have_no_language():
    assert any("its language" in line for line in judge(RULES, counted(100, sampled=19, foreign=19), LIVE).unjudged)


def test_a_policy_that_does_not_ask_for_the_language_says_so():
    told = judge(AbortRules(foreign=None), counted(100, sampled=100, foreign=100), LIVE)
    assert (told.reasons, "does not ask" in told.unjudged[0]) == ((), True)


def test_what_is_quick_is_never_too_slow():
    quick = counted(1000, seconds=0.001)
    assert judge(RULES, counted(100, sampled=100, seconds=0.04), quick).reasons == ()


@given(st.floats(min_value=FINEST_SECONDS, max_value=3600))
def test_a_bucket_is_at_most_a_fifth_too_high(seconds: float):
    told = FINEST_SECONDS * GROWTH ** bucket_of(seconds)
    assert seconds <= told * (1 + 1e-6)
    assert told <= seconds * GROWTH * (1 + 1e-6)


counts = st.builds(
    Counted,
    requests=st.integers(0, 50),
    errors=st.integers(0, 50),
    refused=st.integers(0, 50),
    empty=st.integers(0, 50),
    sampled=st.integers(0, 50),
    foreign=st.integers(0, 50),
    seconds=st.dictionaries(st.integers(0, 9), st.integers(1, 9)),
)


@given(counts, counts)
def test_counts_add_up_and_are_taken_off_again(one: Counted, other: Counted):
    assert one.plus(other).minus(other) == one


def test_the_95th_percentile():
    assert Counted().p95 is None
    assert Counted(seconds={3: 95, 9: 5}).p95 == pytest.approx(FINEST_SECONDS * GROWTH**3)
    assert Counted(seconds={3: 94, 9: 6}).p95 == pytest.approx(FINEST_SECONDS * GROWTH**9)


def test_weights_must_grow_and_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match=r"must grow.*\[50\.0, 5\.0\]"):
        PromotionPolicy(steps=(CanaryStep(weight=50, seconds=1), CanaryStep(weight=5, seconds=1)))
    with pytest.raises(ValidationError, match="extra"):
        PromotionPolicy.model_validate({"step": []})
    assert [step.weight for step in PromotionPolicy().steps] == [5, 50, 100]
