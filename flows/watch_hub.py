"""What is new on the Hub, what is due because of it, handing it out. On a schedule; may run at any moment."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.cancelled import hold_cancelled
from tasks.doors import open_catalog
from tasks.forms import keep_forms
from tasks.hub import find_releases
from tasks.lost import find_lost
from tasks.overview import show_pages
from tasks.pauses import rested
from tasks.plan import dispatch, plan_due, report_plan, room
from tasks.polls import report_calls
from tasks.turns import WATCH, alone
from tasks.upload import dispatch_uploads


@flow(name="watch-hub", flow_run_name="watch", log_prints=False)
def watch_hub(full_rescan: bool = False, dry_run: bool = False) -> State[None]:
    """Find releases of every family, plan, and dispatch what is due.

    Args:
        full_rescan: look at every release again, also at those whose revision has been seen.
        dry_run: plan and show, dispatch nothing.
    """
    with alone(WATCH) as mine:
        if not mine:
            return Completed(name="Skipped", message="another watch is under way")
        keep_forms()  # first: a run of a target that the form does not know yet would be refused
        find_lost()  # before the plan: what it frees is due again
        families = open_catalog().families
        planned = [row for family in families for row in plan_due(family, find_releases(family, full_rescan))]
        report_calls()
        rows = hold_cancelled(planned)
        due = rested(rows)[: room()]
        dispatched = [name for row in due if not dry_run and (name := dispatch(row))]
        dispatched += [] if dry_run else dispatch_uploads(list(families))
        report_plan(rows, dispatched)
        for family in families:
            show_pages(family)
        if dispatched:
            return Completed(name="Dispatched", message=", ".join(dispatched))
        return Completed(message=f"{len(rows)} release(s) on record, {len(due)} due, nothing dispatched")
