"""Prefect tasks that make a merge happen: on the gpu pool, in a child process, with its progress in the UI."""

import json
import shutil
from typing import Any, cast
from uuid import UUID, uuid4

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.child import Event, run_child
from tasks.domain.errors import InputError, TransientError
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.domain.overview import page_key
from tasks.doors import open_ledger, open_store
from tasks.runs import is_transient, start_run
from tasks.settings import settings


@task(name="merge", task_run_name="merge {job.name}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=is_transient)
def merge_on_gpu(job: Job, inputs: dict[str, Digest], fence: int) -> Digest:
    """The merged artifact's digest: from the ledger if this merge was made before, else from a run on the gpu pool."""
    known = open_ledger().artifact_for(job.merge_key)
    if known is not None and open_store().has(known[0]):
        get_run_logger().info("merge %s exists: artifact %s", job.merge_key[:12], known[0][:12])
        return known[0]
    run = start_run(
        "merge-candidate/gpu",
        wait=True,
        parameters={"job": job.model_dump(mode="json"), "inputs": inputs},
        flow_run_name=f"merge {job.name}",
        tags=[job.family, job.target, job.release.ref.slug],
        idempotency_key=f"{job.merge_key}:{fence}",
    )
    state = run.state
    if state is None or not state.is_completed():
        message = (state.message if state else None) or "no message"
        # A merge that somebody cancelled is not made again by itself.
        kind = InputError if "InputError" in message or (state and state.is_cancelled()) else TransientError
        raise kind(f"merge run {run.name} ended as {state.name if state else 'unknown'}: {message}")
    made = open_ledger().artifact_for(job.merge_key)
    if made is None:
        raise TransientError(f"merge run {run.name} completed, but no artifact is recorded for {job.merge_key[:12]}")
    return made[0]


@task(name="graft", task_run_name="graft {job.name}", cache_policy=NO_CACHE)
def graft(job: Job, inputs: dict[str, Digest]) -> Digest:
    """Run the engine in a child process, adopt the result into the store, record its lineage."""
    store, logger = open_store(), get_run_logger()
    scratch = store.scratch(f"merge-{job.merge_key[:12]}-{uuid4().hex[:8]}")
    config = scratch / "config.json"
    config.write_text(json.dumps(_engine_config(job, inputs), indent=1))
    key = page_key("merge", job.family, job.target)
    progress = cast(UUID, create_progress_artifact(0.0, key=key, description=f"Merge {job.name}"))
    report = run_child(
        "tasks.engine",
        [str(config), str(scratch / "out"), "--json-lines"],
        deadline_seconds=settings().evaluate_deadline_seconds,
        on_event=lambda event: _show(progress, event),
    )
    artifact = store.adopt(scratch / "out")
    shutil.rmtree(scratch)
    open_ledger().record_artifact(job.merge_key, artifact, job.lineage, seconds=float(report.get("seconds", 0.0)))
    logger.info(
        "merged %s: artifact %s, %d bytes in %.2f s, peak %d MiB",
        job.name,
        artifact.short,
        report.get("bytes_written", 0),
        report.get("seconds", 0.0),
        int(report.get("peak_rss_bytes", 0)) >> 20,
    )
    return artifact.digest


def _engine_config(job: Job, inputs: dict[str, Digest]) -> dict[str, Any]:
    folder = {role: open_store().get(digest).folder for role, digest in inputs.items()}
    languages = [role.split(":", 1)[1] for role in folder if role.startswith("tuned:")]
    return {
        "recipe": dict(job.lineage.recipe),
        "base": folder["base"],
        "instruct": folder["instruct"],
        "tuned": {c: {"path": folder[f"tuned:{c}"], "parent": folder.get(f"parent:{c}")} for c in languages},
    }


def _show(progress: UUID, event: Event) -> None:
    if event["event"] == "progress" and event.get("total"):
        update_progress_artifact(progress, 100.0 * event["done"] / event["total"])
