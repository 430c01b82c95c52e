"""Opening a ledger: its schema, its refusals, and who waits for whom."""

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from tasks.domain.errors import DiskFull, InputError, TransientError
from tasks.store import database
from tasks.store.ledger import Ledger
from tasks.store.tables import metadata


def test_the_migrations_make_the_tables_that_the_code_uses(ledger):
    with ledger._read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_opening_again_finds_everything(ledger, url, samples):
    ledger.record_release(samples.release())
    with Ledger.open(url) as again:
        assert again.releases("tiny") == [samples.release()]


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(url):
    with Ledger.open(url) as ledger, ledger._write() as connection:
        newest = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(InputError, match=r"a schema that this version does not know.*'9999'"):
            Ledger.open(url)
        engine = database.connect(url)
        with engine.begin() as connection:
            assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{newest}'"))
        engine.dispose()


def test_a_file_that_is_no_database_is_refused_and_unchanged(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and no ledger\n" * 100)
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"{path} cannot be used as a ledger: file is not a database"):
        Ledger.open(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://root@localhost/ledger", "cannot live in 'mysql'"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("not a url", "cannot be read"),
    ],
)
def test_what_cannot_hold_a_ledger_is_refused(url, expected):
    with pytest.raises(InputError, match=expected):
        Ledger.open(url)


def test_a_database_that_does_not_answer_may_answer_later_and_its_password_is_not_told():
    with pytest.raises(TransientError) as refused:
        Ledger.open("postgresql://empelt:open-sesame@127.0.0.1:9/ledger")
    assert "127.0.0.1:9" in str(refused.value)
    assert "open-sesame" not in str(refused.value)


def test_a_writer_that_waits_too_long_is_told_so(url, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 1)
    with Ledger.open(url) as one, Ledger.open(url) as two, one._write():
        with pytest.raises(TransientError, match="did not answer within 1 s"):
            two.record_hold("key", "")
        assert two.holds() == []  # reading goes on while somebody writes


def test_a_writer_that_stands_still_is_cut_off_on_postgresql(postgres, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 1)
    key = f"key of process {os.getpid()}"
    with Ledger.open(postgres) as frozen, Ledger.open(postgres) as other:
        with pytest.raises(TransientError), frozen._write() as connection:  # noqa: PT012
            connection.execute(text("SELECT 1"))
            time.sleep(2.5)  # as if stopped by a signal
            other.record_hold(key, "")
            connection.execute(text("SELECT 1"))
        assert key in [h.key for h in other.holds()]


def test_sqlite_is_set_up_for_several_processes(tmp_path):
    with Ledger.open(f"sqlite:///{tmp_path / 'new' / 'ledger.db'}") as ledger, ledger._read() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
        found["foreign_keys"] = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_importing_the_ledger_loads_neither_prefect_nor_torch():
    code = "import sys, tasks.store.ledger, tasks.store.artifacts; print({'prefect', 'torch'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60, check=True)
    assert ran.stdout.strip() == "set()"


def test_a_full_disk_is_named_and_the_ledger_works_again_afterwards(tmp_path):
    path = tmp_path / "ledger.db"
    with Ledger.open(f"sqlite:///{path}") as ledger:
        with ledger._read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")  # then SQLite says what it says of a disk
        with pytest.raises(DiskFull, match="has no room to write"):
            ledger.record_hold("k", "long" * 50_000)
        assert ledger.holds() == []
    with Ledger.open(f"sqlite:///{path}") as ledger:
        ledger.record_hold("k", "")
        assert len(ledger.holds()) == 1
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
