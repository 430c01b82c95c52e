"""How long the product takes to plan at ten times the year's size: 30,000 repositories, 300 releases, 12 targets.

One family whose organisation lists all of them. Two jobs in three have ended, the rest were superseded, as after a
year. What is measured is all that a watch computes between the answers of the Hub and the first dispatch: finding the
releases in the listing, comparing it with the ledger, and the standing of 3,600 jobs. The answers themselves are made
before, since a network's time is no planning.
"""

import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from random import Random

from tasks.domain.models import ModelRef, Release
from tasks.hub import find_releases
from tasks.plan import plan_due
from tests.year.clock import START, Clock
from tests.year.contents import model
from tests.year.events import LANGUAGES, Event, FamilyPlan
from tests.year.hub import SimulatedHub, SimulatedSource
from tests.year.workers import outcome_of
from tests.year.world import installation

PLAN = FamilyPlan("big", "Big-8B", ("biglab",))


def measure_planning(
    *, repositories: int = 30_000, releases: int = 300, repeats: int = 5, database: str = ""
) -> dict[str, float]:
    """Seconds of an idle watch: ``detection``, ``planning`` and ``both``, each the median of ``repeats``.

    Of this process's CPU, so that what else runs on the machine does not count; ``wall`` is both by the clock.
    """
    clock, hub = Clock(), SimulatedHub()
    base = model(PLAN.base, PLAN.base)
    hub.apply(Event(START, "create", "base", PLAN.base, base))
    for language in LANGUAGES:
        hub.apply(Event(START, "create", f"tuned-{language}", PLAN.tuned(language), model(language, PLAN.base)))
    made = [model(f"release {number}", PLAN.base, parents=(PLAN.base,)) for number in range(releases)]
    for number, content in enumerate(made):
        name = f"biglab/{PLAN.label}-Instruct-{number:03}"
        hub.apply(Event(START + timedelta(days=number), "create", f"release-{number}", name, content))
    for number in range(repositories - releases):
        name = f"biglab/{PLAN.label}-Instruct-{number % releases:03}-GGUF-{number}"
        hub.apply(Event(START, "create", f"other-{number}", name if number % 3 else f"biglab/other-{number}", base))
    source = SimulatedSource(hub, clock, Random(1))
    listed = {"biglab": source.list_organisation("biglab")}
    source.list_organisation = lambda organisation: listed[organisation]  # type: ignore[method-assign]
    clock.to(START + timedelta(days=releases + 1))
    with tempfile.TemporaryDirectory() as folder, installation(Path(folder), [PLAN], clock, database=database) as world:
        world.use(source, lambda *_args, **_options: None)
        for number, content in enumerate(made):
            row = hub.by_key[f"release-{number}"].state()
            ref = ModelRef(repo_id=row.repo_id, revision=row.sha)
            world.ledger.record_release(
                Release(
                    family=PLAN.name,
                    ref=ref,
                    content_digest=content.identity,
                    released_at=row.last_modified,
                    seen_at=row.last_modified,
                )
            )
            world.ledger.record_repo_state(row.repo_id, row.internal_id, row.sha, content.identity, clock.at)
        plan_due.fn(PLAN.name, world.ledger.releases(PLAN.name))
        for place, fact in enumerate(world.ledger.jobs(PLAN.name)):
            if place % 3:
                job = fact.job
                outcome = outcome_of(job.release.content_digest, job.target)
                world.ledger.record_job_end(fact.job_key, outcome, "simulated")  # type: ignore[arg-type]
        taken: dict[str, list[float]] = {"detection": [], "planning": [], "both": [], "wall": []}
        for _ in range(repeats):
            wall, began = time.perf_counter(), time.process_time()
            found = find_releases.fn(PLAN.name)
            between = time.process_time()
            rows = plan_due.fn(PLAN.name, found)
            ended = time.process_time()
            taken["wall"].append(time.perf_counter() - wall)
            assert len(found) == releases, f"{len(found)} releases were found, and {releases} are there"
            assert len(rows) == releases * len(LANGUAGES), f"{len(rows)} jobs were planned"
            for name, seconds in (
                ("detection", between - began),
                ("planning", ended - between),
                ("both", ended - began),
            ):
                taken[name].append(seconds)
        return {name: statistics.median(seconds) for name, seconds in taken.items()}


if __name__ == "__main__":
    print(measure_planning())
