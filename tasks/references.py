"""What refers to an artifact of the store, by the ledger alone. What nothing refers to may be collected.

An artifact is kept for as long as any of these names it:

    a channel           what it serves, and what it served before, as far as a roll-back may go back
    an agent or a run   what runs, and what is wanted beside it
    a person's decision a candidate that waits, with the models that it is judged against
    a job to come       one that is due, under way, waiting, held or out of attempts: its ingredients and its merge
    an adapter          the model that it is served over
    a packed artifact   what it is kept as the difference to
    a gate's references the ingredients of each target's newest job, but for retired bases: a changed gate asks of them
"""

from collections.abc import Collection, Iterator

from tasks.control import control_made
from tasks.domain.due import order_releases
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.doors import open_ledger, open_store
from tasks.retired import retired_roles
from tasks.settings import settings
from tasks.standing import rows_of

NEEDED = ("due", "running", "waiting", "held", "exhausted")
"""Standings of a job that will come, or may when a person says so."""


def references() -> dict[Digest, str]:
    """Every artifact that something refers to, and what does; the first of several reasons."""
    found: dict[Digest, str] = {}
    for digest, why in _references():
        found.setdefault(digest, why)
    for digest in [*found]:
        if under := model_of(digest):
            found.setdefault(under, f"{digest[:12]} is an adapter over it")
    for digest in [*found]:
        if packed := open_store().packs.facts(digest):
            found.setdefault(packed.parent, f"{digest[:12]} is kept as its difference to it")
    return found


def model_of(digest: Digest) -> Digest | None:
    """The model that an adapter which was made here is served over; None for a model of its own."""
    lineage = open_ledger().lineage(digest)
    return lineage.digest_of("instruct") if lineage is not None and lineage.adapter is not None else None


def _references() -> Iterator[tuple[Digest, str]]:
    ledger = open_ledger()
    for state in ledger.channels():
        yield state.artifact_digest, f"{state.channel} serves it"
        for switch in ledger.served_before(state.channel)[: settings().keep_generations]:
            yield switch.artifact_digest, f"{state.channel} served it before, and may be rolled back to it"
        if state.previous_digest and state.acknowledged_generation < state.generation:
            yield state.previous_digest, f"{state.channel} goes back to it if the switch is not confirmed"
    for wanted in ledger.desired().staged:
        yield wanted.digest, f"wanted beside {wanted.channel} by {wanted.owner}"
    for instance in ledger.instances():
        yield instance.digest, f"instance {instance.name} runs it"
    for waiting in ledger.awaiting_approval():
        yield waiting.request.artifact_digest, f"waits for a person, for {waiting.request.channel}"
    targets: dict[tuple[str, str], dict[Digest, Job]] = {}
    for fact in ledger.jobs():
        job = fact.job
        targets.setdefault((job.family, job.target), {})[job.release.content_digest] = job
    seen = {family: ledger.glance(family) for family, _ in targets}
    for (family, target), jobs in targets.items():
        releases = order_releases(job.release for job in jobs.values())
        newest, keys = jobs[releases[0].content_digest], {digest: job.key for digest, job in jobs.items()}
        for row in rows_of(family, target, newest.channel, releases, keys, seen[family]):
            if row.standing in NEEDED:
                yield from _of_job(jobs[row.release.content_digest], f"is {row.standing}")
        yield from _of_job(newest, "is the newest of its target", without=retired_roles(family))


def _of_job(job: Job, why: str, *, without: Collection[str] = ()) -> Iterator[tuple[Digest, str]]:
    for part in job.lineage.ingredients:
        if part.role in without:  # a changed gate asks it nothing any more
            continue
        yield part.digest, f"{part.role} of {job.name}, which {why}"
    if made := open_ledger().artifact_for(job.merge_key):
        yield made.digest, f"the merge of {job.name}, which {why}"
    if control := control_made(job):
        yield control, f"the control of {job.name}, which {why}"
