"""The one list of Prefect deployments, with their pools and schedules; applied by `empelt up` and by `empelt deploy`.

Module-path entrypoints: the project is installed, so a worker imports `flows.x.y` from anywhere. No deployment has a
concurrency limit: the ledger's claims and compare-and-swap decide who may do what, and losing a limit's lease would
crash a healthy run (PrefectHQ/prefect#21064, #18839).
"""

import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Interval
from prefect.states import Cancelled, Crashed
from prefect.types.entrypoint import EntrypointType

from deployments.automations import apply_automations, automations
from deployments.pools import (
    CONTROL,
    DEFAULT_QUEUE,
    GPU,
    Change,
    PoolType,
    apply_pools,
    apply_queues,
    differences,
    pools,
    queues,
)
from flows.approve_release import approve_release
from flows.audit_serving import audit_serving
from flows.backfill_base import backfill_base
from flows.collect_garbage import collect_garbage
from flows.merge_candidate import merge_candidate
from flows.publish_model import publish_model
from flows.remerge_release import remerge_release
from flows.rollback_channel import rollback_channel
from flows.upload_model import upload_model
from flows.watch_hub import watch_hub
from tasks.domain.sizing import load_classes
from tasks.forms import Form, forms_now
from tasks.forms import refresh_forms as refresh_forms
from tasks.prefect_api import prefect_of
from tasks.settings import Settings

# Without a command prefect 3.9 starts a second Python for each run, to prepare a workspace that we have not: 3 s of CPU
# for each run on the machine this was written on. It names this host's Python: workers elsewhere have their own.
HERE = f"{sys.executable} -m prefect.engine"


class Entry(NamedTuple):
    """One deployment without schedule."""

    flow: Flow[..., Any]
    name: str
    pool: str
    description: str


ENTRIES = (
    Entry(remerge_release, "by-hand-or-watch", CONTROL, "One release, one target: fetch, merge, judge, publish."),
    Entry(merge_candidate, "gpu", GPU, "The merge itself, on a worker that owns a device."),
    Entry(publish_model, "by-hand", CONTROL, "Moves a channel to a judged artifact."),
    Entry(backfill_base, "by-hand", CONTROL, "Brings releases on record to targets that lack them, oldest first."),
    Entry(rollback_channel, "by-hand", CONTROL, "Takes a channel back to what it served before."),
    Entry(
        upload_model, "by-hand-or-watch", CONTROL, "Publishes what a channel serves to a Hub; no channel depends on it."
    ),
    Entry(approve_release, "by-hand", CONTROL, "Publishes or rejects a candidate that waits for approval."),
)


def deployments(settings: Settings, version: str, command: str | None = HERE) -> list[RunnerDeployment]:
    """Every deployment, built from ``settings``; runs are started by ``command``, or as each worker does by itself."""
    common: dict[str, Any] = {
        "version": version,
        "entrypoint_type": EntrypointType.MODULE_PATH,
        "job_variables": {"command": command} if command else {},
    }
    watch = watch_hub.to_deployment(
        name="schedule",
        description="Finds new releases, plans what is due, dispatches it.",
        schedules=[
            Interval(timedelta(seconds=settings.watch_interval_seconds), slug="poll"),
            Cron(settings.nightly_cron, timezone=settings.timezone, slug="nightly", parameters={"full_rescan": True}),
        ],
        work_pool_name=CONTROL,
        tags=["empelt", "watch"],
        **common,
    )
    garbage = collect_garbage.to_deployment(
        name="nightly",
        description="Removes artifacts that nothing refers to, half-done work of dead processes, the oldest reports.",
        schedules=[Cron(settings.garbage_cron, timezone=settings.timezone, slug="nightly")],
        work_pool_name=CONTROL,
        tags=["empelt"],
        **common,
    )
    audit = audit_serving.to_deployment(
        name="nightly",
        description="Holds what each channel answers against what it should serve.",
        schedules=[Cron(settings.audit_cron, timezone=settings.timezone, slug="nightly")],
        work_pool_name=CONTROL,
        tags=["empelt"],
        **common,
    )
    rest = [
        entry.flow.to_deployment(
            name=entry.name,
            description=entry.description,
            work_pool_name=entry.pool,
            tags=["empelt"],
            **common,
        )
        for entry in ENTRIES
    ]
    return [cast(RunnerDeployment, deployment) for deployment in (watch, garbage, audit, *rest)]


class Wanted(NamedTuple):
    """What one server should hold."""

    api: str
    """Address of its API, ``http://127.0.0.1:4200/api``."""
    version: str
    """Label of the deployments."""
    command: str | None = HERE
    gpu: PoolType = "process"
    template: dict[str, Any] | None = None
    """Base job template of the gpu pool."""


