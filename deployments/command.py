"""The `empelt` command. Thin: it reads the ledger, calls the rooms, and says what it did.

Exit codes: 0 done; 1 something failed; 2 refused as asked (nothing was changed); 3 may pass if tried again; 130 Ctrl-C.
"""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from deployments import adapting, auditing, base_commands, collecting, completion, operating, publishing
from deployments.deploy_command import deploy
from deployments.gate_commands import gate, replay
from deployments.output import AsJson, err, out, show
from deployments.spreading import SpreadCommand
from tasks.domain.errors import InputError, PipelineError, TransientError
from tasks.doors import open_ledger
from tasks.settings import Settings, settings
from tasks.settings_layers import refusal

app = typer.Typer(
    name="empelt",
    help="Grafts language-tuned bases onto new instruct releases, judges the result, serves what passes.",
    epilog="Exit codes: 0 done, 1 failed, 2 refused as asked, 3 may pass if tried again, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
base = typer.Typer(
    name="base",
    help="Tuned bases: add, update, retire, list, pack and unpack them.",
    no_args_is_help=True,
    epilog=app.info.epilog,
)
app.add_typer(base)
app.add_typer(gate)
app.command()(deploy)
app.command()(replay)


@app.command()
def demo(
    as_json: AsJson = False,
    family: Annotated[str, typer.Option(help="Which demo family: llama (the whole story) or qwen3.")] = "llama",
    then: Annotated[str, typer.Option(help="Run this command while all is up, then end everything.")] = "",
    record: Annotated[bool, typer.Option(help="Measure the parents anew and keep their scores.", hidden=True)] = False,
    stay: Annotated[bool | None, typer.Option(help="Stay up until Ctrl-C (default: when run in a terminal).")] = None,
) -> None:
    """Play the whole story once on this machine: a release on a local Hub becomes a served model."""
    from deployments.demo import play

    interactive = sys.stdout.isatty() if stay is None else stay
    raise typer.Exit(
        play(
            console=err if as_json else out,
            as_json=as_json,
            then=then,
            stay=interactive and not then,
            family=family,
            record=record,
        )
    )


@app.command()
def up(
    as_json: AsJson = False,
    families: Annotated[str, typer.Option(help="Families to run, comma-separated (EMPELT_FAMILIES).")] = "",
) -> None:
    """Start server, workers, agent and gateway on this host, and keep them up until Ctrl-C."""
    from deployments.up import bring_up, keep_up

    # Not settings(): what an earlier start of this installation was told must not linger.
    chosen = Settings().model_copy(update={"families": families} if families else {})
    with bring_up(chosen, lambda line: err.print(f"[dim]{line}[/dim]")) as installation:
        show(
            {
                "ui": chosen.prefect_url,
                "endpoint": f"{chosen.gateway_url}/v1",
                "seconds": round(installation.seconds, 1),
            },
            as_json,
            f"UI        {chosen.prefect_url}\nendpoint  {chosen.gateway_url}/v1\nCtrl-C ends it all",
        )
        keep_up(installation, lambda line: err.print(f"[yellow]{line}[/yellow]"))


@app.command()
def status(as_json: AsJson = False) -> None:
    """What serves on each channel, since when, from which release; what runs; what waits, and why."""
    from deployments.status import as_text, read_status

    found = read_status(_ledger_of(settings()))
    show(found, as_json, as_text(found))


@app.command()
def merge(
    config: Annotated[Path, typer.Argument(help="mergekit's YAML; or YAML or JSON: recipe, base, instruct, tuned.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; it must not exist.")],
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="CONFIG=OUT", help="One more output of the same models, which are read once; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it takes; refuse what would fail later.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="All available cores by default.")] = None,
    allow_foreign_parent: Annotated[
        bool, typer.Option("--allow-foreign-parent", help="Merge although the weights contradict a stated parent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Merge checkpoints that lie on this disk. No ledger, no server, no network.

    The same command takes up a merge that was killed.

    Exit codes: 0 done, 2 refused, 3 the disk is full; after 2 and 3 nothing was written.
    """
    from deployments.merging import merge_here

    report, text = merge_here(
        config,
        folder,
        quiet=as_json,
        console=err,
        also=also or [],
        dry_run=dry_run,
        threads=threads,
        allow_foreign_parent=allow_foreign_parent,
    )
    show(report, as_json, text)


@app.command(cls=SpreadCommand)
def lineage(
    model: Annotated[Path, typer.Argument(help="Folder of the model whose parent is asked for.")],
    candidates: Annotated[
        list[Path], typer.Option(metavar="FOLDER...", help="Possible parents: one or more, or given again and again.")
    ],
    as_json: AsJson = False,
) -> None:
    """Name a model's parent among candidates, by sampled weights. Folders on this disk; no server, no network.

    Reads a few hundred kB of each. A distance has no direction: offer possible parents only, no children.

    Exit codes: 0 a parent is named, 2 none is certain, with the reason.
    """
    from deployments.lineage import as_text, read_lineage

    found = read_lineage(model, candidates)
    show(found, as_json, as_text(found))
    if found["parent"] is None:
        err.print(f"undecided: {found['reason']}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(2)


@app.command("diff")
def diff_models(
    one: Annotated[Path, typer.Argument(metavar="A", help="Folder of a model.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one.")],
    png: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the heat map over layers there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two models tensor by tensor: norms, distances, cosines, and a heat map over layers. Reads all of both.

    Exit codes: 0 compared, however different they are; 2 a folder cannot be read, or FILE.png cannot be written.
    """
    from deployments.diffing import as_json as report
    from deployments.diffing import as_map, as_text, compare

    found, grid = compare(one, other, png, quiet=as_json, console=err)
    show(report(one, other, png, found) if as_json else {}, as_json, as_text(found))
    if not as_json:
        out.print(as_map(grid, out.width), end="", soft_wrap=True)
        if png is not None:
            show({}, False, str(png))


@app.command()
def rollback(
    channel: Annotated[str, typer.Argument(help="The channel to take back.", autocompletion=completion.channels)],
    to: Annotated[str, typer.Option(help="'previous', or the digest of an artifact that it has served.")] = "previous",
    reason: Annotated[str, typer.Option(help="Recorded, and shown in the UI.")] = "by hand",
    as_json: AsJson = False,
) -> None:
    """Take a channel back to what it served before, through a flow run that the UI shows."""
    from deployments.rolling import roll_back

    _ledger_of(settings())
    _ledger_of(settings())
    result = roll_back(settings(), channel, to, reason)
    show(
        result,
        as_json,
        f"{channel} serves {result['release']} again (artifact {result['artifact'][:12]}, generation "
        f"{result['generation']}); run: {result['run_url']}",
    )


@app.command()
def plan(
    family: Annotated[
        str, typer.Option(help="Only this family (default: all that run here).", autocompletion=completion.families)
    ] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Go by the ledger alone, ask no Hub.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is due and why, for every release and target, and what it would cost. Records nothing, needs no server.

    Reads the Hub as the watch does. Seconds are the median of jobs that ended here; "unknown" where there are none.

    Exit codes: 0 shown, 2 unknown family or no ledger, 3 the Hub does not answer.
    """
    _ledger_of(settings())
    from deployments.planning import as_text, read_plan

    found = read_plan(family, offline=offline)
    show(found, as_json, as_text(found))


@app.command()
def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="REPO[@SHA]",
            help="A repository, at its head or at a revision; or a channel; or an artifact's digest or its beginning.",
            autocompletion=completion.explainable,
        ),
    ],
    offline: Annotated[bool, typer.Option("--offline", help="Go by the ledger alone, ask no Hub.")] = False,
    as_json: AsJson = False,
) -> None:
    """All that is known: how it is recognised, pre-flight, holds, each target's verdict, and what makes it due again.

    Exit codes: 0 shown, 2 nothing is known of it, 3 the Hub does not answer in the middle.
    """
    _ledger_of(settings())
    from deployments.explained import as_text
    from deployments.explaining import explain as look_up

    found = look_up(settings(), what, offline=offline)
    show(found, as_json, as_text(found))


@app.command()
def retry(
    what: Annotated[
        str,
        typer.Argument(
            help="A key as `empelt status` shows it, or 6 digits of a job's; 'release x target'; owner/name[@sha].",
            autocompletion=completion.stopped_names,
        ),
    ],
    now: Annotated[bool, typer.Option("--now", help="Start a watch at once; needs a running `empelt up`.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take holds off, and give jobs whose attempts are used up new ones. The next watch takes them up again.

    Exit codes: 0 lifted, 2 nothing of that name is stopped, 3 with --now: no server is up (nothing was lifted).
    """
    _ledger_of(settings())
    from deployments.retrying import as_text
    from deployments.retrying import retry as lift

    found = lift(settings(), what, now=now)
    show(found, as_json, as_text(found))


@base.command("add")
def base_add(
    family: Annotated[str, typer.Argument(help="A family of the catalog.", autocompletion=completion.families)],
    language: Annotated[str, typer.Argument(help="Code of the language, such as pt.")],
    repository: Annotated[
        str, typer.Argument(metavar="[REPO[@REV]]", help="owner/name; left out if the catalog states it already.")
    ] = "",
    like: Annotated[
        str,
        typer.Option(help="Target whose recipe and gate the new one copies.", autocompletion=completion.targets),
    ] = "",
    gate: Annotated[str, typer.Option(help="Another gate than that target's.", autocompletion=completion.gates)] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show, write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register a tuned base: check it, prove its parent on the weights, pin its revision in the family's YAML.

    Adds the entry and a target of the same name, or pins the entry that you have written. A running watch reads the
    catalog anew by itself.

    Exit codes: 0 written (or nothing to change), 2 refused with all reasons and nothing written, 3 the Hub does not
    answer.
    """
    from deployments.adding import add, as_text

    found = add(settings(), family, language, repository, like=like, gate=gate, dry_run=dry_run)
    show(found, as_json, as_text(found))


@app.command()
def backfill(
    family: Annotated[str, typer.Argument(help="A family that runs here.", autocompletion=completion.families)],
    language: Annotated[
        str, typer.Option(help="Only targets for this language.", autocompletion=completion.languages)
    ] = "",
    target: Annotated[str, typer.Option(help="Only this target.", autocompletion=completion.targets)] = "",
    releases: Annotated[int, typer.Option(min=1, help="How many of the newest releases on record.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be brought; needs no server.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring releases on record to targets that lack them, oldest first. Never anything older in place of newer.

    Exit codes: 0 started or shown, 2 unknown family, language or target, 3 no server is up.
    """
    _ledger_of(settings())
    from deployments.backfilling import as_text
    from deployments.backfilling import backfill as start

    found = start(settings(), family, language=language, target=target, releases=releases, dry_run=dry_run)
    show(found, as_json, as_text(found))


@app.command(hidden=True)
def agent() -> None:
    """Make desired state true on this host; a child of `empelt up`."""
    from deployments.serving import run_agent_here

    run_agent_here(settings())


for _name, _run in base_commands.COMMANDS.items():
    base.command(_name)(_run)
app.command()(adapting.adapter)
app.command()(collecting.gc)
app.command()(auditing.audit)
app.command()(publishing.publish)
app.command()(operating.doctor)
app.command()(operating.backup)
app.command()(operating.restore)
app.command(hidden=True)(operating.receiver)


@app.command(hidden=True)
def gateway() -> None:
    """Answer people; a child of `empelt up`."""
    from deployments.serving import run_gateway_here

    run_gateway_here()


def _ledger_of(chosen: Settings) -> Any:
    if not chosen.ledger_url and not (chosen.home / "ledger.db").exists():
        raise InputError(f"no ledger in {chosen.home}: start with `empelt up`, or name the home with EMPELT_HOME")
    return open_ledger()


def main() -> NoReturn:
    """Run the command; every refusal is one message on stderr and an exit code."""
    from tasks.engine.errors import MergeError

    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        err.print("[dim]ended[/dim]")
        sys.exit(130)
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        told = "\n  - ".join(["the settings were refused", *refusal(error)])
        err.print(told, highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except (PipelineError, MergeError) as error:
        err.print(f"{type(error).__name__}: ", style="bold red", end="")
        err.print(str(error), highlight=False, markup=False, soft_wrap=True)
        sys.exit(3 if isinstance(error, TransientError) else 2 if isinstance(error, InputError | MergeError) else 1)
    sys.exit(0)


def _as_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
