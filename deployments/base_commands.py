"""`empelt base update`, `retire`, `list`, `pack` and `unpack`: their arguments; what they do lies beside."""

from typing import Annotated

import typer

from deployments import completion
from deployments.output import AsJson, show
from tasks.settings import settings

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="FAMILY/LANGUAGE, or its repository.", autocompletion=completion.bases)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and show, write nothing.")]


def update(
    name: Name,
    repository: Annotated[
        str,
        typer.Argument(metavar="[REPO[@REV]]", help="@REV for another revision; OWNER/NAME for a successor; else head."),
    ] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Bring a tuned base to a new revision, or put a successor in its place: checked and proven as a new one is.

    The targets that use it become due again for the newest release. A retired one comes back into use.

    Exit codes: 0 written, 2 refused with all reasons and nothing written, 3 the Hub does not answer.
    """
    from deployments.updating import as_text
    from deployments.updating import update as bring

    found = bring(settings(), name, repository, dry_run=dry_run)
    show(found, as_json, as_text(found))


def retire(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why; recorded, and shown where a target waits for a successor.")] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make no new merges of a tuned base. What is live stays live; jobs that wait for it end with the reason.

    Exit codes: 0 retired, 2 refused and nothing written.
    """
    from deployments.retiring import as_text
    from deployments.retiring import retire as take_out

    found = take_out(settings(), name, reason, dry_run=dry_run)
    show(found, as_json, as_text(found))


def list_bases(
    family: Annotated[
        str, typer.Argument(help="Only this family (default: all that run here).", autocompletion=completion.families)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """State, parent, revision, licence, size on disk, packed ratio and use of every tuned base. Asks no Hub.

    Exit codes: 0 shown, 2 the catalog was refused.
    """
    from deployments.base_listing import as_text, read_bases

    found = read_bases(settings(), family)
    show(found, as_json, as_text(found))


COMMANDS = {"update": update, "retire": retire, "list": list_bases}
