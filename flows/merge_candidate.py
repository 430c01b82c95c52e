"""The step of a job that needs a device: one merge, or all of a search, on the gpu pool, one run at a time."""

from typing import Any

from prefect import flow

from tasks.candidates import graft_candidates
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.merge import graft


@flow(name="merge-candidate", flow_run_name="merge", validate_parameters=True)
def merge_candidate(
    job: Job, inputs: dict[str, Digest], recipes: tuple[dict[str, Any], ...] = ()
) -> Digest | list[Digest]:
    """Merge ``inputs`` (role -> digest of an artifact in the store) by the job's recipe; the artifact's digest.

    With ``recipes`` by each of them instead, from one reading of the models; the digests of what was not there.
    """
    return graft_candidates(job, inputs, recipes) if recipes else graft(job, inputs)
