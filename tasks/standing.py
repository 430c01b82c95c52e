"""Where a job stands, by the ledger alone: no Prefect here, so that the command and the pages can ask too."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tasks.domain.due import JobStanding, PlanRow, plan_target, stands
from tasks.domain.models import Digest, ModelRef, Release
from tasks.domain.records import Hold, JobFact
from tasks.doors import open_ledger
from tasks.settings import settings

if TYPE_CHECKING:
    from tasks.store.glance import Glance

LEAST_DIGITS = 6
"""Of a job's key; fewer could mean several."""


def standing(key: Digest) -> JobStanding:
    """What the ledger knows about a job. A person's retry makes its attempts count anew."""
    ledger = open_ledger()
    end, asked = ledger.job_end(key), ledger.approval(key)
    hold = next(iter(ledger.holds([key])), None)
    claim = next((c for c in ledger.live_claims() if c.job_key == key), None)
    return stands(
        end=(end.outcome, end.reason) if end else None,
        waiting=asked.at if asked and asked.state == "waiting" else None,
        hold=hold.reason if hold else None,
        claim=(claim.attempt, claim.owner) if claim else None,
        attempts=ledger.attempts(key, ledger.lifted_at(key)),
        most_attempts=settings().max_attempts,
    )


def standing_in(seen: "Glance", releases: Mapping[Digest, str], key: Digest) -> JobStanding:
    """The same for one of many jobs, from what was read about all of them at once.

    A job that nothing has begun waits for as long as its release is held: gated or vanished after it was put on record.

    Args:
        seen: what was read.
        releases: job_key -> the key that its release is held under.
        key: the job.
    """
    found = stands(
        end=seen.ends.get(key),
        waiting=seen.waiting.get(key),
        hold=seen.holds.get(key),
        claim=seen.claims.get(key),
        attempts=seen.attempts.get(key, 0),
        most_attempts=settings().max_attempts,
    )
    reason = seen.holds.get(releases[key])
    return found if reason is None or found.standing != "open" else JobStanding(standing="held", reason=reason)


def standings(facts: Sequence[JobFact]) -> dict[Digest, JobStanding]:
    """The same for these jobs, read once for each family."""
    seen = {family: open_ledger().glance(family) for family in {fact.job.family for fact in facts}}
    refs = {fact.job_key: fact.job.release.ref for fact in facts}
    names = {key: f"release:{ref.repo_id}@{ref.revision}" for key, ref in refs.items()}
    return {fact.job_key: standing_in(seen[fact.job.family], names, fact.job_key) for fact in facts}


def rows_of(
    family: str,
    target: str,
    channel: str,
    releases: Sequence[Release],
    keys: Mapping[Digest, Digest],
    seen: "Glance | None" = None,
) -> list[PlanRow]:
    """What is to be done about each of ``releases`` for one target, newest first; the watch and every page ask this.

    Args:
        family: name of the family.
        target: name of the target.
        channel: where it is served.
        releases: those on record for the family.
        keys: content digest of a release -> its job_key for this target.
        seen: what is known about all jobs of the family, where that was read already.
    """
    if seen is None:
        seen = open_ledger().glance(family)
    served = {ModelRef(repo_id=repo_id, revision=sha) for repo_id, sha in seen.promoted.get(channel, ())}
    newest = _newest(served, releases)
    live = seen.live.get(channel)
    names = {keys[r.content_digest]: f"release:{r.ref.repo_id}@{r.ref.revision}" for r in releases}
    return plan_target(
        family=family,
        target=target,
        channel=channel,
        releases=releases,
        live_since=newest.released_at if newest else None,
        rolled_back=newest is not None and live is not None and live != (newest.ref.repo_id, newest.ref.revision),
        keys=keys,
        standing_of=partial(standing_in, seen, names),
    )


def newest_served(channel: str, releases: Sequence[Release]) -> Release | None:
    """The newest of ``releases`` that the channel has ever served: nothing older displaces it by itself."""
    served = open_ledger().releases_served(channel)
    return _newest({ModelRef(repo_id=repo_id, revision=sha) for repo_id, sha in served}, releases)


def _newest(served: set[ModelRef], releases: Sequence[Release]) -> Release | None:
    return max((r for r in releases if r.ref in served), key=lambda r: r.released_at, default=None)


def stopped(text: str | None = None) -> list[Hold]:
    """What a retry of ``text`` would set free: holds, and jobs whose attempts are used up.

    Args:
        text: a hold's key; a job's key or its beginning, 6 digits or more; a job's name (``llama-tiny-instruct-v2 x
            eu``); a release (``owner/name``, ``owner/name@<beginning of its sha>``). None: everything.
    """
    ledger = open_ledger()
    jobs = {fact.job_key: fact for fact in ledger.jobs()}
    found = [hold for hold in ledger.holds() if text is None or _means(text, hold.key, jobs.get(hold.key))]
    meant = [fact for key, fact in jobs.items() if text is None or _means(text, key, fact)]
    for key, now in standings(meant).items():
        if now.standing == "exhausted":
            found.append(Hold(key=key, reason=now.reason, at=ledger.attempts_of(key)[-1].at))
    return found


def _means(text: str, key: str, fact: JobFact | None) -> bool:
    """Whether ``text`` names what is under ``key``: never by the beginning of a name, which others begin with too."""
    kind, _, rest = key.partition(":")
    if text == key:
        return True
    if kind == "release":
        return _names(text.removeprefix("release:"), *rest.partition("@")[::2])
    if kind == "target":
        return False
    if len(text) >= LEAST_DIGITS and key.startswith(text):
        return True
    if fact is None:
        return False
    ref = fact.job.release.ref
    return text == fact.job.name or _names(text, ref.repo_id, ref.revision)


def _names(text: str, repo_id: str, revision: str) -> bool:
    """Whether ``text`` is this repository, or ``repository@<beginning of its revision>``."""
    named, at, beginning = text.partition("@")
    return named == repo_id and (not at or (beginning != "" and revision.startswith(beginning)))
