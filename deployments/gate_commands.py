"""`empelt gate MODEL` judges a checkpoint; `empelt gate lint` and `empelt replay` try a gate file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from deployments import completion
from deployments.output import AsJson, err, show
from tasks.domain.errors import InputError, PipelineError
from tasks.doors import open_ledger
from tasks.engine.errors import MergeError
from tasks.settings import settings

if TYPE_CHECKING:
    from tasks.store.ledger import Ledger

UsageError = typer.BadParameter.__base__ or Exception
"""Of typer, which has its own copy of click and names only this one's child."""
JUDGE = "judge"
BROKEN = 3


class ModelOrCommand(TyperGroup):
    """``gate MODEL ...`` is ``gate judge MODEL ...``: what is no command's name is a model's.

    A model folder that is called like a command is meant by ``./lint``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name in front where it was left out."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "--install-completion"):
            args = [JUDGE, *args]
        return super().parse_args(ctx, args)


class Judging(TyperCommand):
    """A command whose wrong usage ends as a broken run: 2 means undecided there."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As always, but for the exit code."""
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            error.exit_code = BROKEN
            raise


gate = typer.Typer(
    name="gate",
    help="Judge a checkpoint: `empelt gate MODEL --family FILE --target eu`. And what the items of a gate file carry.",
    no_args_is_help=True,
    cls=ModelOrCommand,
)
OneFamily = Annotated[str, typer.Option(help="Only this family.", autocompletion=completion.families)]
OneTarget = Annotated[str, typer.Option(help="Only this target.", autocompletion=completion.targets)]


def _ledger() -> "Ledger | None":
    chosen = settings()
    return open_ledger() if chosen.ledger_url or (chosen.home / "ledger.db").exists() else None


@gate.command(JUDGE, cls=Judging)
def judge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder, an artifact's digest, or owner/name[@rev].")],
    family: Annotated[str, typer.Option(metavar="FILE", help="A family's YAML, or its name in the catalog.")],
    target: Annotated[str, typer.Option(help="Whose gate judges.", autocompletion=completion.targets)],
    gate: Annotated[Path | None, typer.Option(metavar="GATE.yaml", help="Another gate than the target's.")] = None,
    parent: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=MODEL", help="A parent: instruct or tuned; repeatable.")
    ] = None,
    url: Annotated[str, typer.Option(help="A server at which MODEL answers already; none is started for it.")] = "",
    name: Annotated[str, typer.Option(help="Its name there.")] = "",
    served: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=NAME", help="A parent that answers there too; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge any checkpoint by a target's gate, beside its instruct and tuned parents. Promotes nothing.

    Its files are compared with its instruct parent's, it is asked a few questions, then the gate's benchmarks. It is
    served by a running `empelt up`, else for the time of the command. Parents are those that it was merged from, where
    that is on record; else the newest instruct release that the source lists, and the family's tuned bases.

    Exit codes: 0 passed, 1 rejected, 2 undecided, 3 broken: it could not be judged, and the message says why.
    """
    from deployments.judging import Asked, judge_model
    from deployments.judging_report import as_text, broken, report

    try:
        asked = Asked(model, family, target, gate, _pairs("parent", parent), url, name, _pairs("served", served))
        found = report(judge_model(asked, lambda line: err.print(f"[dim]{line}[/dim]", highlight=False)))
    except (PipelineError, MergeError) as error:
        found = broken(error)
        if not as_json:
            err.print(f"{type(error).__name__}: ", style="bold red", end="")
            err.print(str(error), highlight=False, markup=False, soft_wrap=True)
    show(found, as_json, as_text(found))
    raise typer.Exit(int(found["exit_code"]))


def _pairs(option: str, given: list[str] | None) -> dict[str, str]:
    pairs = [one.partition("=") for one in given or ()]
    if wrong := ["".join(pair) for pair in pairs if not pair[0] or not pair[2]]:
        raise InputError(f"--{option} {', '.join(wrong)}: expected ROLE=VALUE, as in instruct=...")
    return {role: value for role, _, value in pairs}


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
