"""The commands of `empelt` that keep an installation in order; registered in ``deployments.command``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from deployments.output import AsJson, show
from tasks.domain.errors import InputError
from tasks.settings import settings

Models = Literal["live", "all", "none"]


def doctor(as_json: AsJson = False) -> None:
    """Check this host: settings, environments, ports, disk, catalog, Hub, server; show what every setting is.

    Exits with 1 if something needs mending.
    """
    from deployments import settled
    from deployments.doctor import as_text, examine

    findings, held = examine(settings()), settled.rows(settings())
    told = f"{as_text(findings)}\n\nsettings, and where each comes from\n{settled.as_text(held)}"
    show({"ok": all(f["ok"] for f in findings), "findings": findings, "settings": held}, as_json, told)
    if not all(f["ok"] for f in findings):
        raise typer.Exit(1)


def receiver() -> None:
    """Take the Hub's events, answer Prometheus; a child of `empelt up`."""
    from deployments.receiver import run_receiver_here

    run_receiver_here(settings())


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="To make; a tar that only you can read.")],
    models: Annotated[Models, typer.Option(help="Which go in: those that serve and served before, all, or none.")] = (
        "live"
    ),
    as_json: AsJson = False,
) -> None:
    """Write ledger, catalog, settings without secrets, reports and models to one file. Nothing need be stopped.

    Exit codes: 0 written, 2 the file is there already or there is no ledger, 3 no room; after 2 and 3 nothing was
    written.
    """
    from deployments.backing_up import as_text, back_up

    chosen = settings()
    if not chosen.ledger_url and not (chosen.home / "ledger.db").exists():
        raise InputError(f"no ledger in {chosen.home}: name the home with EMPELT_HOME")
    found = back_up(chosen, file, models)
    show(found, as_json, as_text(found))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `empelt backup` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Make an empty home (EMPELT_HOME) what a backup was made of; everything is checked before it is put in place.

    Exit codes: 0 restored, 2 the home is not empty or the file is no whole backup, 3 no room.
    """
    from deployments.restoring import as_text
    from deployments.restoring import restore as fill

    found = fill(settings(), file)
    show(found, as_json, as_text(found))
