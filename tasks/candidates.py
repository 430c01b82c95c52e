"""Prefect tasks that make the candidates of a search: the recipes of one job, from one reading of its models."""

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.child import Event
from tasks.disk import merge_bytes
from tasks.domain.card import merge_config
from tasks.domain.errors import InputError, TransientError
from tasks.domain.jobs import Job
from tasks.domain.models import Digest
from tasks.domain.overview import page_key
from tasks.domain.search import Search, about_candidate, recipes_of
from tasks.doors import open_catalog, open_ledger, open_store
from tasks.engine.merge_config import names
from tasks.engine.recipe import Recipe, Tuned
from tasks.merge import run_on_gpu
from tasks.merging import describe, record_merge, run_engine
from tasks.progress import ProgressBar
from tasks.runs import is_transient
from tasks.sources.room import reserved

Recipes = tuple[Mapping[str, Any], ...]


def search_of(job: Job) -> Search | None:
    """The search of the job's target, where it is the one that the job was opened with."""
    search = open_catalog().target(job.family, job.target).search
    return search if search is not None and search.digest() == job.search else None


def search_stated(job: Job) -> Search:
    """``search_of`` a job that has one.

    Raises:
        InputError: the catalog was edited meanwhile.
    """
    found = search_of(job)
    if found is None:
        raise InputError(f"{job.name}: its target states no search, or another one than when the job was opened")
    return found


def rounds_of(job: Job) -> int:
    """In how many rounds candidates are heard."""
    search = search_of(job)
    return len(search.items) if search else 0


def tries(job: Job) -> list[Job]:
    """The job with each recipe of its target's search; empty if it has none."""
    search = search_of(job)
    own = open_catalog().target(job.family, job.target).recipe
    return [job.trying(r.model_dump(mode="json")) for r in recipes_of(search, own)] if search else []


def trying(job: Job, merge_key: Digest) -> Job:
    """The try of the job's search with this merge_key.

    Raises:
        InputError: the grid has none, since the catalog was edited meanwhile.
    """
    found = next((one for one in tries(job) if one.merge_key == merge_key), None)
    if found is None:
        raise InputError(f"{job.name}: its search has no recipe with merge key {merge_key[:12]}; run the job again")
    return found


@task(
    name="merge-candidates",
    task_run_name="merge the candidates of {job.name}",
    cache_policy=NO_CACHE,
    retries=1,
    retry_condition_fn=is_transient,
)
def merge_candidates(job: Job, inputs: dict[str, Digest], fence: int) -> list[tuple[Job, Digest]]:
    """Every try of the job's search with its artifact: from the ledger, or from one run on the gpu pool."""
    missing = [one for one in tries(job) if _made(one) is None]
    if missing:
        key = f"{job.key}:search:{fence}:{len(missing)}"
        run = run_on_gpu(job, inputs, key, recipes=[dict(one.lineage.recipe) for one in missing])
        if left := [one for one in missing if _made(one) is None]:
            raise TransientError(f"merge run {run} completed, but {len(left)} of {len(missing)} are not recorded")
    return [(one, made) for one in tries(job) if (made := _made(one)) is not None]


@task(name="graft-candidates", task_run_name="graft the candidates of {job.name}", cache_policy=NO_CACHE)
def graft_candidates(job: Job, inputs: dict[str, Digest], recipes: Recipes) -> list[Digest]:
    """Run the engine once for all recipes that read the same models; write the cards, adopt and record each result.

    What an earlier attempt has recorded is not made again.
    """
    wanted = [one for one in map(job.trying, recipes) if _made(one) is None]
    if not wanted:
        return []
    folders = {role: open_store().get(digest).folder for role, digest in inputs.items()}
    progress = ProgressBar(page_key("search", job.family, job.target), f"Candidates of {job.name}")
    made = [digest for some in readings(wanted) for digest in _graft_some(some, folders, progress)]
    get_run_logger().info("%s: %d candidates from %d readings", job.name, len(made), len(readings(wanted)))
    return made


def readings(wanted: Sequence[Job]) -> list[list[Job]]:
    """The tries by the models that their recipes read, which share a reading. Linear reads no base."""
    groups: dict[object, list[Job]] = {}
    for one in wanted:
        recipe = Recipe.model_validate(one.lineage.recipe)
        tuned = {part.role: Tuned(part.role) for part in one.lineage.ingredients if part.role.startswith("tuned:")}
        config = recipe.config("base", "instruct", {role.partition(":")[2]: own for role, own in tuned.items()})
        groups.setdefault(frozenset(names(config)), []).append(one)
    return list(groups.values())


def _graft_some(wanted: Sequence[Job], folders: dict[str, str], progress: ProgressBar) -> list[Digest]:
    """Several tries from one reading."""
    store, job, reports = open_store(), wanted[0], {}
    scratch = store.scratch(f"search-{job.key[:12]}-{uuid4().hex[:8]}")
    pairs = [(scratch / f"{n}.json", scratch / f"out-{n}") for n in range(len(wanted))]
    for one, (config, _) in zip(wanted, pairs, strict=True):
        config.write_text(json.dumps(merge_config(one.lineage.recipe, folders), indent=1))

    def on_event(event: Event) -> None:
        if event["event"] == "report":
            reports[event["out"]] = event
        progress(event)

    with reserved(store.root / "room", sum(map(merge_bytes, wanted)), scratch, f"candidates of {job.name}"):
        also = [str(part) for pair in pairs[1:] for part in ("--also", *pair)]
        run_engine(folders, [*map(str, pairs[0]), *also], on_event)
    made = []
    for one, (_, out) in zip(wanted, pairs, strict=True):
        describe(one, folders, reports[str(out)], out, about_candidate(len(tries(job)) or len(wanted)))
        artifact = store.adopt(out)
        record_merge(one, artifact, reports[str(out)], progress)
        made.append(artifact.digest)
    shutil.rmtree(scratch)
    return made


def _made(one: Job) -> Digest | None:
    found = open_ledger().artifact_for(one.merge_key)
    return found.digest if found is not None and open_store().use(found.digest) else None
