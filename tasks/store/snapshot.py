"""A copy of the ledger as it was at one moment, while it is in use; and the way back into an empty place.

SQLite: its backup API, which sees one state however much is written meanwhile. PostgreSQL: pg_dump and pg_restore,
which must be at least as new as the server; the password goes to them by their environment, never by their arguments.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import URL, make_url

from tasks.domain.errors import InputError, PipelineError
from tasks.store.database import MIGRATIONS, connect
from tasks.store.ledger import Ledger


def kind_of(url: str) -> str:
    """``sqlite`` or ``postgresql``."""
    return make_url(url).get_backend_name()


def schemas() -> set[str]:
    """Every revision of the schema that this version can bring up to date."""
    return {path.stem.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}


def take_snapshot(url: str, file: Path) -> None:
    """Write the ledger at ``url`` to ``file``, which must not be there.

    Raises:
        InputError: if there is no ledger, or pg_dump is not installed.
        PipelineError: if pg_dump refuses; with what it said.
    """
    address = make_url(url)
    if address.get_backend_name() == "postgresql":
        _run(["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={file}"], address)
        return
    source = Path(str(address.database))
    if not source.is_file():
        raise InputError(f"there is no ledger at {source}")
    with (
        sqlite3.connect(f"file:{source}?mode=ro", uri=True) as live,
        sqlite3.connect(file) as copy,
    ):
        live.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
    live.close()
    copy.close()


def put_back(url: str, file: Path) -> None:
    """Make the ledger at ``url`` out of a snapshot; whole, or not at all.

    Raises:
        InputError: if something is there already, if the snapshot is damaged, or if a newer version wrote it.
    """
    if found := what_is_at(url):
        raise InputError(f"{found}; restore into an empty place")
    address = make_url(url)
    if address.get_backend_name() == "postgresql":
        _run(["pg_restore", "--single-transaction", "--exit-on-error", "--no-owner"], address, [str(file)])
        Ledger.open(url).close()
        return
    place = Path(str(address.database))
    half = place.with_name(f".{place.name}.restoring")
    half.unlink(missing_ok=True)
    shutil.copyfile(file, half)
    try:
        check_snapshot("sqlite", half)
        half.replace(place)
    finally:
        for left in (half, half.with_name(f"{half.name}-wal"), half.with_name(f"{half.name}-shm")):
            left.unlink(missing_ok=True)


def check_snapshot(kind: str, file: Path) -> None:
    """Refuse what cannot become a ledger, as far as that is seen without a database; SQLite's is brought up to date.

    Raises:
        InputError: naming what is wrong with it.
    """
    if kind == "postgresql":
        _run(["pg_restore", "--list"], None, [str(file)])
        return
    try:
        database = sqlite3.connect(file)
        said = database.execute("PRAGMA integrity_check").fetchone()[0]
        database.close()
    except sqlite3.DatabaseError as error:
        raise InputError(f"the ledger in the backup is damaged: {error}") from error
    if said != "ok":
        raise InputError(f"the ledger in the backup is damaged: {said}")
    Ledger.open(f"sqlite:///{file}").close()  # the newest schema, or a refusal of one that is newer still


def what_is_at(url: str) -> str | None:
    """What stands where a ledger is to be restored to; None if nothing does."""
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        return f"{address.database} is there already" if Path(str(address.database)).exists() else None
    engine = connect(url)
    try:
        tables = inspect(engine).get_table_names()
    finally:
        engine.dispose()
    shown = address.render_as_string(hide_password=True)
    return f"{shown} has {len(tables)} table(s) already, {tables[0]} among them" if tables else None


def _run(command: Sequence[str], address: URL | None, last: Sequence[str] = ()) -> None:
    """One of PostgreSQL's programs, on the database at ``address``."""
    program = shutil.which(command[0])
    if program is None:
        raise InputError(f"{command[0]} is not installed; it comes with PostgreSQL's client (postgresql-client)")
    environment, where = dict(os.environ), []
    if address is not None:
        told = {"host": address.host, "port": address.port, "username": address.username, "dbname": address.database}
        where = [f"--{name}={value}" for name, value in told.items() if value]
        environment |= {"PGPASSWORD": str(address.password)} if address.password else {}
    done = subprocess.run([program, *command[1:], *where, *last], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise PipelineError(f"{command[0]} ended with code {done.returncode}: {done.stderr.strip()[-2000:]}")
