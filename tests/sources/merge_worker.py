"""A worker without a Prefect server: claims one job, brings its models, and merges. Run as a process of its own.

    python -m tests.sources.merge_worker FAMILY TARGET GATE_FILE

Waits until GATE_FILE is there, so that several begin at one moment. Prints one JSON object: what it did.
"""

import json
import os
import sys
import time
from pathlib import Path

from prefect.logging import disable_run_logger

from tasks.child import run_child
from tasks.domain.card import merge_config
from tasks.domain.jobs import Job
from tasks.domain.models import Artifact
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.hub import fetch_model
from tasks.jobs import build_job
from tasks.ledger import Held
from tasks.settings import settings


def merge(job: Job, name: str) -> Artifact:
    """Run the engine in a child process and adopt what it made."""
    store = open_store()
    folders = {
        part.role: store.get(fetch_model.fn(part.role, part.ref, part.digest)).folder
        for part in job.lineage.ingredients
    }
    scratch = store.scratch(name)
    (scratch / "config.json").write_text(json.dumps(merge_config(job.lineage.recipe, folders)))
    arguments = [str(scratch / "config.json"), str(scratch / "out"), "--json-lines"]
    report = run_child("tasks.engine", arguments, deadline_seconds=120, on_event=lambda event: None)
    artifact = store.adopt(scratch / "out")
    open_ledger().record_artifact(job.merge_key, artifact, job.lineage, seconds=float(report["seconds"]))
    return artifact


def main(family: str, target: str, gate: str) -> None:
    """Work as told above."""
    (release,) = open_ledger().releases(family)
    job = build_job(open_catalog().family(family), target, release)
    while not Path(gate).exists():
        time.sleep(0.01)
    owner = f"run:{os.getpid()}"  # of a flow run it would be the run's id: each worker another
    ledger = open_ledger()
    claim = ledger.claim(job.key, owner=owner, lease_seconds=settings().lease_seconds)
    if claim is None:
        print(json.dumps({"did": "nothing: another worker has the claim"}))
        return
    held = Held(claim)
    try:
        with disable_run_logger():
            known = ledger.artifact_for(job.merge_key)
            digest = known.digest if known else merge(job, f"merge-{claim.fence}").digest
    finally:
        held.end()
        ledger.release(claim)
    print(json.dumps({"did": "found it made" if known else "merged", "digest": digest}))


if __name__ == "__main__":
    main(*sys.argv[1:])
