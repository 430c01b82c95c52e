"""The simulated workers: they take dispatched runs, work for some hours, and end as flows do. Nothing is merged.

Claiming, renewing, fencing, switching and the words for how a job ended are the ledger's own. A worker dies, stalls
until its lease is gone, begins too late, or asks for a person, at the rates below.
"""

import hashlib
import heapq
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

from tasks.domain.errors import PromotionFailed
from tasks.domain.jobs import ClaimTicket, Job, PublishRequest
from tasks.domain.models import Artifact, FileDigest
from tasks.domain.records import Claim
from tasks.domain.verdict import Verdict
from tasks.judge import verdict_name
from tasks.ledger import take_claim
from tasks.order import in_order
from tasks.publish import switch_channel
from tasks.store.ledger import Ledger
from tests.year.clock import Clock

DIES, STALLS, LATE, ASKS = 0.02, 0.01, 0.01, 0.005
HOURS = (0.8, 3.0)
JUDGE_MINUTES = 6
"""From reading what the channel serves to the switch."""


def outcome_of(release_digest: str, target: str) -> str:
    """How a candidate is judged in this world: 80 in 100 are published, 12 rejected, 8 kept. Fixed by its names."""
    number = int(hashlib.sha256(f"{release_digest}/{target}".encode()).hexdigest()[:8], 16) % 100
    return "published" if number < 80 else "rejected" if number < 92 else "kept"


@dataclass
class Run:
    """One flow run, from its creation to its end."""

    id: str
    key: str
    ticket: ClaimTicket
    fate: str
    begins: datetime
    ends: datetime
    claim: Claim | None = None
    stale: bool = False
    """Its lease was gone at some time while it worked."""
    expected: int = -1
    """Generation of the channel when it judged."""
    outcome: str = ""
    """How it judged."""
    renewed: datetime | None = None
    state: str = "Scheduled"


