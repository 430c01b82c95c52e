"""Turns: one owner at a time, one row for each name, on both databases."""

import pytest
from sqlalchemy import func, select

from tasks.domain.errors import InputError
from tasks.store.ledger import Ledger
from tasks.store.tables import metadata


def test_while_a_turn_lasts_others_wait_and_other_names_are_free(ledger, url, clock):
    first = ledger.take_turn("watch", "one", 60)
    with Ledger.open(url, now=clock) as other:
        assert other.take_turn("watch", "two", 60) is None
        assert other.turn_of("watch") == first
        assert other.turn_of("another") is None
        assert other.take_turn("another", "two", 60).number == 1
    assert (first.number, first.owner) == (1, "one")


def test_a_lease_that_ended_gives_the_next_turn_and_the_stale_owner_cannot_end_that(ledger, clock):
    first = ledger.take_turn("watch", "one", 60)
    clock.forward(60)
    assert ledger.turn_of("watch") is None
    second = ledger.take_turn("watch", "two", 60)
    assert (second.number, second.owner) == (2, "two")
    assert not ledger.end_turn(first)
    assert ledger.turn_of("watch") == second
    assert ledger.take_turn("watch", "one", 60) is None


def test_a_turn_that_was_given_back_is_over_at_once(ledger):
    first = ledger.take_turn("watch", "one", 60)
    assert ledger.end_turn(first)
    assert not ledger.end_turn(first)
    assert ledger.take_turn("watch", "two", 60).number == 2


def test_the_owner_itself_may_begin_anew(ledger):
    first = ledger.take_turn("watch", "one", 60)
    again = ledger.take_turn("watch", "one", 60)
    assert again.number == 2
    assert not ledger.end_turn(first)
    assert ledger.end_turn(again)


def test_a_year_of_turns_is_one_row_and_no_attempt_and_no_job_under_way(ledger):
    for number in range(60):
        turn = ledger.take_turn("watch", f"run:{number}", 60)
        assert ledger.live_claims() == []
        assert ledger.end_turn(turn)
    with ledger._read() as connection:
        counted = {
            name: connection.scalar(select(func.count()).select_from(metadata.tables[name]))
            for name in ("turns", "claims", "attempts")
        }
    assert counted == {"turns": 1, "claims": 0, "attempts": 0}


def test_after_a_start_the_turns_of_dead_owners_are_over_and_are_no_jobs(ledger):
    ledger.take_turn("watch", "run:1", 600)
    ledger.claim("job", "run:1", 600)
    assert ledger.expire_claims_of("run:") == ["job"]
    assert ledger.turn_of("watch") is None


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_turn_without_length_is_refused(ledger, seconds):
    with pytest.raises(InputError, match=f"the lease on watch is {seconds} s"):
        ledger.take_turn("watch", "one", seconds)
    assert ledger.turn_of("watch") is None
