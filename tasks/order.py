"""The order of releases on a channel: an older one never displaces a newer one by itself."""

from tasks.domain.jobs import Job
from tasks.domain.verdict import Verdict
from tasks.doors import open_ledger


def in_order(job: Job, verdict: Verdict) -> Verdict:
    """The verdict, or, where a newer release has gone live since this job was planned, one that keeps that.

    A plan never dispatches what is older than what is live; but two releases may be under way at once, and the older
    one may be judged last, against the newer one, and be the stronger of the two.
    """
    ledger = open_ledger()
    live = ledger.channel(job.channel)
    if not verdict.passed or verdict.stronger_than_live is not True or live is None:
        return verdict
    since = next((r.released_at for r in ledger.releases(job.family) if r.ref == live.release), None)
    if since is None or since <= job.release.released_at:
        return verdict
    why = (
        f"{live.release}, which {job.channel} serves since this job began, is the newer release: it stays, and a "
        "person may roll back."
    )
    return verdict.model_copy(update={"stronger_than_live": False, "reasons": (*verdict.reasons, why)})
