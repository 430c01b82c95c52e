"""A full disk, or a full quota, is a wait with a reason: the job is held, and each watch looks for room."""

from typing import NamedTuple

from prefect import task
from prefect.logging import get_run_logger

from tasks.domain.errors import DiskFull, PipelineError
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.domain.words import size
from tasks.doors import open_ledger, open_source, open_store
from tasks.pauses import THERE_IS_ROOM
from tasks.runs import HUB
from tasks.settings import settings
from tasks.sources.download import wanted
from tasks.sources.room import promised
from tasks.store.garbage import bytes_under

WAITS = "disk: "
"""A hold that begins so ends by itself: ``disk: <name>: <why>``."""


WAITS_FOR_ROOM = "waits for room on the disk, and is taken up again by itself"
"""What the run of such a job says at its end."""


class Need(NamedTuple):
    """What a job has still to bring, in bytes."""

    downloads: int
    """All files of the models that are not in the store."""
    arrived: int
    """What an earlier try has left in scratch, of those and of the merge: it is on the disk already."""
    merge: int


def fetch_folder(digest: Digest) -> str:
    """The name of the scratch folder in which a model arrives: one for each, whoever fetches it."""
    return f"fetch-{digest}"


def merge_folder(job: Job) -> str:
    """The name of the scratch folder in which a merge is made: one for each, whichever attempt makes it."""
    return f"merge-{job.merge_key}"


@task(name="reserve-room", task_run_name="room for {job.name}", **HUB)
def reserve_room(job: Job) -> int:
    """Refuse a job that will not fit, before anything of it is downloaded; the bytes that it will bring.

    Raises:
        DiskFull: the disk, the store's quota or that of downloads has less room than the job needs.
    """
    need = require_room(job)
    told = size(need.downloads + need.merge), size(need.downloads)
    get_run_logger().info("%s will bring %s (%s downloaded)", job.name, *told)
    return need.downloads + need.merge


def require_room(job: Job) -> Need:
    """What the job has still to bring, if there is room for it; the run asks this, and each watch that would lift it.

    Raises:
        DiskFull: the disk, the store's quota or that of downloads has less room than the job needs.
    """
    store, need = open_store(), _need(job)
    quota = int(settings().download_quota_gib * 2**30)
    others = bytes_under(store.root / "scratch") - need.arrived
    if quota and need.downloads and others + need.downloads > quota:
        raise DiskFull(
            f"{job.name} downloads {size(need.downloads)}, and other half-done work takes up {size(others)} of the "
            f"{size(quota)} that EMPELT_DOWNLOAD_QUOTA_GIB allows; wait until that is done, or raise it",
            needed_bytes=need.downloads,
        )
    if need.downloads + need.merge:
        store.reserve(need.downloads + need.merge, arrived=need.arrived, promised=promised(store.root / "room"))
    return need


def _need(job: Job) -> Need:
    store, downloads, arrived = open_store(), 0, 0
    missing = {i.digest: i.ref for i in job.lineage.ingredients if not store.use(i.digest)}
    for digest, ref in missing.items():
        whole = sum(file.size for file in wanted(open_source().files(ref)))
        downloads += whole
        arrived += min(whole, bytes_under(store.root / "scratch" / fetch_folder(digest)))
    merge = merge_bytes(job)
    arrived += min(merge, bytes_under(store.root / "scratch" / merge_folder(job)))
    return Need(downloads, arrived, merge)


def merge_bytes(job: Job) -> int:
    """What the merge will write: as much as the instruct model has, unless it was made before."""
    made, store = open_ledger().artifact_for(job.merge_key), open_store()
    if made is not None and store.use(made.digest):
        return 0
    instruct = next(i for i in job.lineage.ingredients if i.role == "instruct")
    if store.has(instruct.digest):
        return sum(file.size for file in store.get(instruct.digest).files)
    return sum(file.size for file in wanted(open_source().files(instruct.ref)))


def lift_waits(family_name: str) -> list[Digest]:
    """Take off the holds of a family's jobs for which there is room now; their keys. Before each plan.

    What a job needs is asked anew, and by the very question that its run will ask: another job may have brought one of
    its models meanwhile, or taken up the room. Its pauses go on: the disk may be full again when it comes to its merge,
    and other jobs shall have their turn.
    """
    lifted = []
    for hold in open_ledger().holds():
        fact = open_ledger().job(hold.key) if hold.reason.startswith(WAITS) else None
        if fact is not None and fact.job.family == family_name and _has_room(fact.job):
            open_ledger().release_hold(hold.key, THERE_IS_ROOM)
            lifted.append(hold.key)
    return lifted


def _has_room(job: Job) -> bool:
    try:
        require_room(job)
        open_store().reserve(0)  # with nothing left to bring, what is to stay free for the ledger is asked for
    except PipelineError:  # no room, or the source does not say now what it would be needed for: the next watch asks
        return False
    return True
