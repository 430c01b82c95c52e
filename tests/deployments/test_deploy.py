"""`empelt deploy` against a real Prefect server: three runs leave one of each, and a dry run leaves nothing."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from tasks import doors
from tasks.domain.errors import EndpointUnavailable, InputError
from tasks.settings import settings
from tests.local_hub.hub_fixtures import free_port

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

pytestmark = pytest.mark.system
CATALOG = Path(__file__).parents[2] / "deployments" / "catalog"
TEMPLATE = Path(__file__).parents[2] / "infra" / "kubernetes" / "gpu-job.json"


@pytest.fixture
def client(prefect_server: int) -> "Iterator[SyncPrefectClient]":
    """An empty server: what other tests registered is gone."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as opened:
        for deployment in opened.read_deployments(limit=200):
            opened.delete_deployment(deployment.id)
        for pool in opened.read_work_pools():
            opened.delete_work_pool(pool.name)
        for automation in opened.read_automations():
            opened.delete_automation(automation.id)
        yield opened


@pytest.fixture
def classes(prefect_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the classes of machines of a new installation, which deploys to the server of the tests."""
    catalog = tmp_path / "catalog"
    (catalog / "gates").mkdir(parents=True)
    (catalog / "classes").mkdir()
    for name in ("llama-tiny.yaml", *(f"gates/demo-{one}.yaml" for one in ("language", "es", "iberian"))):
        (catalog / name).write_text((CATALOG / name).read_text())
    (catalog / "classes" / "cpu.yaml").write_text("name: cpu\nmemory_gib: 16\ncores: 8\nworkers: 2\n")
    (catalog / "classes" / "h100.yaml").write_text("name: h100\nmemory_gib: 200\ndevice_gib: 75\ngpus: 1\n")
    values = {"HOME": tmp_path / "home", "CATALOG": catalog, "FAMILIES": "llama-tiny", "TARGETS": ""}
    for name, value in values.items():
        monkeypatch.setenv(f"EMPELT_{name}", str(value))
    monkeypatch.setenv("EMPELT_LEDGER_URL", f"sqlite:///{tmp_path / 'shared.db'}")
    monkeypatch.setenv("EMPELT_PREFECT_PORT", str(free_port()))  # our own server is not up, and is not meant
    doors.forget()
    yield catalog / "classes"
    doors.forget()


def deployed(dry_run: bool = False, **options: Any) -> dict[str, Any]:
    from deployments.deploying import deploy

    return deploy(settings(), dry_run=dry_run, **{"gpu": "process", "template": None, **options})


def on(client: "SyncPrefectClient") -> dict[str, Any]:
    """Everything of ours on the server, with identities."""
    from prefect.client.schemas.objects import WorkQueue

    found: dict[str, Any] = {"pools": {pool.name: pool.type for pool in client.read_work_pools()}}
    listed: list[WorkQueue] = [queue for pool in found["pools"] for queue in client.read_work_queues(pool)]
    found["queues"] = sorted((q.work_pool_name, q.name, q.concurrency_limit, q.id) for q in listed)
    flows = {flow.id: flow.name for flow in client.read_flows()}
    stored = client.read_deployments(limit=200)
    found["deployments"] = Counter(f"{flows[d.flow_id]}/{d.name}" for d in stored)
    found["schedules"] = Counter(f"{flows[d.flow_id]} {s.slug}" for d in stored for s in d.schedules)
    found["identities"] = {d.id for d in stored}
    found["schedule_identities"] = {s.id for d in stored for s in d.schedules}
    found["automations"] = Counter(automation.name for automation in client.read_automations())
    found["limits"] = Counter(limit.name for limit in client.read_global_concurrency_limits(limit=200))
    return found


def test_three_runs_leave_one_of_each(client: "SyncPrefectClient", classes: Path) -> None:
    first = deployed()
    once = on(client)
    deployed()
    third = deployed()
    assert on(client) == once
    assert once["pools"] == {"control": "process", "gpu": "process"}
    assert [(pool, name, limit) for pool, name, limit, _ in once["queues"]] == [
        ("control", "default", None),
        ("gpu", "cpu", 2),  # one run for each worker
        ("gpu", "default", None),
        ("gpu", "h100", 1),
    ]
    assert len(once["deployments"]) == 10
    assert set(once["deployments"].values()) == set(once["schedules"].values()) == {1}
    scheduled = ["audit-serving nightly", "collect-garbage nightly", "watch-hub nightly", "watch-hub poll"]
    assert sorted(once["schedules"]) == scheduled
    assert [count for name, count in once["automations"].items() if name.startswith("empelt: ")] == [1] * 4
    assert {change["action"] for change in first["changes"]} == {"created"}
    assert {change["action"] for change in third["changes"]} == {"kept"}


def test_up_and_deploy_write_the_same_but_for_the_command_of_a_run(
    client: "SyncPrefectClient", classes: Path, prefect_server: int
) -> None:
    from deployments.registry import register

    def facts() -> dict[str, Any]:
        kept = {"tags", "entrypoint", "work_pool_name", "description", "version", "parameter_openapi_schema"}
        stored = client.read_deployments(limit=200)
        return {d.name + d.entrypoint: d.model_dump(include=kept) for d in stored if d.entrypoint}

    deployed()
    by_deploy, whole = facts(), on(client)
    del whole["schedule_identities"]
    registered = register(settings().model_copy(update={"prefect_port": prefect_server}), "0.1.0")
    assert facts() == by_deploy
    assert {key: value for key, value in on(client).items() if key != "schedule_identities"} == whole
    assert sorted(registered) == sorted(whole["deployments"])
    assert all("command" in d.job_variables for d in client.read_deployments(limit=200))
    deployed()
    assert not any("command" in d.job_variables for d in client.read_deployments(limit=200))  # of another machine


def test_a_dry_run_tells_all_and_writes_nothing(client: "SyncPrefectClient", classes: Path) -> None:
    before = on(client)
    told = deployed(dry_run=True)
    assert on(client) == before
    assert before["deployments"] == {}
    created = [change["name"] for change in told["changes"] if change["action"] == "created"]
    assert {"control", "gpu", "gpu/cpu", "gpu/h100", "watch-hub/schedule", "merge-candidate/gpu"} <= set(created)
    assert sum(name.startswith("empelt: ") for name in created) == 4
    deployed()
    (classes / "cpu.yaml").write_text("name: cpu\nmemory_gib: 16\ncores: 8\nworkers: 5\n")
    again = deployed(dry_run=True)
    (changed,) = [change for change in again["changes"] if change["action"] == "changed"]
    assert changed["name"] == "gpu/cpu"
    assert "concurrency_limit: 2 -> 5" in changed["differences"]
    assert [limit for _, name, limit, _ in on(client)["queues"] if name == "cpu"] == [2]


def test_a_changed_class_and_interval_are_written(
    client: "SyncPrefectClient", classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed()
    before = on(client)
    (classes / "cpu.yaml").write_text("name: cpu\nmemory_gib: 16\ncores: 8\nworkers: 5\n")
    monkeypatch.setenv("EMPELT_WATCH_INTERVAL_SECONDS", "1200")
    doors.forget()
    told = deployed()
    assert sorted(c["name"] for c in told["changes"] if c["action"] == "changed") == ["gpu/cpu", "watch-hub/schedule"]
    after = on(client)
    assert [limit for _, name, limit, _ in after["queues"] if name == "cpu"] == [5]
    assert [queue[3] for queue in after["queues"]] == [queue[3] for queue in before["queues"]]  # the same queues
    assert after["identities"] == before["identities"]


def test_one_worker_for_each_device_is_told(client: "SyncPrefectClient", classes: Path) -> None:
    workers = {row["queue"]: row for row in deployed(dry_run=True)["workers"]}
    assert {queue: row["count"] for queue, row in workers.items()} == {"control": 1, "gpu/cpu": 2, "gpu/h100": 1}
    assert workers["gpu/h100"]["command"].startswith("CUDA_VISIBLE_DEVICES=0 prefect worker start --type process")
    assert "--work-queue h100 --limit 1" in workers["gpu/h100"]["command"]
    assert "CUDA" not in workers["gpu/cpu"]["command"]


def test_a_kubernetes_pool_gets_its_template_and_keeps_its_type(client: "SyncPrefectClient", classes: Path) -> None:
    deployed(gpu="kubernetes", template=TEMPLATE)
    pool = client.read_work_pool("gpu")
    assert pool.type == "kubernetes"
    assert pool.base_job_template == json.loads(TEMPLATE.read_text())
    again = deployed(gpu="kubernetes", template=TEMPLATE)
    assert {change["action"] for change in again["changes"]} == {"kept"}
    before = on(client)
    with pytest.raises(InputError, match="work pool gpu: kubernetes on the server, process asked for"):
        deployed()
    assert on(client) == before


def test_all_that_is_missing_is_told_at_once_and_nothing_is_written(
    client: "SyncPrefectClient", classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.delenv("EMPELT_LEDGER_URL")
    monkeypatch.setenv("EMPELT_FAMILIES", "")
    doors.forget()
    before = on(client)
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(InputError) as refusal:
        deployed(gpu="kubernetes")
    told = [problem.split(":")[0] for problem in refusal.value.problems]
    assert told[0] == "PREFECT_API_URL is not set"
    assert told[1].startswith("the ledger would be sqlite")
    assert told[2] == "no family named"
    assert "--template" in told[3]
    assert on(client) == before


def test_a_class_with_a_mistake_stops_the_whole(client: "SyncPrefectClient", classes: Path) -> None:
    before = on(client)
    (classes / "cpu.yaml").write_text("name: cpu\nmemory_gib: much\n")
    with pytest.raises(InputError, match=r"cpu\.yaml:2: memory_gib"):
        deployed()
    assert on(client) == before


def test_no_server_is_an_exit_code_of_its_own(classes: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    nowhere = f"http://127.0.0.1:{free_port()}/api"
    with (
        temporary_settings({PREFECT_API_URL: nowhere}),
        pytest.raises(EndpointUnavailable, match=f"no Prefect server answers at {nowhere}"),
    ):
        deployed()


def test_the_command_prints_one_json_object(client: "SyncPrefectClient", classes: Path) -> None:
    from deployments.command import app

    done = CliRunner().invoke(app, ["deploy", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["dry_run"] is True
    assert {row["queue"] for row in told["workers"]} == {"control", "gpu/cpu", "gpu/h100"}
