"""What the demo waits for, and what it asks: ledger, source and gateway, each as anybody may use them."""

import time
from dataclasses import dataclass

import httpx
from rich.console import Console

from tasks.domain.errors import EndpointUnavailable, PipelineError
from tasks.domain.lineage import Lineage
from tasks.domain.models import Release
from tasks.domain.records import Hold, JobEnd
from tasks.domain.verdict import Verdict
from tasks.doors import open_catalog, open_ledger
from tasks.settings import settings

DEADLINE_SECONDS = 900
STATE_NAMES = {"published": "Published", "rejected": "Rejected", "kept": "Kept", "held": "Undecided"}
"""Outcome of a job -> name of the state that its run ends in."""


@dataclass(frozen=True)
class Ended:
    """A job that has come to its end, with its verdict."""

    name: str
    target: str
    channel: str
    release: Release
    end: JobEnd
    verdict: Verdict
    lineage: Lineage

    @property
    def state_name(self) -> str:
        """Of the flow run."""
        return STATE_NAMES[self.end.outcome]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Of the verdict, in sentences."""
        return self.verdict.reasons

    @property
    def why(self) -> str:
        """The reason that decided: the first thing that failed, else how it compares with what was live."""
        return self.reasons[0] if self.end.outcome in ("rejected", "held") else self.reasons[-1]


def wait_for_ends(family: str, repo_id: str, targets: tuple[str, ...], console: Console) -> list[Ended]:
    """Wait until the release's job for each target has ended; and, where it was published, is visible.

    Raises:
        PipelineError: if a job is held: nothing will happen to it without a person.
        EndpointUnavailable: if it takes too long.
    """
    deadline, missing = time.monotonic() + DEADLINE_SECONDS, list(targets)
    found: list[Ended] = []
    with console.status(f"waiting for {repo_id}") as line:
        while missing and time.monotonic() < deadline:
            release = next((r for r in open_ledger().releases(family) if r.ref.repo_id == repo_id), None)
            for target in list(missing) if release else []:
                assert release is not None
                if ended := _ended(release, target):
                    found.append(ended)
                    missing.remove(target)
            claims = ", ".join(str(c.description.get("name", "watch")) for c in open_ledger().live_claims())
            line.update(f"{repo_id}: {'seen' if release else 'not seen yet'}, {claims or 'nothing under way'}")
            time.sleep(0.5)
    if missing:
        raise EndpointUnavailable(
            f"{repo_id} x {missing} had not ended after {DEADLINE_SECONDS} s; look at {settings().prefect_url}"
        )
    return sorted(found, key=lambda job: targets.index(job.target))


def _ended(release: Release, target: str) -> Ended | None:
    from tasks.jobs import build_job  # imports Prefect: 2 s that the demo spends while the servers start

    ledger = open_ledger()
    if any(hold.key == f"target:{release.family}/{target}" for hold in ledger.holds()):
        return None  # its tuned base is not on the Hub yet
    job = build_job(open_catalog().family(release.family), target, release)
    end = ledger.job_end(job.key)
    if end is None or end.outcome not in STATE_NAMES:
        if hold := next((h for h in ledger.holds() if h.key == job.key), None):
            raise PipelineError(f"{job.name} is held: {hold.reason}")
        return None
    state = ledger.channel(job.channel)
    if end.outcome == "published" and (state is None or state.acknowledged_generation < state.generation):
        return None
    fact = next(v for v in ledger.verdicts(release.family, target) if v.job_key == job.key)
    verdict = Verdict.model_validate(dict(fact.payload))
    return Ended(job.name, target, job.channel, release, end, verdict, job.lineage)


def wait_for_refusal(repo_id: str, console: Console) -> Hold:
    """Wait until the watch holds the release; why.

    Raises:
        EndpointUnavailable: if it takes too long.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    with console.status(f"waiting for the watch to look at {repo_id}"):
        while time.monotonic() < deadline:
            if held := next((h for h in open_ledger().holds() if h.key.startswith(f"release:{repo_id}@")), None):
                return held
            time.sleep(0.5)
    raise EndpointUnavailable(f"{repo_id} was not refused in {DEADLINE_SECONDS} s; look at {settings().prefect_url}")


def ask(gateway: str, model: str, question: str) -> str:
    """One chat question to the endpoint; the answer."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 40}
    response = httpx.post(f"{gateway}/v1/chat/completions", json=body, headers=settings().own_headers, timeout=60)
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


def ask_parent(gateway: str, family: str, job: Ended, question: str) -> str:
    """The instruct parent's answer to the same question, from an instance put up for the purpose."""
    from tasks.stage import REFERENCE, staged

    with staged(family, job.lineage.digest_of("instruct"), REFERENCE, job.release.ref) as ready:
        return ask(gateway, ready.model, question)
