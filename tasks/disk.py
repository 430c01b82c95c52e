"""A full disk, or a full quota, is a wait with a reason: the job is held, and each watch looks for room."""

from prefect import task
from prefect.logging import get_run_logger

from tasks.domain.errors import DiskFull
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.domain.words import size
from tasks.doors import open_ledger, open_source, open_store
from tasks.runs import HUB
from tasks.settings import settings
from tasks.sources.download import wanted
from tasks.store.garbage import bytes_under

WAITS = "disk: "
"""A hold that begins so ends by itself: ``disk: <bytes> needed: <why>``."""


@task(name="reserve-room", task_run_name="room for {job.name}", **HUB)
def reserve_room(job: Job) -> int:
    """Refuse a job that will not fit, before anything of it is downloaded; the bytes that it will bring.

    Raises:
        DiskFull: the disk, the store's quota or that of downloads has less room than the job needs.
    """
    store, downloads = open_store(), 0
    missing = {i.digest: i.ref for i in job.lineage.ingredients if not store.use(i.digest)}
    for ref in missing.values():
        downloads += sum(file.size for file in wanted(open_source().files(ref)))
    needed = downloads + _merge_bytes(job)
    quota = int(settings().download_quota_gib * 2**30)
    if quota and downloads and (taken := bytes_under(store.root / "scratch")) + downloads > quota:
        raise DiskFull(
            f"{job.name} downloads {size(downloads)}, and half-done work takes up {size(taken)} of the {size(quota)} "
            "that EMPELT_DOWNLOAD_QUOTA_GIB allows; wait until that is done, or raise it",
            needed_bytes=downloads,
        )
    if needed:
        store.reserve(needed)
    get_run_logger().info("%s will bring %s (%s downloaded)", job.name, size(needed), size(downloads))
    return needed


def _merge_bytes(job: Job) -> int:
    """What the merge will write: as much as the instruct model has, unless it was made before."""
    made, store = open_ledger().artifact_for(job.merge_key), open_store()
    if made is not None and store.use(made.digest):
        return 0
    instruct = next(i for i in job.lineage.ingredients if i.role == "instruct")
    if store.has(instruct.digest):
        return sum(file.size for file in store.get(instruct.digest).files)
    return sum(file.size for file in wanted(open_source().files(instruct.ref)))


def wait_for_room(job: Job, full: DiskFull) -> str:
    """Hold the job until there is room; why, as its run should say."""
    reason = f"{WAITS}{full.needed_bytes} bytes needed: {job.name}: {full}"
    open_ledger().record_hold(job.key, reason)
    return f"waits for room on the disk, and is taken up again by itself: {full}"


def lift_waits() -> list[Digest]:
    """Take off the holds of jobs for which there is room now; their keys. Called by every watch, before it plans."""
    lifted = []
    for hold in open_ledger().holds():
        if hold.reason.startswith(WAITS) and _has_room(hold.reason):
            open_ledger().release_hold(hold.key, "there is room on the disk again")
            lifted.append(hold.key)
    return lifted


def _has_room(reason: str) -> bool:
    """Whether what is needed fits now; where that is not known, whether anything at all does: the job will look."""
    needed = reason.removeprefix(WAITS).partition(" ")[0]
    try:
        open_store().reserve(int(needed) if needed.isdigit() else 0)
    except DiskFull:
        return False
    return True
