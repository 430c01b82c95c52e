"""What is due: which release should be merged for which target next. Pure; called by the watch and by ``empelt plan``.

For every target the newest release that is not settled yet is due, and only that one: three releases seen at once
cost one merge, not three. When it has been refused, the next older one is due, unless it is older than what is live,
since an older release never displaces a newer one by itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from tasks.domain.models import Digest, Noun, Release

Standing = Literal["due", "done", "running", "waiting", "held", "exhausted", "superseded", "older"]


class JobStanding(Noun):
    """What the ledger knows about one job."""

    standing: Literal["open", "running", "waiting", "held", "exhausted", "published", "rejected", "kept"]
    reason: str = ""


class PlanRow(Noun):
    """One release for one target, and what is to be done about it."""

    family: str
    target: str
    channel: str
    release: Release
    job_key: Digest
    standing: Standing
    reason: str


def stands(
    *,
    end: tuple[str, str] | None,
    waiting: datetime | None,
    hold: str | None,
    claim: tuple[int, str] | None,
    attempts: int,
    most_attempts: int,
) -> JobStanding:
    """Where a job stands, by what is known of it; the first that applies.

    Args:
        end: outcome and reason of its last end.
        waiting: since when its candidate waits for a person.
        hold: why it is held.
        claim: attempt and owner of its live claim.
        attempts: how often it was claimed since a person asked for a new try.
        most_attempts: after so many it is left alone.
    """
    if end is not None and end[0] in ("published", "rejected", "kept"):
        return JobStanding.model_validate({"standing": end[0], "reason": end[1]})
    if waiting is not None:
        return JobStanding(standing="waiting", reason=f"waits for approval since {waiting:%Y-%m-%d %H:%M} UTC")
    if hold is not None:
        return JobStanding(standing="held", reason=hold)
    if claim is not None:
        return JobStanding(standing="running", reason=f"attempt {claim[0]} by {claim[1]}")
    if attempts >= most_attempts:
        why = end[1] if end else "no attempt came to an end"
        return JobStanding(standing="exhausted", reason=f"{attempts} attempts: {why}")
    return JobStanding(standing="open")


def order_releases(releases: Iterable[Release]) -> list[Release]:
    """Newest first; ties by repository id, so that every host plans alike."""
    return sorted(releases, key=lambda r: (r.released_at, r.seen_at, r.ref.repo_id), reverse=True)


def plan_target(
    *,
    family: str,
    target: str,
    channel: str,
    releases: Sequence[Release],
    live_since: datetime | None,
    rolled_back: bool = False,
    keys: Mapping[Digest, Digest],
    standing_of: Callable[[Digest], JobStanding],
) -> list[PlanRow]:
    """Rows for every release of one target, newest first.

    Args:
        family: name of the family.
        target: name of the target.
        channel: where the target is served.
        releases: those on record for the family, in any order.
        live_since: ``released_at`` of the newest release that the channel has ever served, or None if it served none.
        rolled_back: whether the channel was taken back from that release: then only a newer one is due, whatever else
            has changed since.
        keys: content digest of a release -> its job_key for this target.
        standing_of: what is known about a job_key.
    """
    rows: list[PlanRow] = []
    waiting_for: Release | None = None
    for release in order_releases(releases):
        key = keys[release.content_digest]
        end = standing_of(key)
        if end.standing in ("published", "kept", "rejected"):
            standing, reason = "done", end.reason or end.standing
            if end.standing in ("published", "kept"):
                waiting_for = waiting_for or release
        elif end.standing in ("running", "waiting", "held", "exhausted"):
            standing, reason = end.standing, end.reason
            waiting_for = waiting_for or (release if end.standing in ("running", "waiting") else None)
        elif waiting_for is not None:
            standing, reason = "superseded", f"{waiting_for.ref.slug} is newer"
        elif live_since is not None and release.released_at < live_since:
            standing, reason = "older", f"the channel has served one of {live_since:%Y-%m-%d %H:%M}"
        elif rolled_back and release.released_at == live_since:
            standing, reason = "older", "the channel was rolled back from it"
        else:
            standing, reason, waiting_for = "due", "not merged yet", release
        rows.append(
            PlanRow(
                family=family,
                target=target,
                channel=channel,
                release=release,
                job_key=key,
                standing=standing,
                reason=reason,
            )
        )
    return rows
