"""Prefect tasks that publish what a channel serves to a Hub: after the switch, and never in its way.

What is due is found by every watch from facts: visibly served, passed, not on record as published. So it does not
matter which run made the switch, or what died after it. An upload that fails leaves the channel as it is, and is
dispatched again after a pause that grows, three times at most; what was refused is held until `empelt retry`.
"""

from datetime import UTC, datetime

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.disk import WAITS
from tasks.domain.errors import InputError
from tasks.domain.jobs import ClaimTicket
from tasks.domain.overview import page_key
from tasks.domain.publication import Publication, Upload
from tasks.domain.report import publication_page
from tasks.domain.words import duration, size
from tasks.doors import open_ledger
from tasks.ledger import description_of
from tasks.pauses import THERE_IS_ROOM, rests_until
from tasks.publications import due, upload_of
from tasks.published_files import carry_out
from tasks.runs import start_run
from tasks.settings import settings
from tasks.standing import standing


@task(name="open-upload", task_run_name="open upload of {target}", cache_policy=NO_CACHE)
def open_upload(family: str, target: str) -> Upload:
    """What there is to publish of a target now."""
    return upload_of(family, target)


@task(name="upload", task_run_name="upload {upload.name}", cache_policy=NO_CACHE)
def upload_files(upload: Upload) -> Publication:
    """Publish, or adopt what stands there; put it on record, and show it."""
    run_id = flow_run.get_id()
    done = carry_out(upload, str(run_id) if run_id else None)
    create_markdown_artifact(
        publication_page(done),
        key=page_key("publication", upload.family, upload.target),
        description=f"published: {done.repo_id} {done.tag}",
    )
    told = f"{size(done.bytes)} in {duration(done.seconds)}"
    get_run_logger().info("%s: %s, commit %s, tag %s, %s", upload.name, done.how, done.commit, done.tag, told)
    return done


@task(name="dispatch-uploads", task_run_name="dispatch uploads", cache_policy=NO_CACHE)
def dispatch_uploads(families: list[str]) -> list[str]:
    """Create a run for each upload that is due; their names. One family that cannot be looked at stops no other."""
    dispatched = []
    for family in families:
        try:
            waiting = due(family)
        except InputError as refusal:
            get_run_logger().warning("uploads of %s: %s", family, refusal)
            continue
        dispatched += [name for upload in waiting if (name := _dispatch(upload))]
    return dispatched


def _dispatch(upload: Upload) -> str | None:
    """Claim an upload and create its run; its name, or None if it is not to be tried now."""
    now = standing(upload.key)
    if now.standing == "held" and now.reason.startswith(WAITS):  # its pauses go on, and its run looks for room
        open_ledger().release_hold(upload.key, THERE_IS_ROOM)
        now = standing(upload.key)
    if now.standing == "exhausted":
        made = len(open_ledger().attempts_of(upload.key))
        open_ledger().record_hold(upload.key, f"{upload.name}: {made} attempts came to no end; see the last run's log")
    rest = rests_until(upload.key)
    if now.standing != "open" or (rest is not None and rest > datetime.now(UTC)):
        return None
    told = description_of(upload)
    if any(claim.description.get("place") == told["place"] for claim in open_ledger().live_claims()):
        return None  # one at a time, or what is older might come on top
    claim = open_ledger().claim(upload.key, "watch", settings().pending_seconds, told, only_open=True)
    if claim is None:
        return None
    ticket = ClaimTicket(job_key=upload.key, attempt=claim.attempt, fence=claim.fence)
    start_run(
        "upload-model/by-hand-or-watch",
        wait=False,
        parameters={"family": upload.family, "target": upload.target, "claim": ticket.model_dump()},
        flow_run_name=f"upload {upload.name}",
        tags=[upload.family, upload.target, "upload"],
        idempotency_key=f"{upload.key}:{claim.attempt}",
    )
    get_run_logger().info("dispatched the upload of %s, attempt %d", upload.name, claim.attempt)
    return upload.name