class Workers:
    """All workers, and the part of Prefect that creates runs."""

    def __init__(self, ledger: Ledger, clock: Clock, rng: Random, runtime: SimpleNamespace, *, faults: bool) -> None:
        self._ledger, self._clock, self._rng, self._runtime, self._faults = ledger, clock, rng, runtime, faults
        self.runs: dict[str, Run] = {}
        self._renewing: dict[str, Run] = {}
        """Those whose claim a thread renews."""
        self._steps: list[tuple[datetime, int, str, Run]] = []
        self._order = 0
        self.fates: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()
        self.last_state = self.last_outcome = ""
        """Of the run that did something last."""
        self.asked: list[tuple[datetime, str]] = []
        """When a person will take a hold off, and of which key."""

    # --- in the place of Prefect's server ----------------------------------------------------------------------------
    def start_run(self, name: str, *, wait: bool, parameters: dict[str, Any], **options: Any) -> SimpleNamespace:
        """Create a run; with an idempotency key that is known, the run that has it."""
        key = str(options["idempotency_key"])
        if key not in self.runs:
            fate = self._fate()
            self.fates[fate] += 1
            wait_minutes = 12.0 if fate == "late" else self._rng.uniform(0.1, 3)
            begins = self._clock.at + timedelta(minutes=wait_minutes)
            ends = begins + timedelta(hours=self._rng.uniform(*HOURS))
            ticket = ClaimTicket.model_validate(parameters["claim"])
            self.runs[key] = Run(key, ticket.job_key, ticket, fate, begins, ends)
            self._at(begins, "begin", self.runs[key])
        return SimpleNamespace(id=key)

    def _fate(self) -> str:
        number = self._rng.random() if self._faults else 1.0
        for fate, share in (("dies", DIES), ("stalls", STALLS), ("late", LATE), ("asks", ASKS)):
            if number < share:
                return fate
            number -= share
        return "works"

    def _at(self, when: datetime, step: str, run: Run) -> None:
        self._order += 1
        heapq.heappush(self._steps, (when, self._order, step, run))

    # --- time passes -------------------------------------------------------------------------------------------------
    def next_step(self) -> datetime | None:
        """When something will happen next."""
        return self._steps[0][0] if self._steps else None

    def step(self) -> str | None:
        """Let the next thing happen; the family whose plan it may have changed."""
        when, _, step, run = heapq.heappop(self._steps)
        self._clock.to(when)
        self._runtime.run = run.id
        self.last_state = self.last_outcome = ""
        family: str | None = getattr(self, f"_{step}")(run)
        return family

    def renew(self) -> None:
        """What the thread of each live run has done by now. Claims are read by watches only, so before each is enough."""
        for run in self._renewing.values():
            assert run.claim is not None
            if self._clock.at - (run.renewed or run.begins) >= timedelta(seconds=run.claim.lease_seconds / 4):
                self._ledger.renew(run.claim)
                run.renewed = self._clock.at

    def working(self) -> int:
        """Runs that have not come to an end."""
        return sum(1 for run in self.runs.values() if run.state in ("Scheduled", "Running"))

    def _job(self, run: Run) -> Job:
        fact = self._ledger.job(run.key)
        assert fact is not None, f"run {run.id} is for a job that is not on record"
        return fact.job

    def _begin(self, run: Run) -> None:
        run.claim = take_claim(self._job(run), run.ticket)
        if run.claim is None:
            run.state = "AlreadyClaimed"
            return None
        run.stale = run.claim.fence != run.ticket.fence
        run.state, self._renewing[run.id] = "Running", run
        if run.fate in ("dies", "stalls"):
            self._at(run.begins + (run.ends - run.begins) / 3, "stop", run)
        if run.fate != "dies":
            self._at(run.ends, "judge", run)

    def _stop(self, run: Run) -> str:
        """No more renewals: its process is gone, or its machine sleeps and wakes much later."""
        assert run.claim is not None
        self._ledger.renew(run.claim)
        self._renewing.pop(run.id, None)
        run.stale = True
        self.last_state = "Stalled"
        if run.fate == "dies":
            self.last_state = run.state = "Crashed"
            self._count_attempt(run)
        return self._job(run).family

    def _judge(self, run: Run) -> str | None:
        job, claim = self._job(run), run.claim
        assert claim is not None
        if run.fate == "asks":
            self._ledger.record_hold(job.key, f"{job.name}: the simulated disk of the worker is read-only")
            self.asked.append((self._clock.at + timedelta(hours=self._rng.uniform(2, 30)), job.key))
            return self._ended(run, "Failed", job)
        self._ledger.record_fetched(job.release.ref, job.release.content_digest)
        artifact = _artifact(job)
        self._ledger.record_artifact(job.merge_key, artifact, job.lineage, 600.0, 8 << 30)
        live = self._ledger.channel(job.channel)
        run.expected = 0 if live is None else live.generation
        verdict = in_order(job, _verdict(job, artifact.digest, None if live is None else live.artifact_digest))
        run.outcome = verdict_name(job, verdict)[1]
        self._at(self._clock.at + timedelta(minutes=JUDGE_MINUTES), "end", run)
        return None

    def _end(self, run: Run) -> str:
        job, claim = self._job(run), run.claim
        assert claim is not None
        outcome, digest = run.outcome, _artifact(job).digest
        verdict = {"outcome": outcome, "reasons": ["simulated"], "family": job.family, "target": job.target}
        self._ledger.record_verdict(f"verdict of {job.key}", job.key, outcome, verdict)
        if outcome == "published":
            request = PublishRequest(
                family=job.family,
                target=job.target,
                channel=job.channel,
                artifact_digest=digest,
                release=job.release.ref,
                expected_generation=run.expected,
                fence=claim.fence,
                claim_key=job.key,
                reason="simulated",
            )
            try:
                state = switch_channel.fn(request)
            except PromotionFailed:
                self.fates["switch refused"] += 1
                return self._ended(run, "Failed", job)
            self._ledger.acknowledge(job.channel, state.generation)
        self._ledger.record_job_end(job.key, outcome, "simulated", digest, run.id)  # type: ignore[arg-type]
        self.last_outcome = outcome
        return self._ended(run, "Completed", job)

    def _ended(self, run: Run, state: str, job: Job) -> str:
        assert run.claim is not None
        self._renewing.pop(run.id, None)
        run.state = self.last_state = state
        self._ledger.release(run.claim)
        if state == "Failed":
            self._count_attempt(run)
        return job.family

    def _count_attempt(self, run: Run) -> None:
        """After the third attempt that came to nothing a person looks, a day later."""
        self._bad[run.key] += 1
        if self._bad[run.key] % 3 == 0:
            self.asked.append((self._clock.at + timedelta(hours=24), run.key))


def _verdict(job: Job, candidate: str, live: str | None) -> Verdict:
    """What a gate would have said in this world: where something is live, whether the candidate is stronger."""
    outcome = outcome_of(job.release.content_digest, job.target)
    return Verdict(
        outcome="rejected" if outcome == "rejected" else "passed",
        gate="year",
        gate_digest=job.gate_digest,
        candidate_digest=candidate,
        parent_digests={},
        live_digest=live,
        stronger_than_live=False if outcome == "kept" else None if live is None else True,
        rows=(),
        reasons=("simulated",),
    )


def _artifact(job: Job) -> Artifact:
    digest = hashlib.sha256(f"artifact of {job.merge_key}".encode()).hexdigest()
    names = ("config.json", "tokenizer.json", *(f"model-{n:05}-of-00004.safetensors" for n in range(1, 5)))
    files = tuple(FileDigest(path=name, sha256=digest, size=4 << 30) for name in names)
    return Artifact(digest=digest, folder=f"/artifacts/{digest}", files=files)
