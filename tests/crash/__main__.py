"""``python -m tests.crash``: kill everything everywhere, and see that it comes to its one right end.

    python -m tests.crash                         the whole matrix, rows dealt out to SQLite and PostgreSQL in turn
    python -m tests.crash --sample 8 --seed 3     eight rows that cover every victim
    python -m tests.crash --rows switch           rows whose name contains a text
    python -m tests.crash --list

One installation lives through all rows of one database. Rows that a release can reach share it, a few at a time: each
kills once. A row passes if its kill is proved and the release then came to its end with every check of `checks.py`.
Exit code 0 if every row passed, else 1. The table comes last.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.crash.points import ROOT, Row, rows, sampled
from tests.crash.postgres import running_postgres
from tests.crash.scenarios import ROWS_AT_ONCE, Outcome, play, start_rows
from tests.crash.system import Matrix, Stuck


def main() -> int:
    """Run what the arguments ask for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--sample", type=int, help="so many rows, covering every victim")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", help="only rows whose name contains this")
    parser.add_argument("--database", choices=("both", "sqlite", "postgresql"), default="both")
    parser.add_argument("--every", action="store_true", help="every row on every database, not dealt out")
    parser.add_argument("--home", type=Path, default=ROOT / ".empelt" / "crash")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    chosen = sampled(asked.sample, asked.seed) if asked.sample else rows()
    chosen = [row for row in chosen if not asked.rows or asked.rows in row.name]
    if asked.list:
        sys.stdout.write("".join(f"{row.name:44} {row.victim:16} {row.scenario}\n" for row in chosen))
        return 0
    databases = ["sqlite", "postgresql"] if asked.database == "both" else [asked.database]
    began, outcomes = time.monotonic(), list[Outcome]()
    for place, database in enumerate(databases):
        mine = chosen if asked.every else chosen[place :: len(databases)]
        if mine:
            outcomes += run_on(database, mine, asked.home / database)
    table(outcomes, time.monotonic() - began)
    return 0 if outcomes and all(one.passed for one in outcomes) else 1


def run_on(database: str, chosen: Sequence[Row], home: Path) -> list[Outcome]:
    """All rows of one database, on one installation."""
    ports = tuple(
        int(os.environ.get(name, default))
        for name, default in (
            ("EMPELT_PREFECT_PORT", "4300"),
            ("EMPELT_GATEWAY_PORT", "8800"),
            ("EMPELT_DEMO_HUB_PORT", "8810"),
        )
    )
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        url = stack.enter_context(running_postgres()) if database == "postgresql" else ""
        matrix = Matrix(home.absolute(), (ports[0], ports[1], ports[2]), url)
        matrix.prepare()
        stack.callback(matrix.end_all)
        outcomes += start_rows(matrix, database, [row for row in chosen if row.scenario == "start"])
        for batch in batches([row for row in chosen if row.scenario != "start"]):
            try:
                outcomes += play(matrix, database, batch)
            except Stuck as stuck:
                outcomes += [Outcome(database, row, None, 0.0, [str(stuck)]) for row in batch]
                break  # the installation is in a state that says nothing about further rows
            for one in outcomes[-len(batch) :]:
                say(f"{'ok  ' if one.passed else 'FAIL'} {database:10} {one.row.name} {'; '.join(one.violations)}")
        outcomes += ending(matrix, database)
    return outcomes


def ending(matrix: Matrix, database: str) -> list[Outcome]:
    """Ctrl-C at the end leaves nothing alive."""
    began, violations = time.monotonic(), list[str]()
    code = matrix.stop()
    if code not in (0, 130):
        violations.append(f"`empelt up` ended with {code}")
    violations += [f"alive after Ctrl-C: {name}" for name in matrix.end_all()]
    row = Row("Ctrl-C at the end", "-", "-", "end")
    return [Outcome(database, row, {"victim_pid": "-"}, time.monotonic() - began, violations)]


def batches(chosen: Sequence[Row]) -> Iterator[list[Row]]:
    """Rows of one scenario together, a few at a time; the other processes' rows spread over the releases."""
    scenarios = list(dict.fromkeys(row.scenario for row in chosen))
    for scenario in scenarios:
        here = [row for row in chosen if row.scenario == scenario]
        count = -(-len(here) // ROWS_AT_ONCE)
        yield from (here[place::count] for place in range(count))


def say(line: str) -> None:
    """One line while it runs."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


def table(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Every row with what was seen."""
    lines = [f"{'database':10}  {'row':44}  {'killed pid':>10}  {'s':>5}  result"]
    for one in outcomes:
        pid = str(one.mark["victim_pid"]) if one.mark else "none"
        result = "ok" if one.passed else "; ".join(one.violations) or "the kill did not fire"
        lines.append(f"{one.database:10}  {one.row.name:44}  {pid:>10}  {one.seconds:5.0f}  {result}")
    passed = sum(one.passed for one in outcomes)
    lines.append(f"{passed} of {len(outcomes)} rows as they should be, in {seconds / 60:.1f} min")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
