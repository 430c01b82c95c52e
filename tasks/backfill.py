"""Prefect tasks that bring releases on record to targets that lack them: a language that was added, a base made anew.

The watch brings the newest release by itself. A backfill brings older ones too, the oldest first, so that a newer one
takes their place and never the other way round.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.admission import ruled
from tasks.domain.due import PlanRow, order_releases
from tasks.domain.errors import InputError
from tasks.domain.jobs import run_name
from tasks.domain.models import Release
from tasks.doors import open_catalog, open_ledger
from tasks.jobs import Look, build_job, look_up
from tasks.plan import room
from tasks.retired import retired_languages
from tasks.runs import HUB
from tasks.standing import newest_served, rows_of, standing
from tasks.turns import WATCH, alone

POLL_SECONDS = 5.0
SETTLED = ("published", "kept", "running", "waiting")
"""Standings of a newer release that make an older one pointless."""


class Step(NamedTuple):
    """One release for one target, and whether the backfill brings it."""

    row: PlanRow
    why_not: str
    """"" if it is brought."""

    @property
    def why(self) -> str:
        """For people: why it is brought, or left."""
        if self.why_not or self.row.standing == "due":
            return self.why_not or self.row.reason
        return f"brought first: {self.row.reason}"


def targets_of(family: str, language: str | None, target: str | None) -> tuple[str, ...]:
    """The targets that are meant; InputError lists the known ones."""
    chosen = open_catalog().family(family)
    if language is not None and target is not None:
        raise InputError(f"language {language!r} and target {target!r}: give one of the two")
    if target is not None:
        open_catalog().target(family, target)
        return (target,)
    if language is None:
        return tuple(name for name in chosen.targets if not retired_languages(chosen, name))
    found = tuple(name for name, one in chosen.targets.items() if language in one.languages)
    if not found:
        known = sorted({code for one in chosen.targets.values() for code in one.languages})
        raise InputError(f"no target of {family!r} is for language {language!r}; there are targets for {known}")
    return found


def steps_of(rows: Sequence[PlanRow], served: Release | None, most: int) -> list[Step]:
    """What becomes of the newest ``most`` releases of one target.

    Args:
        rows: the target's, newest first, as the watch plans them.
        served: the newest release that its channel has served.
        most: how many releases to look at.
    """
    steps: list[Step] = []
    newer: PlanRow | None = None
    for row in rows[:most]:
        why_not = "" if row.standing == "due" else row.reason
        if row.standing == "superseded" and newer is None:  # by one that is itself only due
            late = served is not None and row.release.released_at <= served.released_at
            why_not = f"the channel has served {served.ref.slug}, which is newer" if served and late else ""
        if newer is None and standing(row.job_key).standing in SETTLED:
            newer = row
        steps.append(Step(row, why_not))
    return steps


@task(name="plan-backfill", task_run_name="plan backfill of {family}", **HUB)
def plan_backfill(family: str, language: str | None, target: str | None, releases: int) -> list[Step]:
    """Every step, the oldest release first; releases at the Hub that the watch has not recorded are not looked at."""
    if releases < 1:
        raise InputError(f"releases is {releases}: give how many of the newest are brought, 1 or more")
    targets = targets_of(family, language, target)
    on_record = _on_record(family)
    for name in targets:
        for release in on_record:
            open_ledger().record_job(build_job(open_catalog().family(family), name, release))
    return plan_steps(family, targets, releases)


def plan_steps(family: str, targets: Sequence[str], most: int, look: Look = look_up) -> list[Step]:
    """The same for targets that are known; without a run of Prefect's, for the command."""
    catalog, on_record = open_catalog(), _on_record(family)
    steps: list[Step] = []
    for name in targets:
        channel = catalog.target(family, name).channel
        jobs = {r.content_digest: build_job(catalog.family(family), name, r, look) for r in on_record}
        rows = rows_of(family, name, channel, on_record, {digest: job.key for digest, job in jobs.items()})
        steps += steps_of(rows, newest_served(channel, on_record), most)
    age = {release.content_digest: -place for place, release in enumerate(order_releases(on_record))}
    return sorted(steps, key=lambda step: age[step.row.release.content_digest])


def _on_record(family: str) -> list[Release]:
    """The releases that a backfill is about: what a person has run besides is not the family's."""
    return ruled(open_catalog().family(family), open_ledger().releases(family))


@contextmanager
def turn(step: Step) -> Iterator[bool]:
    """Wait until the window has room and no watch is under way; then whether this step is still to be made."""
    logger, told = get_run_logger(), False
    while True:
        if room() > 0:
            with alone(WATCH) as mine:
                if mine and room() > 0:
                    yield _still_open(step.row)
                    return
        if not told:
            logger.info("%s waits for its turn", run_name(step.row.release.ref, step.row.target))
            told = True
        time.sleep(POLL_SECONDS)


def _still_open(row: PlanRow) -> bool:
    """Whether nothing newer has come to this target since it was planned."""
    family = open_catalog().family(row.family)
    newer = [r for r in _on_record(row.family) if r.released_at > row.release.released_at]
    ends = [standing(build_job(family, row.target, release).key).standing for release in newer]
    return standing(row.job_key).standing == "open" and not set(ends) & set(SETTLED)


@task(name="report-backfill", cache_policy=NO_CACHE)
def report_backfill(steps: list[Step], dispatched: list[str]) -> None:
    """The backfill as a table in the UI."""
    table = [
        {
            "release": str(step.row.release.ref),
            "target": step.row.target,
            "backfill": "dispatched" if run_name(step.row.release.ref, step.row.target) in dispatched else "not",
            "why": step.why,
        }
        for step in steps
    ]
    create_table_artifact(table, key="backfill", description="The newest releases on record, and what became of each")