def register(settings: Settings, version: str) -> list[str]:
    """Bring this installation's own server up to date; the deployments' names. Safe to repeat."""
    changes = apply(settings, Wanted(f"{settings.prefect_url}/api", version))
    return [change.name for change in changes if change.kind == "deployment"]


def apply(settings: Settings, wanted: Wanted, *, dry_run: bool = False) -> list[Change]:
    """Create or update pools, queues, deployments with their schedules, automations and run forms. Safe to repeat.

    Args:
        settings: of the installation.
        wanted: the server, and what is particular to it.
        dry_run: read and compare, write nothing.

    Raises:
        CatalogError: a class file is wrong; InputError: a pool has another type. Nothing was written.
    """
    classes = load_classes(settings.catalog)
    with prefect_of(settings, wanted.api):
        with get_client(sync_client=True) as client:
            changes = apply_pools(client, pools(wanted.gpu, wanted.template), dry_run=dry_run)
            changes += apply_queues(client, queues(classes), dry_run=dry_run)
            forms = {} if dry_run else forms_now(settings)  # not in a dry run: opening a new ledger makes its tables
            for deployment in deployments(settings, wanted.version, wanted.command):
                change = _compared(client, deployment, forms)
                changes.append(change)
                # What is as it should be is left alone: applying deletes its schedules and makes them anew, and a
                # tick in between comes twice (PrefectHQ/prefect#18894).
                if change.action != "kept" and not dry_run:
                    deployment.apply()
            changes += _automations(client, settings, dry_run=dry_run)
        if not dry_run:
            refresh_forms(settings, wanted.api)
    return changes


def _automations(client: SyncPrefectClient, settings: Settings, *, dry_run: bool) -> list[Change]:
    """The automations; they name the watch by its identity, which a server that holds nothing yet has not given."""
    there = {one.name for one in client.read_automations()}
    try:
        watch = client.read_deployment_by_name("watch-hub/schedule").id
    except ObjectNotFound:
        watch = UUID(int=0)  # only in a dry run: nothing is there, and all would be created
    wanted = automations(settings, watch)
    changed = apply_automations(client, wanted, dry_run=dry_run)
    names = list(dict.fromkeys([*(one.name for one in wanted), *changed]))
    return [
        Change("automation", n, "kept" if n not in changed else "changed" if n in there else "created") for n in names
    ]


def _compared(client: SyncPrefectClient, wanted: RunnerDeployment, forms: Mapping[str, Form]) -> Change:
    """What differs between the server's deployment and ``wanted``."""
    name = f"{wanted.flow_name}/{wanted.name}"
    try:
        there = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return Change("deployment", name, "created")
    old = {key: getattr(there, key) for key in _COMPARED} | {"schedules": _schedules(there.schedules)}
    new = {key: getattr(wanted, key) for key in _COMPARED} | {"schedules": _schedules(wanted.schedules or [])}
    new["work_queue_name"] = wanted.work_queue_name or DEFAULT_QUEUE
    if forms:
        plain = wanted._parameter_openapi_schema.model_dump(exclude_unset=True)
        old["form"], new["form"] = there.parameter_openapi_schema, forms[name](plain) if name in forms else plain
    different = differences(old, new)
    return Change("deployment", name, "changed" if different else "kept", different)


_COMPARED = ("version", "description", "tags", "entrypoint", "work_pool_name", "work_queue_name", "job_variables")


def _schedules(entries: Iterable[Any]) -> list[str]:
    """Each schedule as text; without the moment from which an interval is counted, which is new with each apply."""
    told = [
        (e.slug, e.active, e.schedule.model_dump(mode="json", exclude={"anchor_date"}), e.parameters) for e in entries
    ]
    return sorted(str(one) for one in told)


def crash_stray_runs(settings: Settings) -> int:
    """Mark runs that say they are running as crashed; how many. Only for when every process that runs any has ended.

    Prefect would show them as running for ever (PrefectHQ/prefect#16746). The watch claims their jobs again when their
    leases end. One that was being cancelled is cancelled: a person's word outlives a restart.
    """
    states = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    wanted, crashed = FlowRunFilter(state=FlowRunFilterState(type=states)), 0
    with prefect_of(settings), get_client(sync_client=True) as client:
        while stray := client.read_flow_runs(flow_run_filter=wanted, limit=200):
            for run in stray:
                ended = Cancelled if run.state and run.state.is_cancelling() else Crashed
                client.set_flow_run_state(run.id, ended(message="ended together with `empelt up`"), force=True)
            crashed += len(stray)
    return crashed
