"""Prefect's automations of this installation, as code: upserted by name on every `empelt up` and `empelt deploy`.

They are the quick way, not the only one: each watch looks at the same runs itself (`tasks/lost.py`), since events can
be lost or come late. Creating always makes a second one of the same name, so a name is looked up first; what is as it
should be is left alone, since an update starts the trigger's memory anew.
"""

from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from tasks.lost import SILENT_SECONDS, TAG
from tasks.settings import Settings

PREFIX = "empelt: "
"""Of every name here. What begins so and is not wanted any more is deleted."""
ANY_RUN = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
JOBS = {"prefect.resource.role": "flow", "prefect.resource.name": ["remerge-release", "merge-candidate"]}


def automations(settings: Settings, watch: UUID) -> list[AutomationCore]:
    """Every automation.

    Args:
        settings: of the installation.
        watch: the deployment of the watch, which finds what is to be done again.
    """
    look = RunDeployment(source="selected", deployment_id=watch, parameters={}, schedule_after=timedelta(0))
    return [
        AutomationCore(
            name=f"{PREFIX}no heartbeat is a crash",
            description=f"A run that has given no sign of life for {SILENT_SECONDS} s is marked as crashed.",
            enabled=True,
            trigger=_silence(after="prefect.flow-run.heartbeat", seconds=SILENT_SECONDS),
            actions=[_crash(f"no heartbeat for {SILENT_SECONDS} s: its process is gone")],
        ),
        AutomationCore(
            name=f"{PREFIX}stuck in pending is a crash",
            description="A worker took the run up and went away before it began.",
            enabled=True,
            trigger=_silence(after="prefect.flow-run.Pending", seconds=settings.pending_seconds),
            actions=[_crash(f"pending for {settings.pending_seconds} s: whoever took it up is gone")],
        ),
        AutomationCore(
            name=f"{PREFIX}a job that crashed is looked at",
            description="Starts the watch, which gives the job's claim back and dispatches it again.",
            enabled=True,
            trigger=_event("prefect.flow-run.Crashed", "prefect.flow-run.Failed"),
            actions=[look],
        ),
        AutomationCore(
            name=f"{PREFIX}a job that is late is looked at",
            description="Starts the watch, which gives the job to another attempt once its ticket has lapsed.",
            enabled=True,
            trigger=_silence(after="prefect.flow-run.Late", seconds=settings.pending_seconds, jobs_only=True),
            actions=[look],
        ),
    ]


def apply_automations(client: SyncPrefectClient, wanted: list[AutomationCore], *, dry_run: bool = False) -> list[str]:
    """Create, update and delete until exactly the wanted ones are there, each once; the names of those changed.

    With ``dry_run`` nothing is written, and the names are of those that would be.
    """
    changed = []
    for automation in wanted:
        found = client.read_automations_by_name(automation.name)
        if not found:
            if not dry_run:
                client.create_automation(automation)
            changed.append(automation.name)
            continue
        keep, *twins = sorted(found, key=lambda one: str(one.id))
        for twin in twins if not dry_run else ():
            client.delete_automation(twin.id)
        if _told(keep) != _told(automation) and not dry_run:
            client.update_automation(keep.id, automation)
        if twins or _told(keep) != _told(automation):
            changed.append(automation.name)
    names = {automation.name for automation in wanted}
    for one in client.read_automations():
        if one.name.startswith(PREFIX) and one.name not in names:
            if not dry_run:
                client.delete_automation(one.id)
            changed.append(one.name)
    return changed


def _told(automation: AutomationCore) -> AutomationCore:
    """What is ours to decide, in a form that compares: not as JSON, in which the order of a set is anybody's."""
    return AutomationCore.model_validate(automation.model_dump(include=set(AutomationCore.model_fields)))


def _silence(*, after: str, seconds: int, jobs_only: bool = False) -> EventTrigger:
    return EventTrigger(
        type="event",
        posture=Posture.Proactive,
        after={after},
        expect={"prefect.flow-run.*"},
        match=ANY_RUN,
        match_related=[ResourceSpecification(JOBS if jobs_only else OURS)],
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=seconds),
    )


def _event(*names: str) -> EventTrigger:
    return EventTrigger(
        type="event",
        posture=Posture.Reactive,
        expect=set(names),
        match=ANY_RUN,
        match_related=[ResourceSpecification(JOBS)],
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(0),
    )


def _crash(message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message)
