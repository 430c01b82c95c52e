"""Brings releases on record to targets that lack them, the oldest first. For a language or a base that is new."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.backfill import plan_backfill, report_backfill, turn
from tasks.plan import dispatch


@flow(name="backfill-base", flow_run_name="backfill {family}")
def backfill_base(
    family: str, language: str | None = None, target: str | None = None, releases: int = 1, dry_run: bool = False
) -> State[None]:
    """Dispatch the newest ``releases`` on record to targets that lack them, one after the other.

    Nothing older ever takes the place of something newer: a release is left out when a newer one is published, passed
    or under way for that target.

    Args:
        family: name of a family in the catalog.
        language: only targets for this language.
        target: only this target.
        releases: how many of the newest releases are brought.
        dry_run: show what would be dispatched, dispatch nothing.
    """
    steps = plan_backfill(family, language, target, releases)
    dispatched: list[str] = []
    for step in steps:
        if step.why_not or dry_run:
            continue
        with turn(step) as mine:
            if mine and (name := dispatch(step.row)):
                dispatched.append(name)
    report_backfill(steps, dispatched)
    if dispatched:
        return Completed(name="Dispatched", message=", ".join(dispatched))
    wanted = sum(not step.why_not for step in steps)
    return Completed(message=f"{len(steps)} release(s) x target(s), {wanted} to bring, nothing dispatched")
