"""Prefect tasks around the ledger: open a job, hold its claim while a flow works, write down how it ended."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.domain.errors import InputError
from tasks.domain.jobs import ClaimTicket, Job
from tasks.domain.models import Digest
from tasks.domain.records import Claim, JobOutcome
from tasks.doors import open_ledger
from tasks.settings import settings

WATCH = "watch-hub"
"""The claim that keeps two watches apart."""


class Held:
    """The claim of a job, renewed by a thread for as long as the flow works on it."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        ledger = open_ledger()
        while not self._ended.wait(settings().lease_seconds / 4):
            if not ledger.renew(self.claim):
                return  # superseded: we may finish, we cannot publish, since the switch compares the fence

    def end(self) -> None:
        """Stop renewing."""
        self._ended.set()
        self._thread.join(5)


@contextmanager
def claimed(job: Job, ticket: ClaimTicket | None) -> Iterator[Claim | None]:
    """Hold the claim of ``job``; None if another live attempt has it.

    The watch claims when it dispatches and hands the run a ticket. A run without one (by hand, or
    *Retry* in the UI after the ticket has lapsed) claims for itself.
    """
    claim = take_claim(job, ticket)
    if claim is None:
        yield None
        return
    held = Held(claim)
    try:
        yield claim
    except InputError as refusal:
        # Trying again would change nothing: the watch leaves the job alone until the hold is released.
        open_ledger().record_hold(job.key, f"{job.name}: {refusal}")
        raise
    finally:
        held.end()
        open_ledger().release(claim)


@contextmanager
def alone(name: str) -> Iterator[bool]:
    """Whether we are the only run of ``name``; held until the block ends, or for one lease after a crash.

    Not a deployment limit of Prefect's: one lost lease there crashes a healthy run (PrefectHQ/prefect#21064; seen here
    on a watch of 20 s, prefect 3.9.1, on a busy machine).
    """
    ledger = open_ledger()
    claim = ledger.claim(name, owner=f"run:{flow_run.get_id() or 'by hand'}", lease_seconds=settings().pending_seconds)
    try:
        yield claim is not None
    finally:
        if claim is not None:
            ledger.release(claim)


def take_claim(job: Job, ticket: ClaimTicket | None) -> Claim | None:
    """The claim that ``ticket`` stands for if it is still the newest, else a new one, else None."""
    ledger, owner = open_ledger(), f"run:{flow_run.get_id() or 'by hand'}"
    if ticket is not None and ticket.job_key == job.key:
        live = next((c for c in ledger.live_claims() if c.job_key == job.key), None)
        if live is not None and live.fence == ticket.fence and ledger.renew(live):
            return live
    return ledger.claim(job.key, owner=owner, lease_seconds=settings().lease_seconds, description={"name": job.name})


@task(name="end-job", task_run_name="end-job: {outcome}", cache_policy=NO_CACHE)
def end_job(job: Job, outcome: JobOutcome, reason: str, digest: Digest | None) -> None:
    """Append how the job ended. The watch does not dispatch a job that has ended well or was refused."""
    run_id = flow_run.get_id()
    if outcome == "held":
        open_ledger().record_hold(job.key, f"{job.name}: {reason}")
    open_ledger().record_job_end(
        job.key, outcome, reason, artifact_digest=digest, flow_run_id=str(run_id) if run_id else None
    )
    get_run_logger().info("%s: %s (%s)", job.name, outcome, reason)
