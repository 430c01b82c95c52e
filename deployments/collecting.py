"""`empelt gc`: what nothing refers to any more, and what is kept because of what."""

from typing import Annotated, Any

import typer

from deployments.output import AsJson, show
from tasks.domain.errors import InputError
from tasks.domain.words import size
from tasks.settings import settings


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove artifacts that nothing refers to, half-done work of dead processes, the oldest reports; say why.

    Runs every night by itself, as the flow collect-garbage. Exit codes: 0 done or shown, 2 no ledger.
    """
    if not settings().ledger_url and not (settings().home / "ledger.db").exists():
        raise InputError(f"no ledger in {settings().home}: name the home with EMPELT_HOME")
    found = collect_here(dry_run=dry_run)
    show(found, as_json, as_text(found))


def collect_here(*, dry_run: bool) -> dict[str, Any]:
    """Collect garbage on this host, or with ``dry_run`` say what would go; everything that was looked at."""
    from tasks.garbage import collect, in_short  # which imports Prefect: 2 s that other commands need not wait

    found = collect(dry_run=dry_run)
    return {
        "dry_run": dry_run,
        "removed_bytes": sum(one.bytes for one in found if one.fate == "removed"),
        "kept_bytes": sum(one.bytes for one in found if one.fate == "kept"),
        "summary": in_short(found, dry_run=dry_run),
        "found": [one.model_dump() for one in found],
    }


def as_text(report: dict[str, Any]) -> str:
    """The same for people: what goes first."""
    order = sorted(report["found"], key=lambda one: (one["fate"] == "kept", -one["bytes"]))
    fates = {"kept": "kept", "removed": "would go" if report["dry_run"] else "removed"}
    lines = [
        f"{fates[one['fate']]:<9} {size(one['bytes']):>8}  {one['kind']:<9} {one['what'][:40]:<40}  {one['why']}"
        for one in order
    ]
    return "\n".join([*lines, report["summary"]])
