"""Prefect tasks that make a merge happen: on the gpu pool, in a child process, with its progress in the UI."""

import json
import shutil
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import task_run

from tasks.disk import merge_bytes
from tasks.domain.card import merge_config
from tasks.domain.errors import DiskFull, InputError, PipelineError, TransientError
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.domain.overview import page_key
from tasks.doors import open_ledger, open_store
from tasks.merging import describe, half_done, program, record_merge, run_engine
from tasks.progress import ProgressBar
from tasks.runs import is_transient, start_run
from tasks.sizes import run_options
from tasks.sources.room import reserved
from tasks.store.garbage import bytes_under


@task(name="merge", task_run_name="merge {job.name}", cache_policy=NO_CACHE, retries=1, retry_condition_fn=is_transient)
def merge_on_gpu(job: Job, inputs: dict[str, Digest], fence: int) -> Digest:
    """The merged artifact's digest: from the ledger if this merge was made before, else from a run on the gpu pool."""
    known = open_ledger().artifact_for(job.merge_key)
    if known is not None and open_store().use(known[0]):
        get_run_logger().info("merge %s exists: artifact %s", job.merge_key[:12], known[0][:12])
        return known[0]
    name = run_on_gpu(job, inputs, f"{job.merge_key}:{fence}")
    made = open_ledger().artifact_for(job.merge_key)
    if made is None:
        raise TransientError(f"merge run {name} completed, but no artifact is recorded for {job.merge_key[:12]}")
    return made[0]


def run_on_gpu(job: Job, inputs: dict[str, Digest], key: str, **more: Any) -> str:
    """One run of ``merge-candidate`` on the gpu pool, to its end; its name.

    Args:
        job: what is merged.
        inputs: role -> digest.
        key: under which Prefect gives back a run that there is already.
        more: further parameters of the flow.

    Raises:
        InputError: the merge was refused, or somebody cancelled it: it is not made again by itself.
        DiskFull: or there is no room.
        TransientError: it ended otherwise.
    """
    run = start_run(
        "merge-candidate/gpu",
        wait=True,
        parameters={"job": job.model_dump(mode="json"), "inputs": inputs, **more},
        flow_run_name=f"merge {job.name}",
        tags=[job.family, job.target, job.release.ref.slug],
        # Another number for each try: under the same key Prefect would give back the run that has crashed.
        idempotency_key=f"{key}:{task_run.get_run_count() or 1}",
        **run_options(job, inputs),
    )
    state = run.state
    if state is None or not state.is_completed():
        message = (state.message if state else None) or "no message"
        # A merge that somebody cancelled is not made again by itself.
        kind: type[PipelineError] = (
            InputError if "InputError" in message or (state and state.is_cancelled()) else TransientError
        )
        kind = DiskFull if "DiskFull" in message else kind
        raise kind(f"merge run {run.name} ended as {state.name if state else 'unknown'}: {message}")
    return str(run.name)


@task(name="graft", task_run_name="graft {job.name}", cache_policy=NO_CACHE)
def graft(job: Job, inputs: dict[str, Digest]) -> Digest:
    """Run the engine in a child process, write the card, adopt the result into the store, record how it was made."""
    store = open_store()
    folders = {role: store.get(digest).folder for role, digest in inputs.items()}
    with half_done(job) as scratch:
        made = open_ledger().artifact_for(job.merge_key)
        if made is not None and store.use(made.digest):
            return made.digest
        config, out = scratch / "config.json", scratch / "out"
        shutil.rmtree(out, ignore_errors=True)  # whole, without its card: whoever merged it was ended just then
        config.write_text(json.dumps(merge_config(job.lineage.recipe, folders), indent=1))
        missing = max(0, merge_bytes(job) - bytes_under(scratch))
        with reserved(store.root / "room", missing, scratch, f"the merge {job.name}"):
            progress = ProgressBar(page_key("merge", job.family, job.target), f"Merge {job.name}")
            arguments, module = program(job, inputs, config, out)
            report = run_engine(folders, arguments, progress, module)
        describe(job, folders, report, out)
        artifact = store.adopt(out)
    record_merge(job, artifact, report, progress)
    return artifact.digest
