"""A backup taken while the ledger is written, and an empty home that becomes the same installation again."""

import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from deployments.backing_up import back_up
from deployments.command import app
from deployments.restoring import restore
from deployments.supervisor import Supervisor
from tasks.domain.errors import DiskFull, InputError
from tasks.domain.models import ModelRef
from tasks.doors import forget, open_catalog, open_ledger, open_store
from tasks.settings import Settings, settings
from tasks.store.snapshot import what_is_at
from tests.store.conftest import postgres as postgres  # a PostgreSQL of this session's own

RELEASE = ModelRef(repo_id="lab/instruct-v1", revision="1" * 40)
CANARY = "canary-password"
Go = Callable[[str], Settings]


@pytest.fixture(params=["sqlite", "postgresql"])
def go(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Go]:
    """Makes this process mean another home, with a database of its own where that is PostgreSQL."""
    for name in [name for name in os.environ if name.startswith("EMPELT_")]:
        monkeypatch.delenv(name)
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None

    def to(name: str) -> Settings:
        forget()
        monkeypatch.setenv("EMPELT_HOME", str(tmp_path / name))
        if server is not None:
            with psycopg.connect(server, autocommit=True) as admin:
                admin.execute(f"DROP DATABASE IF EXISTS backup_{name} WITH (FORCE)")
                admin.execute(f"CREATE DATABASE backup_{name}")
            address = make_url(server).set(database=f"backup_{name}").render_as_string(hide_password=False)
            monkeypatch.setenv("EMPELT_LEDGER_URL", address)
        return settings()

    yield to
    forget()


def artifact(home: Path, name: str) -> str:
    """A model in the store: its digest."""
    folder = home / f"made-{name}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(name.encode() * 1000)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(f"The card of {name}.")
    return open_store().adopt(folder).digest


def publish(digest: str, generation: int) -> None:
    open_ledger().switch_channel(
        "eu",
        digest=digest,
        release=RELEASE,
        target="eu",
        family="llama-tiny",
        expected_generation=generation,
        reason="by a test",
    )


@pytest.fixture
def lived(go: Go, monkeypatch: pytest.MonkeyPatch) -> tuple[Settings, list[str]]:
    """A home with a past: three models of which two count, a promotion over another, a hold, a report, a changed window."""
    monkeypatch.setenv("EMPELT_HUB_TOKEN", CANARY)
    monkeypatch.setenv("EMPELT_FAMILIES", "llama-tiny")
    monkeypatch.setenv("EMPELT_WINDOW", "3")
    home = go("first")
    digests = [artifact(home.home, name) for name in ("old", "live", "unused")]
    publish(digests[0], 0)
    publish(digests[1], 1)
    open_ledger().record_hold("release:lab/x@1", "gated: by a test")
    (home.home / "reports").mkdir()
    (home.home / "reports" / "one.html").write_text("<p>verdict</p>")
    monkeypatch.delenv("EMPELT_WINDOW")
    return home, digests


def facts() -> object:
    ledger = open_ledger()
    return ledger.channels(), ledger.promotions("eu"), ledger.holds(), ledger.releases("llama-tiny")


