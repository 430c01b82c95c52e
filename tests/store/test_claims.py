"""Claims: one owner at a time, and a fence that tells a stale attempt from the present one."""

import pytest

from tasks.domain.errors import InputError
from tasks.store.ledger import Ledger


def test_a_live_claim_keeps_others_away(ledger, url, clock):
    first = ledger.claim("job", "one", 60, {"release": "v2"})
    with Ledger.open(url, now=clock) as other:
        assert other.claim("job", "two", 60) is None
        assert other.claim("another job", "two", 60).attempt == 1
    assert (first.attempt, first.owner, dict(first.description)) == (1, "one", {"release": "v2"})
    assert ledger.attempts("job") == 1


def test_an_expired_lease_is_claimed_again_with_the_next_attempt_and_a_higher_fence(ledger, clock):
    first = ledger.claim("job", "one", 60)
    clock.forward(60)
    second = ledger.claim("job", "two", 60)
    assert (second.attempt, second.owner) == (2, "two")
    assert second.fence > first.fence
    assert not ledger.renew(first)
    assert not ledger.release(first)
    assert ledger.live_claims() == [second]


def test_a_renewed_lease_does_not_expire(ledger, clock):
    first = ledger.claim("job", "one", 60)
    clock.forward(50)
    assert ledger.renew(first)
    clock.forward(50)
    assert ledger.claim("job", "two", 60) is None
    assert [c.fence for c in ledger.live_claims()] == [first.fence]


def test_a_lease_that_ran_out_unnoticed_can_be_renewed_while_nobody_took_the_job(ledger, clock):
    first = ledger.claim("job", "one", 60)
    clock.forward(3600)
    assert ledger.live_claims() == []
    assert ledger.renew(first)
    assert ledger.claim("job", "two", 60) is None


def test_a_released_job_is_free_at_once_and_stays_given_back(ledger):
    first = ledger.claim("job", "one", 60)
    assert ledger.release(first)
    assert not ledger.release(first)
    assert not ledger.renew(first)
    assert ledger.live_claims() == []
    assert ledger.claim("job", "two", 60).attempt == 2


def test_the_owner_itself_may_begin_anew(ledger):
    first = ledger.claim("job", "one", 60)
    again = ledger.claim("job", "one", 60)
    assert (again.attempt, again.fence > first.fence) == (2, True)
    assert not ledger.renew(first)


def test_fences_increase_over_all_jobs_and_claims_are_listed_in_their_order(ledger):
    taken = [ledger.claim(job, "one", 60) for job in ("b", "a", "c")]
    fences = [claim.fence for claim in taken]
    assert fences == sorted(set(fences))
    assert ledger.live_claims() == taken


def test_the_claims_of_a_dead_owner_are_ended_by_its_prefix(ledger):
    for job, owner in (("a", "up_1:gpu"), ("b", "up_1:control"), ("c", "up%1:gpu"), ("d", "up_2:gpu")):
        ledger.claim(job, owner, 60)
    assert ledger.expire_claims_of("up_1:") == ["a", "b"]
    assert [c.job_key for c in ledger.live_claims()] == ["c", "d"]
    assert ledger.expire_claims_of() == ["c", "d"]
    assert ledger.expire_claims_of() == []


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_lease_without_length_is_refused(ledger, seconds):
    with pytest.raises(InputError, match=f"the lease on job is {seconds} s"):
        ledger.claim("job", "one", seconds)
    assert ledger.attempts("job") == 0
