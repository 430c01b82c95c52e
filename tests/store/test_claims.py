"""Claims: one owner at a time, and a fence that tells a stale attempt from the present one."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from tasks.domain.errors import InputError, PromotionFailed
from tasks.store import database
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


@pytest.mark.parametrize("outcome", ["published", "rejected", "kept"])
def test_a_job_that_has_ended_since_it_was_planned_is_not_claimed(ledger, outcome):
    ledger.record_job_end("job", outcome, "")
    assert ledger.claim("job", "watch", 60, only_open=True) is None
    assert ledger.attempts("job") == 0
    assert ledger.claim("job", "a person", 60).attempt == 1


def test_a_job_that_failed_is_claimed_again_and_one_on_hold_is_not(ledger):
    ledger.record_job_end("job", "failed", "the disk broke")
    assert ledger.release(ledger.claim("job", "watch", 60, only_open=True))
    ledger.record_hold("job", "cancelled")
    assert ledger.claim("job", "watch", 60, only_open=True) is None
    ledger.lift("job", "by hand")
    assert ledger.claim("job", "watch", 60, only_open=True).attempt == 2


def test_a_job_that_waits_for_a_person_is_not_claimed(ledger, samples):
    job = samples.job()
    ledger.ask_approval(samples.request(job, samples.digest("merged")), "stronger")
    assert ledger.claim(job.key, "watch", 60, only_open=True) is None
    ledger.decide(job.key, "rejected", by="Ane", reason="")
    assert ledger.claim(job.key, "watch", 60, only_open=True) is not None


def test_a_host_whose_clock_is_fast_takes_no_job_early_on_postgresql(postgres, monkeypatch):
    """SQLite's file is of one host, whose clock is the ledger's."""
    job = f"job of process {os.getpid()}"
    with Ledger.open(postgres) as right, Ledger.open(postgres) as fast:
        held = right.claim(job, "one", 600)
        assert held is not None
        # The machine's clock is everybody's: what a host with a fast one reads stands in for it.
        monkeypatch.setattr(database, "utc_now", lambda: datetime.now(UTC) + timedelta(hours=1))
        assert fast.claim(job, "two", 600) is None
        assert abs(fast.now() - right.now()) < timedelta(minutes=10)
        assert right.release(held)


def test_an_attempt_that_is_over_neither_ends_nor_holds_nor_asks(ledger, samples):
    job = samples.job()
    old = ledger.claim(job.key, "run:old", 60)
    new = ledger.claim(job.key, "run:old", 60)
    request = samples.request(job, samples.digest("merged"))
    writes = [
        lambda fence: ledger.record_job_end(job.key, "rejected", "too weak", fence=fence),
        lambda fence: ledger.record_hold(job.key, "undecided", fence=fence),
        lambda fence: ledger.ask_approval(request, "stronger", fence=fence),
    ]
    for write in writes:
        with pytest.raises(PromotionFailed, match="its attempt is over") as refusal:
            write(old.fence)
        assert f"fence {old.fence} was superseded" in str(refusal.value)
        assert f"fence {new.fence} (attempt 2, run:old)" in str(refusal.value)
    assert (ledger.job_end(job.key), ledger.holds(), ledger.awaiting_approval()) == (None, [], [])
    for write in writes:
        write(new.fence)
    assert ledger.job_end(job.key).outcome == "rejected"
    assert (len(ledger.holds()), len(ledger.awaiting_approval())) == (1, 1)
    ledger.release(new)
    with pytest.raises(PromotionFailed, match="was given up"):
        ledger.record_job_end(job.key, "kept", "", fence=new.fence)
