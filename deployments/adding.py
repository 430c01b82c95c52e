"""`empelt base add`, from its arguments to its last line: check, write, tell the forms, say what is due."""

from collections.abc import Collection
from typing import Any

from deployments.bases import as_report, examine, read_wish
from deployments.bases import as_text as checks_as_text
from deployments.planning import expected_seconds, plan_family
from deployments.starting import is_up
from tasks.domain.errors import TransientError
from tasks.domain.words import duration
from tasks.doors import open_catalog, open_ledger
from tasks.settings import Settings


def add(
    settings: Settings, family: str, language: str, repository: str, *, like: str, gate: str, dry_run: bool
) -> dict[str, Any]:
    """Register a tuned base.

    Raises:
        InputError: with every problem; nothing was written then.
        HubUnavailable: the Hub does not answer; nothing was written then.
    """
    wish = read_wish(family, language, repository, like, gate)
    found = examine(settings, wish)
    report = as_report(found, wish, written=False if dry_run else found.file.save())
    report["dry_run"], report["forms"], report["due"] = dry_run, "", []
    if dry_run:
        return report
    open_catalog.cache_clear()
    if report["written"]:
        parent = {"parent": report["parent"]["says"]}
        where: dict[str, Any] = {"repo_id": found.ref.repo_id, "revision": found.ref.revision}
        open_ledger().record_base_change(family, language, "added", **where, details=parent)
    running, targets = settings.family_names, settings.target_names
    if running and family not in running:
        report["notes"].append(f"{family} does not run here: EMPELT_FAMILIES is {settings.families}")
    elif targets and found.target_name not in targets:
        report["notes"].append(f"target {found.target_name} does not run here: EMPELT_TARGETS is {settings.targets}")
    else:
        report["due"] = due_rows(family, [found.target_name])
    report["forms"] = refresh(settings)
    return report


def due_rows(family: str, targets: Collection[str]) -> list[dict[str, Any]]:
    """What the next watch would take up for these targets."""
    try:
        rows = [planned.row for planned in plan_family(open_catalog().family(family), offline=False).rows]
    except TransientError as error:  # the base is written; a Hub that went away just now changes nothing about that
        told = {"release": "", "standing": "unknown", "why": str(error), "expected_seconds": None}
        return [{"target": target, **told} for target in targets]
    return [
        {
            **{"target": row.target, "release": str(row.release.ref), "standing": row.standing, "why": row.reason},
            "expected_seconds": expected_seconds(family, row.target)[0] if row.standing == "due" else None,
        }
        for row in rows
        if row.target in targets
    ]


def refresh(settings: Settings) -> str:
    """Tell the forms of a server that is up; what became of it."""
    if not is_up(settings):
        return "no server is up; `empelt up` registers the forms"
    from deployments.registry import refresh_forms

    refresh_forms(settings)
    return "the forms in the UI know it now"


def as_text(report: dict[str, Any]) -> str:
    """The same for people."""
    return "\n".join([checks_as_text(report), *due_as_text(report)])


def due_as_text(report: dict[str, Any]) -> list[str]:
    """A line for each row of what is due, and what becomes of it."""
    lines = []
    for row in report["due"]:
        expected = f", expected {duration(row['expected_seconds'])}" if row["standing"] == "due" else ""
        lines.append(f"{row['standing']:<5} {row['release']} x {row['target']}: {row['why']}{expected}")
    if lines and not report["dry_run"]:
        lines.append(f"The next watch reads the catalog anew and takes up what is due; {report['forms']}.")
    return lines
