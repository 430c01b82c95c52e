"""`empelt up` refuses to start rather than start half; what it refuses, and what it hands to its children."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from deployments.up import bring_up, check, environment_of, remember, servers
from tasks.domain.errors import AddressInUse, CatalogError, DiskFull, InputError, PipelineError, ServingMissing
from tasks.doors import forget
from tasks.settings import REMEMBERED, Settings, settings

TOKEN = "hf_a-secret-that-must-not-be-seen"


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An EMPELT_* environment of our own, back as it was afterwards, and nothing cached from another."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("EMPELT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EMPELT_HOME", str(tmp_path / "home"))
    forget()
    yield
    forget()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def chosen(home: Path, **changes: object) -> Settings:
    """Settings that pass every check, as long as ``changes`` leave them so."""
    known = {"home": home, "families": "llama-tiny", "serving_python": Path(sys.executable)}
    return Settings.model_validate({**known, "prefect_port": free_port(), "gateway_port": free_port(), **changes})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def refused(settings: Settings, kind: type[PipelineError]) -> str:
    """What ``bring_up`` says; it must have started nothing."""
    before = {p.pid for p in psutil.Process().children(recursive=True)}

    def attempt() -> None:
        with bring_up(settings, lambda _: None):
            pass

    with pytest.raises(kind) as caught:
        attempt()
    assert {p.pid for p in psutil.Process().children(recursive=True)} == before
    record = settings.run / "children.json"
    assert not record.exists() or record.read_text() == "[]"
    return str(caught.value)


def test_a_host_with_all_that_is_needed_passes(home: Path) -> None:
    check(chosen(home))


def test_no_family_is_refused_with_those_of_the_catalog(home: Path) -> None:
    told = refused(chosen(home, families=" , "), InputError)
    assert "EMPELT_FAMILIES" in told
    assert "--families" in told
    assert "'llama-tiny', 'qwen3-14b', 'qwen3-8b'" in told
    assert not home.exists()


def test_a_family_that_the_catalog_lacks_is_refused_with_those_it_has(home: Path) -> None:
    told = refused(chosen(home, families="llama-tiny,llama-huge"), CatalogError)
    assert "['llama-huge']" in told
    assert "'llama-tiny'" in told
    assert not home.exists()


def test_a_missing_serving_environment_is_refused_with_its_path_and_the_remedy(home: Path, tmp_path: Path) -> None:
    python = tmp_path / "no" / "python"
    told = refused(chosen(home, serving_python=python), ServingMissing)
    assert str(python) in told
    assert "`make setup`" in told
    assert not home.exists()


def test_a_full_disk_is_refused_with_both_figures(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(home.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=123 << 20))
    told = refused(chosen(home), DiskFull)
    assert "123 MiB free" in told
    assert "2048 MiB are needed" in told
    assert str(home) in told


def test_a_wrong_catalog_is_refused_with_file_and_line(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    folder.mkdir()
    (folder / "llama-tiny.yaml").write_text("family: llama-tiny\nchanel: eu\n")
    told = refused(chosen(home, catalog=folder), CatalogError)
    assert f"{folder / 'llama-tiny.yaml'}:2: chanel: unknown key 'chanel'" in told
    assert not home.exists()


def test_a_fault_in_a_family_that_is_not_asked_for_is_nobodys_business(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    shutil.copytree(Settings().catalog, folder)
    (folder / "broken.yaml").write_text("family: [")
    check(chosen(home, catalog=folder))


@pytest.mark.parametrize(("port", "what"), [("prefect_port", "the Prefect server"), ("gateway_port", "the gateway")])
def test_a_taken_port_is_refused_before_anything_starts(home: Path, port: str, what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        told = refused(chosen(home, **{port: taken}), AddressInUse)
    assert f"port {taken} on 127.0.0.1, wanted for {what}, is taken" in told


def test_a_home_that_is_in_use_is_refused(home: Path) -> None:
    from deployments.supervisor import Supervisor

    with Supervisor(home):
        assert f"pid {os.getpid()}" in refused(chosen(home), InputError)


def test_the_environment_of_the_children_has_no_secret(home: Path) -> None:
    environment = environment_of(chosen(home, hub_token=TOKEN))
    assert "EMPELT_HUB_TOKEN" not in environment
    assert TOKEN not in "".join(environment.values())
    assert TOKEN not in repr(chosen(home, hub_token=TOKEN))


def test_a_child_reads_the_same_settings_from_its_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPELT_HUB_TOKEN", TOKEN)  # never handed on by name: a child inherits it
    given = chosen(
        home,
        hub_endpoint="http://127.0.0.1:1",
        gateway_port=8701,
        prefect_port=4201,
        device_memory_gib=3,
        watch_interval_seconds=15,
        settle_seconds=0,
        lease_seconds=30,
        hub_token=TOKEN,
    )
    for name, value in environment_of(given).items():
        monkeypatch.setenv(name, value)
    assert Settings() == given.model_copy(update={"ledger_url": SecretStr(given.ledger)})


def test_a_later_command_needs_to_be_told_the_home_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    started = chosen(home, families="llama-tiny", window=3, ledger_url=r"postgresql://u:p'w\d#x@h/db", hub_token="hf_x")
    remember(started)
    path = home / REMEMBERED
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hf_x" not in path.read_text()
    for name in [name for name in os.environ if name.startswith("EMPELT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EMPELT_HOME", str(home))
    settings.cache_clear()
    assert settings() == started.model_copy(update={"hub_token": None})


def test_what_the_environment_says_goes_before_what_was_remembered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    remember(chosen(home, window=3))
    monkeypatch.setenv("EMPELT_HOME", str(home))
    monkeypatch.setenv("EMPELT_WINDOW", "2")
    settings.cache_clear()
    assert settings().window == 2


def test_prefect_keeps_to_this_home_and_this_host(home: Path) -> None:
    environment = environment_of(chosen(home, prefect_port=4201))
    assert environment["PREFECT_HOME"] == str(home / "prefect")
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4201/api"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("filesystem")
    assert {"127.0.0.1", "localhost"} <= set(environment["NO_PROXY"].split(","))


def test_a_proxy_exception_of_the_user_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "hub.example")
    assert environment_of(chosen(home))["NO_PROXY"] == "hub.example,127.0.0.1,localhost"


def test_the_gateway_is_ended_before_what_its_streams_need(home: Path) -> None:
    known = chosen(home, metrics_port=free_port())
    started = [child.name for child in servers(known, environment_of(known))]
    assert started == ["prefect-server", "launcher", "agent", "gateway", "receiver"]  # the last is ended first
