"""Prefect tasks that make a merge happen: on the gpu pool, in a child process, with its progress in the UI."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import task_run

from tasks.child import Event, run_child
from tasks.disk import merge_bytes
from tasks.domain.card import card_files, merge_config
from tasks.domain.errors import DiskFull, InputError, PipelineError, TransientError
from tasks.domain.jobs import Job
from tasks.domain.licences import LICENCE_FILE
from tasks.domain.models import Artifact, Digest
from tasks.domain.overview import page_key
from tasks.domain.words import duration, size
from tasks.doors import open_ledger, open_source, open_store
from tasks.progress import ProgressBar
from tasks.runs import is_transient, start_run
from tasks.settings import settings
from tasks.sizes import run_options
from tasks.sources.cards import ancestry
from tasks.sources.room import reserved


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
    scratch = store.scratch(f"merge-{job.merge_key[:12]}-{uuid4().hex[:8]}")
    config, out = scratch / "config.json", scratch / "out"
    config.write_text(json.dumps(merge_config(job.lineage.recipe, folders), indent=1))
    with reserved(store.root / "room", merge_bytes(job), scratch, f"the merge {job.name}"):
        progress = ProgressBar(page_key("merge", job.family, job.target), f"Merge {job.name}")
        report = run_engine(folders, [str(config), str(out)], progress)
    describe(job, folders, report, out)
    artifact = store.adopt(out)
    shutil.rmtree(scratch)
    record_merge(job, artifact, report, progress)
    return artifact.digest


def run_engine(folders: dict[str, str], arguments: list[str], on_event: Callable[[Event], None]) -> Event:
    """The engine in a child; TransientError where a folder went away under it, since a model was packed or unpacked."""
    try:
        return run_child(
            "tasks.engine",
            [*arguments, "--json-lines"],
            deadline_seconds=settings().evaluate_deadline_seconds,
            silence_seconds=settings().silence_seconds,
            records=settings().children,
            on_event=on_event,
        )
    except InputError as refusal:
        gone = [folder for folder in folders.values() if not Path(folder).is_dir()]
        if not gone:
            raise
        raise TransientError(f"{', '.join(gone)} went away during the merge; it begins again") from refusal


def describe(job: Job, folders: dict[str, str], report: Event, out: Path, search: str = "") -> None:
    """Write the card, and the licence where it is none of the Hub's, beside what the engine made."""
    models = [(part.ref, Path(folders[part.role])) for part in job.lineage.ingredients]
    licence = out / LICENCE_FILE
    donated = licence.read_text(encoding="utf-8", errors="replace") if licence.is_file() else ""
    ancestors = ancestry(open_source(), models)
    for name, text in card_files(job.lineage, ancestors, report, licence_file=donated, search=search).items():
        (out / name).write_text(text, encoding="utf-8")


def record_merge(job: Job, artifact: Artifact, report: Event, progress: ProgressBar) -> None:
    """Put down what was made and what it took: in the ledger, the progress artifact and the log."""
    seconds, peak = float(report["seconds"]), report.get("peak_rss_bytes")
    open_ledger().record_artifact(job.merge_key, artifact, job.lineage, seconds=seconds, peak_bytes=peak)
    written = int(report["bytes_written"])
    told = f"{size(written)} in {duration(seconds)}, {written / seconds / 1e9:.2f} GB/s, peak {size(peak)}"
    progress.end(told)
    get_run_logger().info("merged %s: artifact %s, %s", job.name, artifact.short, told)
