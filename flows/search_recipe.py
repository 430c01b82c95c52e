"""The search of a job whose own recipe was rejected: merge the grid, hear the candidates, halve them, choose one."""

from prefect import flow

from tasks.candidates import merge_candidates, rounds_of, trying
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.domain.search import Tried
from tasks.hearing import hear_parents, hear_round
from tasks.search import choose, chosen_before, left_of


@flow(name="search-recipe", flow_run_name="search {job.name}", validate_parameters=False)
def search_recipe(job: Job, inputs: dict[str, Digest], fence: int, serving: dict[str, str]) -> Job | None:
    """The job with the recipe that goes to the gate; None if no candidate could be heard.

    Args:
        job: whose recipe was rejected, of a target with ``search``.
        inputs: role -> digest of the models that are merged.
        fence: of the claim.
        serving: image, flags and device under which all models are heard.
    """
    found = chosen_before(job, serving)
    if found is None:
        made = {one.merge_key: (one, digest) for one, digest in merge_candidates(job, inputs, fence)}
        parents, left = hear_parents(job, serving), list(made)
        tried: dict[Digest, Tried] = {}
        for number in range(1, rounds_of(job) + 1):
            heard = hear_round(job, {key: made[key] for key in left}, parents, number, serving)
            tried |= heard
            left = left_of(heard)
        found = choose(job, tried, serving)
    return trying(job, found.chosen) if found.chosen else None
