"""`empelt up` as people call it, with something wrong: one clear message, exit code 2, and nothing begun.

What each refusal says in full is tested beside `deployments.up`; here the real command is run in a process of its own,
on a home with a live channel and a job under way, which must be as they were afterwards.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.domain.models import ModelRef
from tasks.store.ledger import Ledger

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "deployments" / "catalog"
RELEASE = ModelRef(repo_id="empelt-demo/llama-tiny-instruct-v1", revision="1" * 40)


def facts(home: Path) -> object:
    """What the ledger holds that a start could change."""
    with Ledger.open(f"sqlite:///{home / 'ledger.db'}") as ledger:
        return ledger.channels(), ledger.promotions("eu"), ledger.live_claims(), ledger.holds()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a past: a live channel, and a job whose claim is held."""
    home = tmp_path / "home"
    home.mkdir()
    with Ledger.open(f"sqlite:///{home / 'ledger.db'}") as ledger:
        ledger.switch_channel(
            "eu",
            digest="a" * 64,
            release=RELEASE,
            target="eu",
            family="llama-tiny",
            expected_generation=0,
            reason="test",
        )
        ledger.claim("b" * 64, owner="run:test", lease_seconds=3600, description={"name": "v1 x eu"})
    return home


@pytest.fixture
def refused(home: Path) -> Iterator["Refused"]:
    """Calls `empelt up` with changed variables; afterwards nothing may have been begun."""
    before = facts(home)
    yield Refused(home)
    assert facts(home) == before
    record = home / "run" / "children.json"
    assert not record.exists() or record.read_text() == "[]"
    assert belonging_to(home) == []


class Refused:
    """The command under test, and what it said."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str, **variables: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EMPELT_", "PREFECT_"))}
        chosen = {
            "EMPELT_HOME": str(self.home),
            "EMPELT_FAMILIES": "llama-tiny",
            "EMPELT_PREFECT_PORT": str(free_port()),
            "EMPELT_GATEWAY_PORT": str(free_port()),
            "EMPELT_SERVING_PYTHON": sys.executable,
            "COLUMNS": "400",
            **variables,
        }
        done = subprocess.run(
            [sys.executable, "-m", "deployments", "up", *arguments],
            cwd=ROOT,
            env=kept | chosen,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr


def belonging_to(home: Path) -> list[str]:
    """Command lines of processes that have this home in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("EMPELT_HOME") == str(home):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CATALOG, tmp_path / "catalog"))


@pytest.mark.parametrize(
    ("variable", "what"), [("EMPELT_PREFECT_PORT", "the Prefect server"), ("EMPELT_GATEWAY_PORT", "the gateway")]
)
def test_a_busy_port_is_refused_with_its_holder(refused: Refused, variable: str, what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        told = refused(**{variable: str(taken)})
    assert told.startswith("AddressInUse: ")
    assert f"port {taken} on 127.0.0.1, wanted for {what}, is taken by pid {os.getpid()}" in told


def test_a_missing_serving_environment_is_refused_with_the_remedy(refused: Refused, tmp_path: Path) -> None:
    python = str(tmp_path / "no" / "bin" / "python")
    told = refused(EMPELT_SERVING_PYTHON=python)
    assert told.startswith("ServingMissing: ")
    assert python in told
    assert "`make setup`" in told


def test_an_unknown_catalog_key_is_refused_with_file_line_and_key(refused: Refused, catalog: Path) -> None:
    path = catalog / "llama-tiny.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, 1) if text.strip().startswith("channel:"))
    lines[line - 1] = lines[line - 1].replace("channel:", "chanel:")
    path.write_text("\n".join(lines), encoding="utf-8")
    told = refused(EMPELT_CATALOG=str(catalog))
    assert told.startswith("CatalogError: ")
    assert f"{path}:{line}:" in told
    assert "'chanel'" in told


def test_an_unknown_benchmark_in_a_gate_is_refused_with_the_known(refused: Refused, catalog: Path) -> None:
    path = catalog / "gates" / "demo-language.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("_mc", "_mcq"), encoding="utf-8")
    told = refused(EMPELT_CATALOG=str(catalog))
    assert str(path) in told
    assert "checks.3: no suite defines eu_mcq (that is {language}_mcq for 'eu'). Known: ca_" in told
    assert "ca_bpb, ca_bpb_short" in told


def test_no_family_is_refused_with_those_that_there_are(refused: Refused) -> None:
    told = refused(EMPELT_FAMILIES="")
    assert told.startswith("InputError: ")
    assert "--families" in told
    assert "'llama-tiny'" in told


def test_a_family_named_by_option_is_looked_up_too(refused: Refused) -> None:
    assert "'llama-huge'" in refused("--families", "llama-huge")
