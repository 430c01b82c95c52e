"""``python -m tests.crash``: kill everything everywhere, and see that it comes to its one right end.

    python -m tests.crash                         the whole matrix, on SQLite and on PostgreSQL at the same time
    python -m tests.crash --sample 8 --seed 3     eight rows of as many kinds, on both
    python -m tests.crash --rows switch           rows whose name contains a text
    python -m tests.crash --list

Each write of the ledger runs on both databases, and so does what a start does; a task's rows and those of the other
processes are dealt out. One installation lives through all rows of one database. Rows that a release can reach share
it: each kills once. A row passes if its kill is proved and all then came to its end with every check of `checks.py`.
Exit code 0 if every row passed, else 1. The table comes last.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from tests.crash.batches import batches
from tests.crash.play import Outcome, play, start_rows
from tests.crash.points import DATABASES, ROOT, START, Row, rows, sampled
from tests.crash.system import Matrix
from tests.store.postgres_server import running_postgres

PORTS = {"EMPELT_PREFECT_PORT": 4300, "EMPELT_GATEWAY_PORT": 8800, "EMPELT_DEMO_HUB_PORT": 8810}
"""Of the first database's installation; the second one has those 20 above."""


def main() -> int:
    """Run what the arguments ask for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--sample", type=int, help="so many rows, of as many kinds as there are")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", help="only rows whose name contains one of these, comma-separated")
    parser.add_argument("--database", choices=DATABASES, help="only this one")
    parser.add_argument("--every", action="store_true", help="every row on every database, not dealt out")
    parser.add_argument("--home", type=Path, default=ROOT / ".empelt" / "crash")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    dealt = [(database, row) for database in DATABASES for row in rows() if asked.every or database in row.databases]
    chosen = sampled(asked.sample, asked.seed) if asked.sample else dealt
    chosen = [
        (database, row)
        for database, row in chosen
        if asked.database in (None, database) and (not asked.rows or any(p in row.name for p in asked.rows.split(",")))
    ]
    if asked.list:
        sys.stdout.write("".join(f"{db:10}  {row.name:44} {row.victim:16} {row.scenario}\n" for db, row in chosen))
        return 0
    for one in (signal.SIGTERM, signal.SIGINT):  # so that what was started is ended
        signal.signal(one, _end)
    began = time.monotonic()
    outcomes = on_all({d: mine for d in DATABASES if (mine := [row for db, row in chosen if db == d])}, asked.home)
    table(outcomes, time.monotonic() - began)
    return 0 if outcomes and all(one.passed for one in outcomes) else 1


def _end(number: int, _frame: object) -> None:
    """Once only: a second signal would cut off the cleaning up after the first."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def on_all(chosen: dict[str, list[Row]], home: Path) -> list[Outcome]:
    """The rows of each database, all databases at the same time: much of a row's time is waiting."""
    running = []
    try:
        for place, (database, mine) in enumerate(chosen.items()):
            here, there = multiprocessing.Pipe()
            process = multiprocessing.Process(target=_run, args=(there, database, mine, home / database, 20 * place))
            process.start()
            there.close()
            running.append((database, mine, here, process))
        return [one for database, mine, here, _ in running for one in _told(here, database, mine)]
    finally:
        for *_, process in running:
            process.terminate()  # nothing to one that has ended
            process.join()


def _told(told: Connection, database: str, mine: Sequence[Row]) -> list[Outcome]:
    try:
        return list(told.recv())
    except EOFError:
        return [Outcome(database, row, None, 0.0, ["its installation's process died: see above"]) for row in mine]


def _run(tell: Connection, database: str, mine: Sequence[Row], home: Path, above: int) -> None:
    tell.send(run_on(database, mine, home, above))


def run_on(database: str, chosen: Sequence[Row], home: Path, above: int = 0) -> list[Outcome]:
    """All rows of one database, on one installation; a new one where one came to no end.

    Args:
        database: its kind.
        chosen: rows.
        home: of the installation; what is there is removed.
        above: added to each port.
    """
    ports = [int(os.environ.get(name, default)) + above for name, default in PORTS.items()]
    outcomes: list[Outcome] = []
    left = batches(chosen)
    starts = [row for row in chosen if row.scenario == START]
    while left or starts:
        with ExitStack() as stack:
            url = stack.enter_context(running_postgres()) if database == "postgresql" else ""
            matrix = Matrix(home.absolute(), (ports[0], ports[1], ports[2]), url)
            matrix.prepare()
            stack.callback(matrix.end_all)
            outcomes += said(start_rows(matrix, database, starts))
            starts = []
            while left:
                played = said(play(matrix, database, left.pop(0)))
                outcomes += played
                if any(one.stuck for one in played):
                    matrix.keep_logs()
                    break  # the installation is in a state that says nothing about further rows
            else:
                outcomes += said(ending(matrix, database))
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


def said(outcomes: list[Outcome]) -> list[Outcome]:
    """One line for each, while it runs."""
    for one in outcomes:
        word = "ok  " if one.passed else "FAIL"
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {word} {one.database:10} {one.row.name} {one.result}\n")
    sys.stderr.flush()
    return outcomes


def table(outcomes: Sequence[Outcome], seconds: float) -> None:
    """Every row with what was seen."""
    lines = [f"{'database':10}  {'row':44}  {'scenario':9}  {'killed pid':>10}  {'s':>5}  result"]
    for one in outcomes:
        pid = str(one.mark["victim_pid"]) if one.mark else "none"
        row = f"{one.database:10}  {one.row.name:44}  {one.row.scenario:9}"
        lines.append(f"{row}  {pid:>10}  {one.seconds:5.0f}  {one.result}")
    passed = sum(one.passed for one in outcomes)
    lines.append(f"{passed} of {len(outcomes)} rows as they should be, in {seconds / 60:.1f} min")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
