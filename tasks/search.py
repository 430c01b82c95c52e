"""Prefect tasks of a search for a recipe: let the better half of the candidates go on, and choose."""

from collections.abc import Mapping

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.domain.outputs import measured_facts
from tasks.domain.overview import page_key
from tasks.domain.search import SearchFact, Tried, Worth, ranked, search_key, survivors
from tasks.doors import open_ledger

Serving = dict[str, str]


def left_of(tried: Mapping[Digest, Tried]) -> list[Digest]:
    """The candidates that are heard further."""
    return survivors({key: _worth(one) for key, one in tried.items()})


@task(name="choose", task_run_name="choose the recipe of {job.name}", cache_policy=NO_CACHE)
def choose(job: Job, tried: Mapping[Digest, Tried], serving: Serving) -> SearchFact:
    """The best of the last round goes to the gate: in the ledger, and as a table in the UI."""
    order = ranked({key: _worth(one) for key, one in tried.items()})
    rows = sorted((tried[key] for key in order), key=lambda one: -one.round)
    best = rows[0] if rows and rows[0].score is not None else None
    said = f"none of {len(rows)} candidates could be heard" + (f": {rows[0].why}" if rows else "")
    if best is not None:
        said = (
            f"the best of {len(rows)} recipes: it keeps {best.kept:.2f} of the tuned parent's gain on dev texts, and "
        )
        said += f"needs {best.drift:.3f} more bits per byte for the instruct parent's answers"
    chosen = best.merge_key if best else None
    fact = SearchFact(key=key_of(job, serving), job_key=job.key, chosen=chosen, tried=tuple(rows), said=said)
    open_ledger().record_search(fact)
    table = [one.model_dump(mode="json", exclude={"recipe"}) | dict(one.recipe) for one in rows]
    create_table_artifact(table, key=page_key("search", job.family, job.target), description=f"{job.name}: {said}")
    get_run_logger().info("%s: %s", job.name, said)
    return open_ledger().search(fact.key) or fact


def key_of(job: Job, serving: Serving) -> Digest:
    """Names the search of this job."""
    return search_key(job=job.key, serving=measured_facts(serving))


def chosen_before(job: Job, serving: Serving) -> SearchFact | None:
    """What this search has chosen already, in an attempt that was cut off later."""
    return open_ledger().search(key_of(job, serving))


def _worth(one: Tried) -> Worth | None:
    if one.score is None or one.kept is None or one.drift is None:
        return None
    return Worth(one.kept, one.drift, one.score)
