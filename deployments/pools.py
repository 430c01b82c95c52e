"""Work pools and their queues: one pool for each kind of work, one queue in the gpu pool for each class of machine.

Upserted by name, so that any number of runs leaves one of each. A pool's type cannot be changed on a server: that is
refused instead of half done.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import WorkQueue
from prefect.exceptions import ObjectNotFound

from tasks.domain.errors import InputError
from tasks.domain.sizing import DeviceClass

CONTROL, GPU = "control", "gpu"
POOLS = {
    CONTROL: "Watching, judging, publishing: work that needs no device.",
    GPU: "Merges: a slot is held for the work that needs the device, and no longer.",
}
DEFAULT_QUEUE = "default"
"""Made by Prefect in every pool: takes what names no class."""

PoolType = Literal["process", "kubernetes"]
Action = Literal["created", "changed", "kept"]


class Change(NamedTuple):
    """What became of one thing on the server; under --dry-run, what would."""

    kind: str
    """``work pool``, ``work queue``, ``deployment`` or ``automation``."""
    name: str
    action: Action
    differences: tuple[str, ...] = ()
    """``concurrency_limit: None -> 2``, for what was changed."""

    def __str__(self) -> str:
        told = f" ({'; '.join(self.differences)})" if self.differences else ""
        return f"{self.action:<8} {self.kind} {self.name}{told}"


class Pool(NamedTuple):
    """A work pool as it should be."""

    name: str
    type: PoolType
    template: dict[str, Any] | None = None
    """Base job template; None leaves it to the server and to the first worker."""


class Queue(NamedTuple):
    """A work queue as it should be: the class of machine that its workers run on."""

    pool: str
    name: str
    description: str
    concurrency_limit: int
    """Runs that are under way at once; one for each worker of the class."""


def pools(gpu: PoolType = "process", template: dict[str, Any] | None = None) -> tuple[Pool, ...]:
    """Both pools; only the gpu pool may be a cluster's, since nothing else needs a machine chosen for it."""
    return Pool(CONTROL, "process"), Pool(GPU, gpu, template)


def queues(classes: Sequence[DeviceClass]) -> tuple[Queue, ...]:
    """One queue in the gpu pool for each class."""
    return tuple(Queue(GPU, one.name, _described(one), one.workers) for one in classes)


def apply_pools(client: SyncPrefectClient, wanted: Iterable[Pool], *, dry_run: bool) -> list[Change]:
    """Create or update pools.

    Raises:
        InputError: one exists with another type; nothing was written then.
    """
    found = {pool.name: pool for pool in client.read_work_pools()}
    chosen = list(wanted)
    wrong = [
        f"work pool {pool.name}: {found[pool.name].type} on the server, {pool.type} asked for"
        for pool in chosen
        if pool.name in found and found[pool.name].type != pool.type
    ]
    if wrong:
        raise InputError("a pool's type cannot be changed: delete the pool on the server first", problems=wrong)
    changes = []
    for pool in chosen:
        text, there = POOLS[pool.name], found.get(pool.name)
        if there is None:
            if not dry_run:
                template = pool.template or {}
                body = WorkPoolCreate(name=pool.name, type=pool.type, description=text, base_job_template=template)
                client.create_work_pool(body)
            changes.append(Change("work pool", pool.name, "created"))
            continue
        wishes: dict[str, Any] = {"description": text}
        if pool.template is not None:
            wishes["base_job_template"] = pool.template
        different = differences({key: getattr(there, key) for key in wishes}, wishes)
        if different and not dry_run:
            client.update_work_pool(pool.name, WorkPoolUpdate(**wishes))
        changes.append(Change("work pool", pool.name, "changed" if different else "kept", different))
    return changes


def apply_queues(client: SyncPrefectClient, wanted: Iterable[Queue], *, dry_run: bool) -> list[Change]:
    """Create or update queues. Their pools exist, but for a dry run."""
    changes = []
    for queue in wanted:
        name = f"{queue.pool}/{queue.name}"
        there = _queue_there(client, queue)
        wishes = {"description": queue.description, "concurrency_limit": queue.concurrency_limit}
        if there is None:
            if not dry_run:
                client.create_work_queue(queue.name, work_pool_name=queue.pool, **wishes)  # type: ignore[arg-type]
            changes.append(Change("work queue", name, "created"))
            continue
        different = differences({key: getattr(there, key) for key in wishes}, wishes)
        if different and not dry_run:
            client.update_work_queue(there.id, **wishes)
        changes.append(Change("work queue", name, "changed" if different else "kept", different))
    return changes


def differences(there: dict[str, Any], wanted: dict[str, Any]) -> tuple[str, ...]:
    """``key: old -> new`` of what differs; what is long or a mapping only by its key."""
    told = []
    for key, new in wanted.items():
        old = there.get(key)
        if old != new:
            short = not isinstance(new, dict | list) and len(str(old)) + len(str(new)) < 60
            told.append(f"{key}: {old} -> {new}" if short else key)
    return tuple(told)


def _queue_there(client: SyncPrefectClient, queue: Queue) -> WorkQueue | None:
    try:
        return client.read_work_queue_by_name(queue.name, work_pool_name=queue.pool)
    except ObjectNotFound:
        return None


def _described(one: DeviceClass) -> str:
    device = f", {one.device_gib:g} GiB on its device" if one.device_gib else ""
    return f"{one.workers} worker(s) of class {one.name}: {one.memory_gib:g} GiB, {one.cores} cores{device}"
