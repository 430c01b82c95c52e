"""Claims, leases, fences, holds, ends and switches in any order behave as a small model in Python says, on both servers."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tasks.domain.errors import PromotionFailed
from tasks.domain.models import ModelRef
from tasks.domain.records import Claim
from tasks.store.ledger import Ledger
from tasks.store.tables import metadata

JOBS, OWNERS, DIGESTS = ("job a", "job b"), ("one", "two"), tuple(c * 64 for c in "abc")
RELEASE = ModelRef(repo_id="lab/m", revision="0" * 40)
LEASE = 60


@dataclass
class Held:
    """What the model knows of the newest claim of a job."""

    owner: str
    attempt: int
    fence: int
    until: datetime
    ended: bool = False


class Promises(RuleBasedStateMachine):
    """The model: ``held``, ``on_hold``, ``outcomes``, ``lifted``, ``taken_at`` by job, and what the one channel serves."""

    taken = Bundle("taken")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.moment = datetime(2026, 11, 1, tzinfo=UTC)
        self.ledgers = [Ledger.open(url, now=lambda: self.moment) for _ in range(2)]  # as two processes would have
        self.held: dict[str, Held] = {}
        self.on_hold: set[str] = set()
        self.outcomes: dict[str, str] = {}
        self.lifted: dict[str, datetime] = {}
        self.taken_at: dict[str, list[datetime]] = {job: [] for job in JOBS}
        self.fences: list[int] = []
        self.generation, self.live = 0, None

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close()

    def _is_live(self, job: str) -> bool:
        held = self.held.get(job)
        return held is not None and not held.ended and held.until > self.moment

    def _is_current(self, claim: Claim) -> bool:
        held = self.held[claim.job_key]
        return held.fence == claim.fence and not held.ended

    def _is_due(self, job: str) -> bool:
        return job not in self.on_hold and self.outcomes.get(job) not in ("published", "rejected", "kept")

    @rule(
        target=taken,
        job=st.sampled_from(JOBS),
        owner=st.sampled_from(OWNERS),
        door=st.integers(0, 1),
        as_watch=st.booleans(),
    )
    def claim(self, job, owner, door, as_watch):
        before = self.held.get(job)
        blocked = (self._is_live(job) and before.owner != owner) or (as_watch and not self._is_due(job))
        claim = self.ledgers[door].claim(job, owner, LEASE, only_open=as_watch)
        assert (claim is None) == blocked
        if claim is None:  # somebody else's, or one that nobody has: acting on either must be judged all the same
            return Claim(job_key=job, attempt=9, fence=10**6, owner=owner, lease_seconds=LEASE, lease_until=self.moment)
        assert claim.attempt == (before.attempt + 1 if before else 1)
        assert claim.lease_until == self.moment + timedelta(seconds=LEASE)
        assert all(claim.fence > fence for fence in self.fences)
        self.fences.append(claim.fence)
        self.taken_at[job].append(self.moment)
        self.held[job] = Held(owner, claim.attempt, claim.fence, claim.lease_until)
        return claim

    @rule(seconds=st.sampled_from((1, LEASE - 1, LEASE, 10 * LEASE)))
    def time_passes(self, seconds):
        self.moment += timedelta(seconds=seconds)

    def _known(self, claim: Claim) -> bool:
        return claim.job_key in self.held and self._is_current(claim)

    @rule(claim=taken, door=st.integers(0, 1))
    def renew(self, claim, door):
        current = self._known(claim)
        assert self.ledgers[door].renew(claim) == current
        if current:
            self.held[claim.job_key].until = self.moment + timedelta(seconds=LEASE)

    @rule(claim=taken, door=st.integers(0, 1))
    def release(self, claim, door):
        current = self._known(claim)
        assert self.ledgers[door].release(claim) == current
        if current:
            self.held[claim.job_key].ended = True

    @rule(owner=st.sampled_from(OWNERS))
    def owner_is_found_dead(self, owner):
        freed = [job for job, held in self.held.items() if held.owner == owner and not held.ended]
        assert sorted(self.ledgers[0].expire_claims_of(owner)) == sorted(freed)
        for job in freed:
            self.held[job].ended = True

    @rule(job=st.sampled_from(JOBS), outcome=st.sampled_from(("published", "rejected", "kept", "failed")))
    def job_ends(self, job, outcome):
        self.ledgers[0].record_job_end(job, outcome, "why")
        self.outcomes[job] = outcome

    @rule(job=st.sampled_from(JOBS), door=st.integers(0, 1))
    def a_person_cancels(self, job, door):
        self.ledgers[door].record_hold(job, "cancelled")
        self.on_hold.add(job)

    @rule(job=st.sampled_from(JOBS), door=st.integers(0, 1))
    def a_person_retries(self, job, door):
        self.ledgers[door].lift(job, "by hand")
        self.on_hold.discard(job)
        self.lifted[job] = self.moment

    @rule(
        claim=taken,
        digest=st.sampled_from(DIGESTS),
        behind=st.integers(0, 1),
        door=st.integers(0, 1),
    )
    def switch(self, claim, digest, behind, door):
        allowed = behind == 0 and self._known(claim)
        try:
            state = self.ledgers[door].switch_channel(
                "eu",
                digest=digest,
                release=RELEASE,
                target="eu",
                family="tiny",
                expected_generation=self.generation - behind,
                fence=claim.fence,
                claim_key=claim.job_key,
            )
        except PromotionFailed:
            assert digest != self.live
            assert not allowed
            return
        if digest != self.live:
            assert allowed
            self.generation, self.live = self.generation + 1, digest
        assert (state.generation, state.artifact_digest) == (self.generation, self.live)

    @precondition(lambda self: self.generation > 0)
    @rule(generation=st.integers(1, 3))
    def gateway_acknowledges(self, generation):
        if generation <= self.generation:
            assert self.ledgers[1].acknowledge("eu", generation).acknowledged_generation >= generation

    @invariant()
    def every_door_shows_the_same(self):
        for ledger in self.ledgers:
            assert {c.job_key for c in ledger.live_claims()} == {job for job in JOBS if self._is_live(job)}
            assert {hold.key for hold in ledger.holds()} == self.on_hold
            for job, taken in self.taken_at.items():
                since = self.lifted.get(job)
                expected = sum(since is None or at > since for at in taken)
                assert ledger.attempts(job, ledger.lifted_at(job)) == expected
            history = ledger.promotions("eu")
            assert [p.generation for p in history] == list(range(self.generation, 0, -1))
            assert (history[0].artifact_digest if history else None) == self.live


def promises(url: Callable[[], str], examples: int, **others: Any) -> None:
    quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    chosen = settings(max_examples=examples, stateful_step_count=25, **quiet, **others)
    run_state_machine_as_test(lambda: Promises(url()), settings=chosen)


def test_claims_fences_and_switches_behave_as_a_small_model_on_sqlite():
    folder = Path(tempfile.mkdtemp(prefix="empelt-ledger-"))
    made = iter(range(10**6))
    try:
        promises(lambda: f"sqlite:///{folder / f'{next(made)}.db'}", examples=15)
    finally:
        shutil.rmtree(folder)


def test_claims_fences_and_switches_behave_as_a_small_model_on_postgresql(postgres):
    def emptied() -> str:
        with psycopg.connect(postgres) as admin:
            admin.execute("SET session_replication_role = replica")
            admin.execute(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY")
        return postgres

    promises(emptied, examples=6)


@pytest.mark.parametrize("broken", ["_is_current", "_is_live", "_is_due"])
def test_a_ledger_that_broke_a_promise_would_be_found(tmp_path, broken, monkeypatch):
    """The model with one rule turned round: if the machine did not notice, it would check nothing."""
    right = getattr(Promises, broken)
    monkeypatch.setattr(Promises, broken, lambda self, it: not right(self, it))
    made = iter(range(10**6))
    first_is_enough = {"phases": [Phase.generate], "database": None, "report_multiple_bugs": False}
    with pytest.raises(AssertionError):
        promises(lambda: f"sqlite:///{tmp_path / f'{next(made)}.db'}", examples=100, **first_is_enough)
