"""Where a job stands, by the ledger alone: no Prefect here, so that the command and the pages can ask too."""

from collections.abc import Collection, Mapping, Sequence

from tasks.domain.due import JobStanding, PlanRow, plan_target
from tasks.domain.models import Digest, Release
from tasks.domain.records import Hold, JobFact
from tasks.doors import open_ledger
from tasks.settings import settings

LEAST_DIGITS = 6
"""Of a job's key; fewer could mean several."""


def standing(key: Digest) -> JobStanding:
    """What the ledger knows about a job. A person's retry makes its attempts count anew."""
    return standings([key])[key]


def standings(keys: Collection[Digest]) -> dict[Digest, JobStanding]:
    """The same for many jobs, by one query for each kind of fact: a plan asks about thousands."""
    ledger = open_ledger()
    ends, waiting, made = ledger.job_ends(keys), ledger.waiting_since(), ledger.attempts_since_lift(keys)
    holds = {hold.key: hold.reason for hold in ledger.holds(keys)}
    claims = {claim.job_key: claim for claim in ledger.live_claims()}

    def one(key: Digest) -> JobStanding:
        end = ends.get(key)
        if end is not None and end.outcome in ("published", "rejected", "kept"):
            return JobStanding(standing=end.outcome, reason=end.reason)
        if since := waiting.get(key):
            return JobStanding(standing="waiting", reason=f"waits for approval since {since:%Y-%m-%d %H:%M} UTC")
        if key in holds:
            return JobStanding(standing="held", reason=holds[key])
        if claim := claims.get(key):
            return JobStanding(standing="running", reason=f"attempt {claim.attempt} by {claim.owner}")
        if made.get(key, 0) >= settings().max_attempts:
            why = end.reason if end else "no attempt came to an end"
            return JobStanding(standing="exhausted", reason=f"{made[key]} attempts: {why}")
        return JobStanding(standing="open")

    return {key: one(key) for key in keys}


def rows_of(
    family: str,
    target: str,
    channel: str,
    releases: Sequence[Release],
    keys: Mapping[Digest, Digest],
    known: Mapping[Digest, JobStanding] | None = None,
) -> list[PlanRow]:
    """What is to be done about each of ``releases`` for one target, newest first; the watch and every page ask this.

    Args:
        family: name of the family.
        target: name of the target.
        channel: where it is served.
        releases: those on record for the family.
        keys: content digest of a release -> its job_key for this target.
        known: how these jobs stand, where it has been asked for all targets at once.
    """
    live, newest = open_ledger().channel(channel), newest_served(channel, releases)
    held = _release_holds(keys, releases)
    stands = standings(keys.values()) if known is None else known
    return plan_target(
        family=family,
        target=target,
        channel=channel,
        releases=releases,
        live_since=newest.released_at if newest else None,
        rolled_back=newest is not None and live is not None and live.release != newest.ref,
        keys=keys,
        standing_of=lambda key: _held_release(stands[key], held.get(key)),
    )


def _release_holds(keys: Mapping[Digest, Digest], releases: Sequence[Release]) -> dict[Digest, str]:
    """job_key -> why its release is held, of those that are: gated or vanished after they were put on record."""
    holds = {hold.key: hold.reason for hold in open_ledger().holds()}
    found = {keys[r.content_digest]: holds.get(f"release:{r.ref.repo_id}@{r.ref.revision}") for r in releases}
    return {key: reason for key, reason in found.items() if reason is not None}


def _held_release(found: JobStanding, reason: str | None) -> JobStanding:
    """A job that nothing has begun waits for as long as its release is held."""
    return found if reason is None or found.standing != "open" else JobStanding(standing="held", reason=reason)


def newest_served(channel: str, releases: Sequence[Release]) -> Release | None:
    """The newest of ``releases`` that the channel has ever served: nothing older displaces it by itself."""
    served = open_ledger().releases_served(channel)
    ours = (r for r in releases if (r.ref.repo_id, r.ref.revision) in served)
    return max(ours, key=lambda r: r.released_at, default=None)


def stopped(text: str | None = None) -> list[Hold]:
    """What a retry of ``text`` would set free: holds, and jobs whose attempts are used up.

    Args:
        text: a hold's key; a job's key or its beginning, 6 digits or more; a job's name (``llama-tiny-instruct-v2 x
            eu``); a release (``owner/name``, ``owner/name@<beginning of its sha>``). None: everything.
    """
    ledger = open_ledger()
    jobs = {fact.job_key: fact for fact in ledger.jobs()}
    found = [hold for hold in ledger.holds() if text is None or _means(text, hold.key, jobs.get(hold.key))]
    meant = [key for key, fact in jobs.items() if text is None or _means(text, key, fact)]
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
