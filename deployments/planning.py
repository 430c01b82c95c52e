"""`empelt plan`: what is due and why, and what it would cost, found out as the watch does it and recorded nowhere.

The Hub is read (listings, small files, headers); with ``offline`` the ledger alone. Seconds are the median of jobs that
came to an end here; where there is none, nothing is said.
"""

import math
from datetime import UTC, datetime
from functools import cache
from statistics import median
from typing import Any, NamedTuple

from deployments.showing import human_bytes, table
from tasks.admission import examine, hold_key, release_of, ruled
from tasks.domain.catalog import Family, Repository
from tasks.domain.due import PlanRow
from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.jobs import Job
from tasks.domain.models import Digest, ModelRef, Release
from tasks.domain.words import duration
from tasks.doors import open_catalog, open_ledger, open_source, open_store
from tasks.heads import resolve
from tasks.hub import SELF_LIFTING
from tasks.jobs import build_job
from tasks.settings import settings
from tasks.sources.detection import instruct_releases
from tasks.sources.digest import remote_digest
from tasks.sources.download import wanted
from tasks.sources.facts import ModelFacts
from tasks.standing import rows_of

RECENT = 10
"""Jobs that an expectation is the median of, at most: machines and suites change."""
BYTES_OF = {"bfloat16": 2, "float16": 2, "float32": 4}


class Cost(NamedTuple):
    """What a job would take. None is "unknown", never 0."""

    fetch_bytes: int | None
    """Of models that are not in the store yet."""
    write_bytes: int | None
    """Of the merged weights; 0 if this merge is in the store."""
    seconds: float | None
    """From claim to end, as the median of earlier jobs."""
    jobs: int
    """How many those are."""


class Planned(NamedTuple):
    """One row of the plan."""

    row: PlanRow
    cost: Cost | None
    """Of what could be run: due, held or exhausted."""


class Waiting(NamedTuple):
    """Something that the watch would not plan yet, and why."""

    what: str
    why: str


class Plan(NamedTuple):
    """The plan of one family."""

    family: str
    rows: list[Planned]
    waiting: list[Waiting]


def plan_family(family: Family, *, offline: bool) -> Plan:
    """What the next watch would find due of ``family``.

    Args:
        family: of the catalog.
        offline: go by the ledger: releases on record, and the state in which each repository was seen last.

    Raises:
        HubUnavailable: the Hub does not answer; ask with ``offline``.
    """
    releases, waiting = (ruled(family, open_ledger().releases(family.family)), []) if offline else releases_now(family)
    look = last_seen if offline else cache(seen_now)
    rows: list[Planned] = []
    for name, target in family.targets.items():
        try:
            jobs = {r.content_digest: build_job(family, name, r, look) for r in releases}
        except ModelRefused as refusal:  # one repository that is gone must not hide the other targets
            waiting.append(Waiting(f"target {name}", str(refusal)))
            continue
        found = rows_of(family.family, name, target.channel, releases, {d: job.key for d, job in jobs.items()})
        rows += [Planned(row, _cost(jobs[row.release.content_digest], row, offline=offline)) for row in found]
    return Plan(family.family, rows, waiting)


def releases_now(family: Family) -> tuple[list[Release], list[Waiting]]:
    """Releases on record with those that the next watch would record; and what it would leave alone."""
    ledger, now = open_ledger(), datetime.now(UTC)
    known = {release.content_digest: release for release in ruled(family, ledger.releases(family.family))}
    held = {hold.key: hold.reason for hold in ledger.holds()}
    rule = family.instruct
    listed = [state for org in rule.organizations for state in open_source().list_organisation(org)]
    waiting: list[Waiting] = []
    for state in instruct_releases(listed, pattern=rule.pattern, deny=rule.deny):
        reason = held.get(hold_key(state.ref))
        if reason is not None and not reason.startswith(SELF_LIFTING):
            waiting.append(Waiting(str(state.ref), f"held: {reason}"))
            continue
        found = examine(family, state, now)
        if found.verdict != "release":
            waiting.append(Waiting(str(state.ref), f"{found.verdict}: {found.reason}"))
        elif found.cause == "new":
            release = release_of(family, state, found, now)
            known.setdefault(release.content_digest, release)
    return list(known.values()), waiting


def seen_now(repository: Repository) -> tuple[ModelRef, Digest]:
    """The exact state of a catalog entry at the Hub, and its digest; recorded nowhere."""
    ref = resolve(repository)
    seen = open_ledger().repo_seen(ref.repo_id)
    if seen is not None and seen.revision == ref.revision and seen.content_digest is not None:
        return ref, seen.content_digest
    return ref, remote_digest(open_source(), ref)[0]


