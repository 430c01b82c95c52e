"""The compose file against Compose's schema, its secrets by file, and the two scripts of the images, which are run."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "compose-1.29.2.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("register", "worker-control", "worker-gpu", "agent", "gateway", "prefect")


def problems(document: dict[str, Any]) -> list[str]:
    # Younger than the schema: the name of a project, and the `content` of a config (Compose 2.23.1).
    known = {key: value for key, value in document.items() if key not in ("name", "configs")}
    told = jsonschema.Draft7Validator(SCHEMA).iter_errors(known)
    return [f"{'.'.join(map(str, one.path))}: {one.message}" for one in told]


def test_it_is_what_compose_reads() -> None:
    assert problems(COMPOSE) == []
    assert COMPOSE["configs"] == {"prefect-database": {"content": "CREATE DATABASE prefect OWNER empelt;"}}


def test_the_schema_sees_a_mistake() -> None:
    broken = json.loads(json.dumps(COMPOSE))
    broken["services"]["gateway"]["prots"] = ["8700"]
    broken["services"]["db"]["healthcheck"]["retries"] = []
    assert len(problems(broken)) == 2


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_uses_only_what_is_declared(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
    mounted = {f"/run/secrets/{secret}" for secret in service.get("secrets", ())}
    environment = service.get("environment", {})
    files = {key: value for key, value in environment.items() if key.endswith("_FILE")}
    assert set(files.values()) <= mounted, f"{name} is told of a file that is not mounted"
    assert set(service.get("depends_on", ())) <= SERVICES.keys()


def test_no_secret_is_a_value() -> None:
    text = (ROOT / "infra" / "compose.yaml").read_text()
    for name, service in SERVICES.items():
        for key in service.get("environment", {}):
            assert not key.endswith(("PASSWORD", "TOKEN", "LEDGER_URL", "AUTH_STRING", "CONNECTION_URL")), (
                f"{name}: {key}"
            )
    assert "DB_PASSWORD:" not in text
    assert "infra/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_what_stays_up_says_how_it_is() -> None:
    lasting = {name for name, service in SERVICES.items() if service.get("restart") != "no"}
    assert lasting - {name for name in lasting if "healthcheck" in SERVICES[name]} == {"agent"}  # it has no port


def test_ours_run_without_rights() -> None:
    for name in (*OURS, "launcher"):
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


def test_the_server_has_all_five_in_redis() -> None:
    environment = SERVICES["prefect"]["environment"]
    assert {key: value for key, value in environment.items() if str(value).startswith("prefect_redis")} == {
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
    }
    assert environment["PREFECT_SERVER_DOCKET_URL_FILE"] == "/run/secrets/redis_url"


def test_only_what_asks_the_hub_gets_the_token() -> None:
    assert [name for name, service in SERVICES.items() if "hub_token" in service.get("secrets", ())] == [
        "worker-control"
    ]


def test_the_folder_of_secrets_is_made_once_and_is_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = []
    for _ in range(2):
        subprocess.run([ROOT / "infra/images/make-secrets.sh", folder], check=True)
        made.append({path.name: path.read_text() for path in folder.iterdir()})
    found = made[0]
    assert made[1] == found
    assert found.keys() == COMPOSE["secrets"].keys()
    assert found["db_password"] in found["ledger_url"]
    assert found["db_password"] in found["prefect_database_url"]
    assert found["redis_password"] in found["redis_url"]
    assert len({found["db_password"], found["redis_password"], found["prefect_auth"].partition(":")[2]}) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.iterdir()))


def entry(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    script = str(ROOT / "infra/images/with-secrets.sh")
    env = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run([script, *command], env=env, capture_output=True, text=True)


def test_what_is_in_a_file_becomes_a_variable_of_prefects(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("empelt:it's $HOME `pwd`\n")
    done = entry("env", PREFECT_API_AUTH_STRING_FILE=str(tmp_path / "auth"), EMPELT_LEDGER_URL_FILE="/x")
    lines = done.stdout.splitlines()
    assert "PREFECT_API_AUTH_STRING=empelt:it's $HOME `pwd`" in lines
    assert "EMPELT_LEDGER_URL_FILE=/x" in lines  # our own settings read it
    assert not [line for line in lines if line.startswith("PREFECT_API_AUTH_STRING_FILE")]


def test_a_file_that_is_not_there_stops_the_container() -> None:
    done = entry("echo", "started", PREFECT_API_AUTH_STRING_FILE="/nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "PREFECT_API_AUTH_STRING_FILE names /nowhere" in done.stderr


def test_every_volume_of_ours_lies_where_the_image_has_a_folder_of_our_user() -> None:
    # A volume at a path that the image lacks belongs to root, and user 10001 could not write to it.
    for name in (*OURS, "launcher"):
        service = SERVICES[name]
        lines = (ROOT / service["build"]["dockerfile"]).read_text()
        made = next(line for line in lines.splitlines() if "mkdir -p" in line).split()
        assert {volume.split(":")[1] for volume in service["volumes"]} <= set(made), name
