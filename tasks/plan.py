"""Prefect tasks that find out what is due and hand it to a worker. The ledger is the truth; events are only hints."""

from datetime import UTC, datetime

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.domain.catalog import Family
from tasks.domain.due import JobStanding, PlanRow, plan_target
from tasks.domain.errors import ModelRefused
from tasks.domain.jobs import ClaimTicket, Job, run_name
from tasks.domain.lineage import Ingredient, Lineage
from tasks.domain.models import Digest, ModelRef, Release
from tasks.hub import ENGINE_VERSION, HUB, admit, digest_of, resolve
from tasks.settings import open_catalog, open_ledger, open_source, settings


def build_job(family: Family, target_name: str, release: Release) -> Job:
    """The job that would bring ``release`` to a target: every ingredient resolved to a revision and a digest."""
    catalog = open_catalog()
    target = catalog.target(family.family, target_name)
    wanted = [("base", family.base)]
    for code in target.languages:
        tuned = family.tuned_bases[code]
        wanted += [(f"tuned:{code}", tuned)] + ([(f"parent:{code}", tuned.parent)] if tuned.parent else [])
    refs = {role: resolve(repository) for role, repository in wanted}
    ingredients = [Ingredient(role=role, ref=ref, digest=digest_of(ref)) for role, ref in refs.items()]
    ingredients.insert(1, Ingredient(role="instruct", ref=release.ref, digest=release.content_digest))
    lineage = Lineage(
        family=family.family,
        target=target_name,
        ingredients=tuple(ingredients),
        recipe=target.recipe.model_dump(mode="json"),
        engine_version=ENGINE_VERSION,
    )
    gate = catalog.gate_of(target).digest()
    return Job(release=release, target=target_name, channel=target.channel, gate_digest=gate, lineage=lineage)


@task(name="open-job", task_run_name="open {target}", **HUB)
def open_job(family_name: str, ref: ModelRef, target: str) -> Job:
    """Everything about one release and one target, as of now.

    Raises:
        ModelRefused: if the release fails its pre-flight. Nothing was downloaded then.
    """
    family = open_catalog().family(family_name)
    known = next((r for r in open_ledger().releases(family_name) if r.ref == ref), None)
    if known is None:
        known = admit(family, open_source().state(ref.repo_id), datetime.now(UTC))
        if known.ref != ref:
            raise ModelRefused(f"{ref} is not the head of its repository: that is {known.ref}; run the job for that")
        open_ledger().record_release(known)
    return build_job(family, target, known)


@task(name="plan-due", task_run_name="plan {family_name}", **HUB)
def plan_due(family_name: str, releases: list[Release]) -> list[PlanRow]:
    """What is to be done about every release of a family, for each of its targets."""
    family, ledger = open_catalog().family(family_name), open_ledger()
    rows: list[PlanRow] = []
    for name, target in family.targets.items():
        jobs = {release.content_digest: build_job(family, name, release) for release in releases}
        live = ledger.channel(target.channel)
        since = next((r.released_at for r in releases if live is not None and r.ref == live.release), None)
        rows += plan_target(
            family=family_name,
            target=name,
            channel=target.channel,
            releases=releases,
            live_since=since,
            key_of=lambda release, jobs=jobs: jobs[release.content_digest].key,  # type: ignore[misc]
            standing_of=standing,
        )
    return rows


def standing(key: Digest) -> JobStanding:
    """What the ledger knows about a job."""
    ledger = open_ledger()
    end = ledger.job_end(key)
    if end is not None and end.outcome == "held":
        return JobStanding(standing="held", reason=end.reason)
    if end is not None and end.outcome in ("published", "rejected", "kept"):
        return JobStanding(standing=end.outcome, reason=end.reason)  # type: ignore[arg-type]
    if hold := next((h for h in ledger.holds() if h.key == key), None):
        return JobStanding(standing="held", reason=hold.reason)
    if claim := next((c for c in ledger.live_claims() if c.job_key == key), None):
        return JobStanding(standing="running", reason=f"attempt {claim.attempt} by {claim.owner}")
    if (made := ledger.attempts(key)) >= settings().max_attempts:
        why = end.reason if end else "no attempt came to an end"
        return JobStanding(standing="exhausted", reason=f"{made} attempts: {why}")
    return JobStanding(standing="open")


@task(name="dispatch", task_run_name="dispatch {row.target}", cache_policy=NO_CACHE)
def dispatch(row: PlanRow) -> str | None:
    """Claim a due job and create its run; the run's name, or None if somebody was quicker."""
    name = run_name(row.release.ref, row.target)
    claim = open_ledger().claim(
        row.job_key, owner="watch", lease_seconds=settings().pending_seconds, description={"name": name}
    )
    if claim is None:
        return None
    ticket = ClaimTicket(job_key=row.job_key, attempt=claim.attempt, fence=claim.fence)
    run = run_deployment(
        "remerge-release/by-hand-or-watch",
        parameters={
            "family": row.family,
            "release": row.release.ref.model_dump(),
            "target": row.target,
            "claim": ticket.model_dump(),
        },
        flow_run_name=name,
        tags=[row.family, row.target, row.release.ref.slug],
        idempotency_key=f"{row.job_key}:{claim.attempt}",
        timeout=0,
        as_subflow=False,
    )
    get_run_logger().info("dispatched %s, attempt %d: run %s", name, claim.attempt, run.id)
    return name


def name_of_run() -> str:
    """``llama-tiny-instruct-v2 x eu``, from the run's parameters, whatever form they came in."""
    given = flow_run.get_parameters()
    return run_name(ModelRef.model_validate(given["release"]), str(given["target"]))


@task(name="report-plan", cache_policy=NO_CACHE)
def report_plan(rows: list[PlanRow], dispatched: list[str]) -> None:
    """The plan as a table in the UI."""
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
    create_table_artifact(table, key="watch-plan", description="Every release on record, and what is done about it")