def last_seen(repository: Repository) -> tuple[ModelRef, Digest]:
    """The state of a catalog entry by the ledger alone."""
    seen = open_ledger().repo_seen(repository.repo)
    wants = repository.revision
    if seen is None or seen.content_digest is None or wants not in (None, seen.revision):
        pinned = f"{repository.repo}@{wants[:12]}" if wants else repository.repo
        raise ModelRefused(f"{pinned} was never read here, so nothing is known of it; ask the Hub, without --offline")
    return ModelRef(repo_id=repository.repo, revision=seen.revision), seen.content_digest


def _cost(job: Job, row: PlanRow, *, offline: bool) -> Cost | None:
    if row.standing not in ("due", "held", "exhausted"):
        return None
    seconds, jobs = expected_seconds(job.family, job.target)
    return Cost(_fetch_bytes(job, offline=offline), _write_bytes(job, offline=offline), seconds, jobs)


def _fetch_bytes(job: Job, *, offline: bool) -> int | None:
    absent = {i.digest: i.ref for i in job.lineage.ingredients if not open_store().has(i.digest)}
    if offline and absent:
        return None
    return sum(_download_bytes(ref) for ref in absent.values())


@cache
def _download_bytes(ref: ModelRef) -> int:
    return sum(file.size for file in wanted(open_source().files(ref)))


def _write_bytes(job: Job, *, offline: bool) -> int | None:
    made = open_ledger().artifact_for(job.merge_key)
    if made is not None and open_store().has(made.digest):
        return 0
    return None if offline else _elements(job.lineage.ref_of("base")) * BYTES_OF[str(job.lineage.recipe["out_dtype"])]


@cache
def _elements(ref: ModelRef) -> int:
    return sum(math.prod(tensor.shape) for tensor in ModelFacts(open_source(), ref).tensors.values())


def expected_seconds(family: str, target: str) -> tuple[float | None, int]:
    """Median seconds from claim to end of the latest jobs of this target, else of its family; and how many they are."""
    ledger, spans = open_ledger(), []
    for fact in ledger.jobs(family):
        end, attempts = ledger.job_end(fact.job_key), ledger.attempts_of(fact.job_key)
        if end is None or end.outcome not in ("published", "kept", "rejected", "awaiting"):
            continue
        if began := next((a.at for a in reversed(attempts) if a.at <= end.at), None):
            spans.append((fact.job.target, (end.at - began).total_seconds()))
    chosen = [s for name, s in spans if name == target] or [s for _, s in spans]
    return (median(chosen[-RECENT:]), len(chosen[-RECENT:])) if chosen else (None, 0)


def read_plan(family: str, *, offline: bool) -> dict[str, Any]:
    """The plan of one family, or of all that run here, as one JSON object."""
    catalog = open_catalog()
    if family and family not in catalog.families:
        raise InputError(
            f"family {family!r} does not run here; those that do: {sorted(catalog.families)} (EMPELT_FAMILIES)"
        )
    plans = [plan_family(catalog.family(n), offline=offline) for n in ([family] if family else catalog.families)]
    rows = [_row(planned) for plan in plans for planned in plan.rows]
    waiting = [{"family": plan.family, **item._asdict()} for plan in plans for item in plan.waiting]
    return {"asked": "ledger" if offline else settings().hub_endpoint, "rows": rows, "waiting": waiting}


def _row(planned: Planned) -> dict[str, Any]:
    row, cost = planned
    told: dict[str, Any] = {
        **{"family": row.family, "target": row.target, "channel": row.channel},
        **{"release": row.release.ref.repo_id, "revision": row.release.ref.revision, "job": row.job_key},
        **{"standing": row.standing, "why": row.reason, "released_at": row.release.released_at.isoformat()},
    }
    if cost is not None:
        told["fetch_bytes"], told["write_bytes"] = cost.fetch_bytes, cost.write_bytes
        told["expected_seconds"], told["expected_from_jobs"] = cost.seconds, cost.jobs
    return told


def as_text(found: dict[str, Any]) -> str:
    """The same for people: one table, then what waits."""
    lines = []
    if found["rows"]:
        columns = ("family", "target", "release", "standing", "why", "to fetch", "to write", "expected")
        lines.append(table(columns, [_cells(row) for row in found["rows"]]))
    due = sum(row["standing"] == "due" for row in found["rows"])
    lines += [f"waits    {item['family']}: {item['what']}: {item['why']}" for item in found["waiting"]]
    where = "by the ledger alone" if found["asked"] == "ledger" else f"by {found['asked']}"
    lines.append(f"{len(found['rows'])} release(s) x target(s), {due} due, {where}; nothing was recorded")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    told = (row["family"], row["target"], f"{row['release']}@{row['revision'][:12]}", row["standing"], row["why"])
    if "fetch_bytes" not in row:
        return (*told, "", "", "")
    seconds, jobs = row["expected_seconds"], row["expected_from_jobs"]
    expected = duration(seconds) + (f" (median of {jobs})" if jobs else "")
    return (*told, human_bytes(row["fetch_bytes"]), human_bytes(row["write_bytes"]), expected)
