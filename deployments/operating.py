"""The commands of `empelt` that keep an installation in order; registered in ``deployments.command``."""

import typer

from deployments.output import AsJson, show
from tasks.settings import settings


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
