"""`empelt base update`, `retire`, `list`, `pack` and `unpack`: their arguments; what they do lies beside."""

from collections.abc import Callable
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
        typer.Argument(metavar="[REPO[@REV]]", help="@REV: another revision; OWNER/NAME: a successor; else its head."),
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


def pack(name: Name, as_json: AsJson = False) -> None:
    """Keep a tuned base as a lossless difference to its parent: measured, proven byte by byte, and read so by merges.

    The whole files are removed only when every one of them came out of the pack again.

    Exit codes: 0 packed, 2 refused, 3 it is in use; after 2 and 3 it is as it was.
    """
    from deployments.base_packing import as_text, pack_here

    found = pack_here(settings(), name)
    show(found, as_json, as_text(found))


def unpack(name: Name, as_json: AsJson = False) -> None:
    """Give a packed tuned base its files back, byte for byte. It is not packed again by itself.

    Exit codes: 0 unpacked, 2 refused: it is not packed, or the pack is damaged.
    """
    from deployments.base_packing import as_text, unpack_here

    found = unpack_here(settings(), name)
    show(found, as_json, as_text(found))


COMMANDS: dict[str, Callable[..., None]] = {
    "update": update,
    "retire": retire,
    "list": list_bases,
    "pack": pack,
    "unpack": unpack,
}
