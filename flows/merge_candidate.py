"""The step of a job that needs a device: one merge, on the gpu pool, whose worker runs one at a time."""

from prefect import flow

from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.merge import graft


@flow(name="merge-candidate", flow_run_name="merge", validate_parameters=True)
def merge_candidate(job: Job, inputs: dict[str, Digest]) -> Digest:
    """Merge ``inputs`` (role -> digest of an artifact in the store) by the job's recipe; the artifact's digest."""
    return graft(job, inputs)
