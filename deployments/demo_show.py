"""The end of the demo, for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.settings import settings


def show(console: Console, report: dict[str, Any]) -> None:
    """What became of every release, the first gate in full, the answers, and where to go on."""
    _gate(console, report)
    _jobs(console, report)
    for target, said in report["channel_answers"].items():
        console.print(f"\n[bold]{said['question']}[/bold]  (channel {target})")
        for who in ("before", "after", "instruct parent"):
            if who in said:
                console.print(f"  {who:<16} {said[who]}", highlight=False, markup=False)
    console.print("\nseconds: " + ", ".join(f"{s['stage']} {s['seconds']}" for s in report["stages"]), highlight=False)
    console.print(
        f"in all {report['seconds']} s, of which {report['up_seconds']} s until all was up\n"
        f"\nUI        {report['ui']}\ndecision  {report['decision']}\nendpoint  {report['endpoint']}\n"
        f"report    {report['file']}\n"
        f"roll back with: {settings().command_prefix}.venv/bin/empelt rollback {report['channel']}",
        highlight=False,
    )


def shortly(reason: str) -> str:
    """A refusal with the first of its problems, and how many more there are."""
    first, *problems = reason.split("\n  - ")
    return " ".join([first, *(f"- {problem}" for problem in problems[:1])]) + (
        f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    )


def _gate(console: Console, report: dict[str, Any]) -> None:
    rows = report["verdict"]["rows"]
    shown = [name for name in rows[0] if name not in ("metric", "n")]
    table = Table(*shown, title=f"The gate of {report['name']}", title_justify="left")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in shown))
    console.print(table)


def _jobs(console: Console, report: dict[str, Any]) -> None:
    table = Table("release x target", "ended", "s", "why", title="What became of every release", title_justify="left")
    for job in report["jobs"]:
        table.add_row(job["name"], job["ended"], str(job["push_to_end_seconds"] or ""), job["why"])
    if refusal := report["refusal"]:
        table.add_row(refusal["release"], "refused", "", shortly(refusal["reason"]))
    console.print(table)
