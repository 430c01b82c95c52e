"""`empelt backfill`: shows what a backfill would bring, and starts its flow on the installation that is up."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from deployments.planning import seen_now
from deployments.showing import table
from deployments.starting import require_server, start_on
from tasks.backfill import plan_steps, targets_of
from tasks.domain.errors import InputError
from tasks.settings import Settings


def backfill(
    settings: Settings, family: str, *, language: str, target: str, releases: int, dry_run: bool
) -> dict[str, Any]:
    """What is brought to which target, oldest first, and the run that does it.

    Raises:
        InputError: unknown family, language or target, or no release is on record.
        EndpointUnavailable: no server is up, and this is no dry run.
    """
    steps = plan_steps(family, targets_of(family, language or None, target or None), releases, cache(seen_now))
    if not steps:
        raise InputError(
            f"no release of {family!r} is on record: the watch records them (`empelt plan --family {family}` shows "
            "what it would find)"
        )
    rows = [
        {
            **{"target": step.row.target, "channel": step.row.channel, "release": step.row.release.ref.repo_id},
            **{"revision": step.row.release.ref.revision, "job": step.row.job_key},
            **{"bring": not step.why_not, "why": step.why},
        }
        for step in steps
    ]
    report: dict[str, Any] = {"family": family, "rows": rows, "dry_run": dry_run, "run": None}
    if not dry_run and any(row["bring"] for row in rows):
        require_server(settings)
        parameters = {"family": family, "language": language or None, "target": target or None, "releases": releases}
        tags = [family, "backfill", *filter(None, (language, target))]
        report["run"] = start_on(settings, "backfill-base/by-hand", parameters, tags=tags)
    return report


def as_text(report: Mapping[str, Any]) -> str:
    """The same for people."""
    cells = [
        (f"{row['release']}@{row['revision'][:12]}", row["target"], "bring" if row["bring"] else "leave", row["why"])
        for row in report["rows"]
    ]
    brought = sum(row["bring"] for row in report["rows"])
    lines = [table(("release (oldest first)", "target", "", "why"), cells)]
    if report["run"]:
        lines.append(f"{brought} to bring, one after the other; run: {report['run']}")
    else:
        lines.append(f"{brought} to bring; nothing was started")
    return "\n".join(lines)