def test_an_empty_home_becomes_the_same_installation(
    lived: tuple[Settings, list[str]], go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, (old, live, _) = lived
    before, catalog = facts(), open_catalog()
    file = tmp_path / "backup.tar"
    report = back_up(home, file)
    assert report["artifacts"] == sorted([old, live])
    assert file.stat().st_mode & 0o777 == 0o600
    assert CANARY.encode() not in file.read_bytes()
    if home.ledger_url is not None:
        assert str(make_url(home.ledger).password).encode() not in file.read_bytes()
    for name in ("EMPELT_FAMILIES", "EMPELT_HUB_TOKEN"):
        monkeypatch.delenv(name)
    second = go("second")
    done = restore(second, file)
    assert done["channels"] == {"eu": live}
    assert done["lacking"] == {}
    forget()
    assert facts() == before
    assert settings().families == "llama-tiny"
    assert settings().window == 3
    assert settings().catalog == second.home / "catalog"
    assert open_catalog() == catalog
    assert open_store().digests() == sorted([old, live])
    assert open_store().verify(live).digest == live
    assert (Path(open_store().get(live).folder) / "README.md").read_text() == "The card of live."
    assert (second.home / "reports" / "one.html").read_text() == "<p>verdict</p>"
    assert sorted(path.name for path in second.home.iterdir() if path.name.startswith(".")) == []
    publish(old, 2)  # and it goes on from there
    assert open_ledger().channels()[0].generation == 3


@pytest.mark.parametrize(("models", "count"), [("none", 0), ("live", 2), ("all", 3)])
def test_models_are_chosen(lived: tuple[Settings, list[str]], go: Go, tmp_path: Path, models: Any, count: int) -> None:
    file = tmp_path / "backup.tar"
    assert len(back_up(lived[0], file, models)["artifacts"]) == count
    done = restore(go("second"), file)
    assert (done["lacking"] == {}) is (count > 0)


def test_a_model_that_the_store_lacks_is_named(lived: tuple[Settings, list[str]], tmp_path: Path) -> None:
    publish("e" * 64, 2)
    assert back_up(lived[0], tmp_path / "backup.tar")["missing"] == ["e" * 64]


def test_the_ledger_is_one_state_while_it_is_written(lived: tuple[Settings, list[str]], go: Go, tmp_path: Path) -> None:
    """What was recorded before what is in a snapshot is in it too."""
    home, _ = lived
    stop, written = threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            open_ledger().record_hold(f"release:lab/y@{written[0]}", "by a test")
            written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            back_up(home, tmp_path / f"{number}.tar", "none")
    finally:
        stop.set()
        writer.join()
    assert written[0] > 3
    for number in range(3):
        restore(go(f"again{number}"), tmp_path / f"{number}.tar")
        keys = {hold.key for hold in open_ledger().holds() if "lab/y@" in hold.key}
        assert keys == {f"release:lab/y@{n}" for n in range(len(keys))}


def test_a_file_that_is_there_is_not_written_over(lived: tuple[Settings, list[str]], tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    file.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        back_up(lived[0], file)
    assert file.read_text() == "mine"


def test_a_backup_without_room_leaves_nothing(
    lived: tuple[Settings, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A full disk of its own takes a mount, and rights for it; only the number that the system tells stands in for it.
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DiskFull, match=r"1\.0 kB free"):
        back_up(lived[0], tmp_path / "backup.tar")
    assert sorted(tmp_path.iterdir()) == before


def listing(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if "run" not in path.parts)


def test_a_home_that_is_not_empty_is_refused_and_left_alone(lived: tuple[Settings, list[str]], tmp_path: Path) -> None:
    home, file = lived[0], tmp_path / "backup.tar"
    back_up(home, file)
    before, there = facts(), listing(home.home)
    with pytest.raises(InputError) as caught:
        restore(home, file)
    assert str(home.home / "reports") in str(caught.value)
    assert "already" in str(caught.value)
    assert (facts(), listing(home.home)) == (before, there)


def test_a_home_that_is_up_is_refused(lived: tuple[Settings, list[str]], go: Go, tmp_path: Path) -> None:
    back_up(lived[0], tmp_path / "backup.tar")
    second = go("second")
    with Supervisor(second.home), pytest.raises(InputError, match="in use by another `empelt up`"):
        restore(second, tmp_path / "backup.tar")


def rewritten(file: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    """The backup with members that ``change`` gives back otherwise, or leaves out."""
    import io

    new = file.with_name("changed.tar")
    with tarfile.open(file) as old, tarfile.open(new, "w") as tar:
        for member in old:
            if not member.isfile():
                tar.addfile(member)
                continue
            opened = old.extractfile(member)
            assert opened is not None
            found = change(member.name, opened.read())
            if found is not None:
                member.name, data = found
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return new


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda n, d: (n, d[:-1] + b"x") if n.endswith("safetensors") else (n, d), "model.safetensors: not what"),
        (lambda n, d: (n, d + b"x") if n.endswith("README.md") and "artifacts" in n else (n, d), "README.md: not what"),
        (lambda n, d: None if n.endswith("safetensors") else (n, d), "model.safetensors: not what"),
        (lambda n, d: (n, d[:-9] + b"x" * 9) if n == "ledger" else (n, d), "ledger: not what"),
        (lambda n, d: ("../outside" if n == "settings.toml" else n, d), "'../outside'"),
        (lambda n, d: ("instance-id" if n == "settings.toml" else n, d), "'instance-id'"),
        (lambda n, d: (n, b'{"format": 99}') if n == "backup.json" else (n, d), "its format is 99"),
        (lambda n, d: None if n == "backup.json" else (n, d), "its format is none"),
    ],
)
def test_a_damaged_backup_is_refused_by_name_and_nothing_is_restored(
    lived: tuple[Settings, list[str]], go: Go, tmp_path: Path, change: Any, what: str
) -> None:
    back_up(lived[0], tmp_path / "backup.tar")
    changed = rewritten(tmp_path / "backup.tar", change)
    second = go("second")
    with pytest.raises(InputError) as caught:
        restore(second, changed)
    assert what in str(caught.value)
    assert [path for path in listing(second.home) if not path.startswith("store")] == []
    assert open_store().digests() == []
    assert not (tmp_path / "outside").exists()


def test_a_cut_backup_is_refused(lived: tuple[Settings, list[str]], go: Go, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    back_up(lived[0], file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    second = go("second")
    with pytest.raises(InputError):
        restore(second, file)
    assert [path for path in listing(second.home) if not path.startswith("store")] == []


def test_something_else_is_no_backup(go: Go, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    file.write_text("no tar")
    with pytest.raises(InputError, match="cannot be read as a backup"):
        restore(go("second"), file)


def test_the_commands(lived: tuple[Settings, list[str]], go: Go, tmp_path: Path) -> None:
    file = str(tmp_path / "backup.tar")
    made = CliRunner().invoke(app, ["backup", file, "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["file"] == file
    go("second")
    done = CliRunner().invoke(app, ["restore", file])
    assert done.exit_code == 0, done.output
    assert "1 channel(s), 2 model(s)" in done.stdout


def test_a_ledger_of_a_newer_version_is_refused_before_anything_is_made(go: Go, tmp_path: Path) -> None:
    first = go("first")
    with open_ledger()._write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    file = tmp_path / "backup.tar"
    back_up(first, file)
    second = go("second")
    with pytest.raises(InputError, match="schema 9999"):
        restore(second, file)
    assert what_is_at(second.ledger) is None
