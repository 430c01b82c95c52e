"""`empelt gate lint` and `empelt replay`: a gate file before it judges anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployments import completion
from deployments.output import AsJson, show
from tasks.domain.errors import InputError
from tasks.doors import open_ledger
from tasks.settings import settings

if TYPE_CHECKING:
    from tasks.store.ledger import Ledger

gate = typer.Typer(name="gate", help="Gate files: what their items can carry.", no_args_is_help=True)
OneFamily = Annotated[str, typer.Option(help="Only this family.", autocompletion=completion.families)]
OneTarget = Annotated[str, typer.Option(help="Only this target.", autocompletion=completion.targets)]


def _ledger() -> "Ledger | None":
    chosen = settings()
    return open_ledger() if chosen.ledger_url or (chosen.home / "ledger.db").exists() else None


@gate.command("lint")
def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A gate's YAML.")],
    family: OneFamily = "",
    target: OneTarget = "",
    as_json: AsJson = False,
) -> None:
    """Refuse margins that the items cannot carry, and gains that the parents do not show. Asks no model.

    How much models disagree is read from the ledger; where nothing is on record, .12 is assumed and said.

    Exit codes: 0 every margin can be carried, 2 the file or a margin is refused.
    """
    from deployments.gating import fitted, lint_text, linted

    found = linted(fitted(file, family, target), _ledger())
    show(found, as_json, lint_text(found))
    if found["refused"]:
        raise typer.Exit(2)


def replay(
    gate: Annotated[Path, typer.Option(metavar="NEW.yaml", help="The gate's YAML to judge by.")],
    family: OneFamily = "",
    target: OneTarget = "",
    as_json: AsJson = False,
) -> None:
    """Judge the whole history by another gate, from stored items. Asks no model, records nothing.

    Exit codes: 0 judged, whatever changes; 2 the file is refused, or there is no ledger.
    """
    from deployments.gating import fitted, replay_text, replayed

    ledger = _ledger()
    if ledger is None:
        raise InputError(f"no ledger in {settings().home}: name the home with EMPELT_HOME")
    found = replayed(fitted(gate, family, target), ledger)
    show(found, as_json, replay_text(found))
