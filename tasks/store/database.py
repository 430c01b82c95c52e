"""One ledger database: opening it, bringing its schema up to date, and its two kinds of transaction.

One writer at a time, on both databases: SQLite's BEGIN IMMEDIATE, and on PostgreSQL one advisory lock. Writes are rare
(a few for each job) and take milliseconds, and so every rule of the ledger is plain code between a lock and a commit.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    create_engine,
    event,
    func,
    inspect,
    select,
    text,
    true,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError

from tasks.domain.errors import DiskFull, InputError, TransientError

BUSY_SECONDS = 30
"""How long a write waits for the one before it. The longest, an evaluation of 3,000 items, takes milliseconds."""
FEW = 500
"""Keys that a query names; of more, all rows are read, which is quicker than to name them."""
WRITER_LOCK = 0x656D70656C74  # "empelt": the advisory lock that makes writers take turns on PostgreSQL
IDLE_IN_TRANSACTION = "25P03"  # the SQLSTATE of a writer that stood still for too long
MIGRATIONS = Path(__file__).parent / "migrations"
_ONE_MIGRATION = threading.Lock()  # alembic keeps the running migration in a global


def utc_now() -> datetime:
    """This host's clock."""
    return datetime.now(UTC)


class Database:
    """An open ledger database. Safe to share between threads, and to use again after a fork."""

    def __init__(self, engine: Engine, now: Callable[[], datetime] | None = None) -> None:
        self._engine = engine
        self._writer = engine.execution_options(empelt_write=True)
        reads = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}  # one snapshot for each read
        self._reader = engine.execution_options(**reads) if engine.dialect.name == "postgresql" else engine
        self._clock = now
        self._pid = os.getpid()
        self._fork_lock = threading.Lock()

    @property
    def address(self) -> str:
        """The URL without its password, for messages."""
        return self._engine.url.render_as_string(hide_password=True)

    def now(self) -> datetime:
        """The moment by the ledger's clock: what its leases are compared with, and every fact is dated by."""
        with self._read() as connection:
            return self._now(connection)

    def _now(self, connection: Connection) -> datetime:
        # Hosts that share a PostgreSQL have clocks of their own, and a lease must not end early on one that is fast. A
        # SQLite file is of one host.
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name != "postgresql":
            return utc_now()
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the ledger."""
        with self._transaction(self._reader) as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction that no other write runs beside; committed at the end, undone by an exception."""
        with self._transaction(self._writer) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
            yield connection

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        if os.getpid() != self._pid:  # a forked child must not speak on its parent's connections
            with self._fork_lock:
                self._engine.dispose(close=False)
                self._pid = os.getpid()
        try:
            with engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            # A session that PostgreSQL cut off tells so in one of several ways, by what it was doing.
            cut_off = error.connection_invalidated or getattr(error.orig, "sqlstate", None) == IDLE_IN_TRANSACTION
            if cut_off or isinstance(error, OperationalError | InterfaceError):
                raise _named(error, self.address) from error
            raise


def among(column: Column[Any], keys: Collection[str] | None) -> ColumnElement[bool]:
    """A condition that leaves out rows of other keys, where these are few; whoever asks looks at the rest by itself."""
    return column.in_(sorted(keys)) if keys is not None and len(keys) <= FEW else true()


def connect(url: str | URL) -> Engine:
    """An engine for ``sqlite:////absolute/path`` or ``postgresql://user:password@host:port/name``.

    Raises:
        InputError: for another kind of database, or one in memory, which no second process could see.
    """
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise InputError("the ledger's URL cannot be read; write sqlite:////path or postgresql://host/name") from error
    kind = address.get_backend_name()
    if kind == "postgresql":
        # A frozen writer would hold the lock for ever: its session is ended, and its transaction with it.
        limits = f"-c lock_timeout={BUSY_SECONDS}s -c idle_in_transaction_session_timeout={2 * BUSY_SECONDS}s"
        options = {"connect_timeout": 10, "options": limits}
        try:
            return create_engine(address.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=options)
        except ModuleNotFoundError as error:
            raise InputError("a ledger in PostgreSQL needs psycopg: pip install 'empelt[postgres]'") from error
    if kind != "sqlite":
        raise InputError(f"the ledger cannot live in {kind!r}; it can in sqlite or postgresql")
    if address.database in (None, "", ":memory:"):
        raise InputError("the ledger is shared by processes and needs a file: sqlite:////path/to/ledger.db")
    Path(str(address.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(address.set(drivername="sqlite+pysqlite"), connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def migrate(database: Database) -> None:
    """Bring the schema to the newest revision. Several processes may do so at once: the first one does it.

    Raises:
        InputError: if the file is no database, or was written by a newer version of this program.
    """
    try:
        if not _is_newest(database):
            _upgrade(database)
    except DatabaseError as error:
        raise InputError(f"{database.address} cannot be used as a ledger: {error.orig}") from error


def _is_newest(database: Database) -> bool:
    """Nearly always so; then alembic, 0.5 s of CPU to import, is not needed in each of the many flow runs."""
    newest = max(path.stem.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    with database._read() as connection:
        known = inspect(connection).has_table("alembic_version")
        return known and connection.scalar(text("SELECT version_num FROM alembic_version")) == newest


def _upgrade(database: Database) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with _ONE_MIGRATION, database._write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise InputError(
            f"the ledger at {database.address} has a schema that this version does not know ({error}); "
            "use the version that wrote it, or a newer one"
        ) from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin by itself, too late and never IMMEDIATE
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous = FULL")  # a promotion that was told to somebody survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA recursive_triggers = ON")  # else INSERT OR REPLACE would slip past the triggers on facts
    cursor.close()


def _write_ahead(cursor: Any) -> None:
    # Of two processes that open a new file at once, the later is told "locked" without having waited: to change the
    # journal it raises a read lock that it holds, and SQLite calls no busy handler there, for fear of a deadlock.
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what the extended code adds to it
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("empelt_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _named(error: DBAPIError, address: str) -> TransientError:
    reason = str(error.orig).strip()
    if "disk is full" in reason or "No space left" in reason:
        return DiskFull(f"the ledger at {address} has no room to write ({reason}); make room and retry")
    return TransientError(f"the ledger at {address} did not answer within {BUSY_SECONDS} s ({reason}); retry")
