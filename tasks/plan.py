"""Prefect tasks that find out what is due and hand it to a worker. The ledger is the truth; events are only hints."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.admission import check_licences, ruled
from tasks.disk import WAITS, lift_waits
from tasks.domain.due import PlanRow
from tasks.domain.errors import ModelRefused
from tasks.domain.jobs import ClaimTicket, Job, run_name
from tasks.domain.models import Digest, Release
from tasks.doors import open_catalog, open_ledger
from tasks.jobs import build_job, job_keys, look_once
from tasks.ledger import UPLOAD
from tasks.retired import end_retired
from tasks.runs import HUB, start_run
from tasks.settings import settings
from tasks.shown import show_table
from tasks.standing import rows_of
from tasks.standing import standing as standing


@task(name="plan-due", task_run_name="plan {family_name}", **HUB)
def plan_due(family_name: str, releases: list[Release]) -> list[PlanRow]:
    """What is to be done about every release that a family's rule knows, for each of its targets."""
    family, ledger = open_catalog().family(family_name), open_ledger()
    releases = ruled(family, releases)
    seen, look = ledger.glance(family_name), look_once(family)
    if any(reason.startswith(WAITS) for reason in seen.holds.values()) and lift_waits(family_name):
        seen = ledger.glance(family_name)
    rows: list[PlanRow] = []
    fresh: dict[Digest, Job] = {}
    for name, target in family.targets.items():
        key = f"target:{family_name}/{name}"
        try:
            keys = job_keys(family, name, releases, look)
            new = [r for r in releases if seen.newest.get((name, r.content_digest)) != keys[r.content_digest]]
            made = {keys[r.content_digest]: build_job(family, name, r, look) for r in new}
            if made:  # else its models are those of jobs on record, whose licences were looked at
                check_licences(family, next(iter(made.values())).lineage)
        except ModelRefused as refusal:  # one repository that is gone must not stop the other targets
            ledger.record_hold(key, str(refusal))
            get_run_logger().warning("target %s of %s is held: %s", name, family_name, refusal)
            end_retired(family, name)
            continue
        if key in seen.holds:
            ledger.release_hold(key, "its models are there again, and allowed")
        fresh |= made
        rows += rows_of(family_name, name, target.channel, releases, keys, seen)
    ledger.record_jobs(fresh)
    return rows


def room() -> int:
    """How many more jobs may be under way on this installation."""
    claims = open_ledger().live_claims()
    return max(0, settings().window - sum(1 for claim in claims if claim.description.get("kind") != UPLOAD))


@task(name="dispatch", task_run_name="dispatch {row.target}", cache_policy=NO_CACHE)
def dispatch(row: PlanRow) -> str | None:
    """Claim a due job and create its run; the run's name, or None if somebody was quicker, or it has ended since."""
    name, lease = run_name(row.release.ref, row.target), settings().pending_seconds
    claim = open_ledger().claim(row.job_key, "watch", lease, {"name": name}, only_open=True)
    if claim is None:
        return None
    ticket = ClaimTicket(job_key=row.job_key, attempt=claim.attempt, fence=claim.fence)
    run = start_run(
        "remerge-release/by-hand-or-watch",
        wait=False,
        parameters={
            "family": row.family,
            "release": f"{row.release.ref.repo_id}@{row.release.ref.revision}",
            "target": row.target,
            "claim": ticket.model_dump(),
        },
        flow_run_name=name,
        tags=[row.family, row.target, row.release.ref.slug],
        idempotency_key=f"{row.job_key}:{claim.attempt}",
    )
    get_run_logger().info("dispatched %s, attempt %d: run %s", name, claim.attempt, run.id)
    return name


@task(name="report-plan", cache_policy=NO_CACHE)
def report_plan(rows: list[PlanRow], dispatched: list[str]) -> None:
    """The plan as a table in the UI, where it has changed."""
    table = [
        {
            "release": str(row.release.ref),
            "target": row.target,
            "channel": row.channel,
            "standing": "dispatched" if run_name(row.release.ref, row.target) in dispatched else row.standing,
            "why": row.reason,
        }
        for row in rows
    ]
    show_table("watch-plan", table, "Every release on record, and what is done about it")
