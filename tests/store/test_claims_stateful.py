"""Claims, leases, fences and switches in any order behave as a small model in Python says. On SQLite."""

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from tasks.domain.errors import PromotionFailed
from tasks.domain.models import ModelRef
from tasks.store.ledger import Ledger

JOBS, OWNERS, DIGESTS = ("job a", "job b"), ("one", "two"), tuple(c * 64 for c in "abc")
RELEASE = ModelRef(repo_id="lab/m", revision="0" * 40)
LEASE = 60


class Promises(RuleBasedStateMachine):
    """``held`` is the whole model: job -> [owner, attempt, fence, until, ended]."""

    taken = Bundle("taken")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="empelt-ledger-"))
        self.moment = datetime(2026, 11, 1, tzinfo=UTC)
        url = f"sqlite:///{self.folder / 'ledger.db'}"
        self.ledgers = [Ledger.open(url, now=lambda: self.moment) for _ in range(2)]  # as two processes would have
        self.held: dict[str, list] = {}
        self.fences: list[int] = []
        self.generation, self.live = 0, None

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        shutil.rmtree(self.folder)

    def _is_live(self, job):
        held = self.held.get(job)
        return held is not None and not held[4] and held[3] > self.moment

    def _is_current(self, claim):
        held = self.held[claim.job_key]
        return held[2] == claim.fence and not held[4]

    @rule(target=taken, job=st.sampled_from(JOBS), owner=st.sampled_from(OWNERS), door=st.integers(0, 1))
    def claim(self, job, owner, door):
        before = self.held.get(job)
        blocked = self._is_live(job) and before[0] != owner
        claim = self.ledgers[door].claim(job, owner, LEASE)
        assert (claim is None) == blocked
        if claim is None:
            return self.ledgers[door].live_claims()[0]  # somebody's: acting on it must be judged all the same
        assert claim.attempt == (before[1] + 1 if before else 1)
        assert all(claim.fence > fence for fence in self.fences)
        self.fences.append(claim.fence)
        self.held[job] = [owner, claim.attempt, claim.fence, self.moment + timedelta(seconds=LEASE), False]
        return claim

    @rule(seconds=st.sampled_from((1, LEASE - 1, LEASE, 10 * LEASE)))
    def time_passes(self, seconds):
        self.moment += timedelta(seconds=seconds)

    @rule(claim=taken, door=st.integers(0, 1))
    def renew(self, claim, door):
        current = self._is_current(claim)
        assert self.ledgers[door].renew(claim) == current
        if current:
            self.held[claim.job_key][3] = self.moment + timedelta(seconds=LEASE)

    @rule(claim=taken, door=st.integers(0, 1))
    def release(self, claim, door):
        current = self._is_current(claim)
        assert self.ledgers[door].release(claim) == current
        if current:
            self.held[claim.job_key][4] = True

    @rule(owner=st.sampled_from(OWNERS))
    def owner_is_found_dead(self, owner):
        freed = [job for job, held in self.held.items() if held[0] == owner and not held[4]]
        assert sorted(self.ledgers[0].expire_claims_of(owner)) == sorted(freed)
        for job in freed:
            self.held[job][4] = True

    @rule(claim=taken, digest=st.sampled_from(DIGESTS), behind=st.integers(0, 1), door=st.integers(0, 1))
    def switch(self, claim, digest, behind, door):
        expected = self.generation - behind
        allowed = behind == 0 and self._is_current(claim)
        try:
            state = self.ledgers[door].switch_channel(
                "eu",
                digest=digest,
                release=RELEASE,
                target="eu",
                family="tiny",
                expected_generation=expected,
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
            history = ledger.promotions("eu")
            assert [p.generation for p in history] == list(range(self.generation, 0, -1))
            assert (history[0].artifact_digest if history else None) == self.live


TestPromises = Promises.TestCase
TestPromises.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
