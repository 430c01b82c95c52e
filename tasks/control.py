"""The control of a job's merge as a model of the store, made when a gate asks for it first."""

from tasks.domain.control import control_of
from tasks.domain.errors import InputError
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.doors import open_ledger
from tasks.merge import merge_on_gpu


def control_digest(job: Job) -> Digest:
    """The artifact of theta_0 + a tau_I: the instruct parent where a is 1, else from a merge that is made once.

    Raises:
        InputError: if the recipe has no such control.
    """
    control = control_of(job)
    if control is None:
        return job.lineage.digest_of("instruct")
    inputs = {part.role: part.digest for part in control.lineage.ingredients}
    attempts = open_ledger().attempts_of(job.key)
    return merge_on_gpu(control, inputs, attempts[-1].fence if attempts else 0)


def control_made(job: Job) -> Digest | None:
    """The control's artifact where one was merged for this job, or for another with the same weight."""
    try:
        control = control_of(job)
    except InputError:  # a recipe without one
        return None
    made = open_ledger().artifact_for(control.merge_key) if control else None
    return made[0] if made else None
