"""`empelt audit`: whether each channel answers with the model that was judged."""

from typing import Annotated

import typer

from deployments.output import AsJson, show
from tasks.domain.errors import InputError
from tasks.settings import settings


def audit(
    channel: Annotated[str | None, typer.Argument(help="Only this channel; all of them if it is left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask each channel what its model said when it was judged, and hold the answers against that.

    Runs every night by itself, as the flow audit-serving. Nothing is changed; what was found is recorded. Exit codes:
    0 all are as judged, or cannot be proved to be (which is said); 1 one answers wrongly or not; 2 no such channel.
    """
    if not settings().ledger_url and not (settings().home / "ledger.db").exists():
        raise InputError(f"no ledger in {settings().home}: name the home with EMPELT_HOME")
    from tasks.audit import channels_to_audit, look_at  # which imports Prefect: 2 s that other commands need not wait
    from tasks.domain.audit import summary

    found = [look_at(name) for name in channels_to_audit(channel)]
    lines = []
    for one in found:
        lines.append(
            f"{one.channel:<12} generation {one.generation:<4} {one.artifact_digest[:12]}  {one.outcome:<9} {one.said}"
        )
        lines += [f"    - {problem}" for problem in one.problems]
    report = {"summary": summary(found), "channels": [one.model_dump(mode="json") for one in found]}
    show(report, as_json, "\n".join([*lines, summary(found)]))
    if any(one.is_bad for one in found):
        raise typer.Exit(1)
