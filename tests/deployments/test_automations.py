"""Automations against a real Prefect server: after any number of registrations there is exactly one of each name."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

pytestmark = pytest.mark.system

NAMES = {
    "empelt: no heartbeat is a crash",
    "empelt: stuck in pending is a crash",
    "empelt: a job that crashed is looked at",
    "empelt: a job that is late is looked at",
}


@pytest.fixture
def settings(prefect_server: int, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, prefect_port=prefect_server, families="llama-tiny")


def ours(client: "SyncPrefectClient") -> dict[str, int]:
    return dict(Counter(one.name for one in client.read_automations() if one.name.startswith("empelt: ")))


def test_every_start_leaves_one_of_each_and_what_is_right_is_not_touched(
    client: "SyncPrefectClient", settings: Settings
) -> None:
    from deployments.automations import apply_automations, automations
    from deployments.registry import register

    register(settings, "1")
    assert ours(client) == dict.fromkeys(NAMES, 1)
    identities = {one.id for one in client.read_automations()}
    register(settings, "2")
    assert {one.id for one in client.read_automations()} == identities
    watch = client.read_deployment_by_name("watch-hub/schedule")
    assert apply_automations(client, automations(settings, watch.id)) == []
    changed = apply_automations(client, automations(settings.model_copy(update={"pending_seconds": 77}), watch.id))
    assert sorted(changed) == ["empelt: a job that is late is looked at", "empelt: stuck in pending is a crash"]
    assert {one.id for one in client.read_automations()} == identities  # the same ones: updated in place


def test_twins_are_ended_what_was_altered_is_mended_and_what_is_not_wanted_goes(
    client: "SyncPrefectClient", settings: Settings
) -> None:
    from prefect.events.schemas.automations import AutomationCore

    from deployments.automations import automations
    from deployments.registry import register

    register(settings, "1")
    watch = client.read_deployment_by_name("watch-hub/schedule")
    wanted = automations(settings, watch.id)
    client.create_automation(wanted[0])  # as a deploy that only creates would do
    stray = wanted[1].model_copy(update={"name": "empelt: of an older version"})
    somebodys = wanted[1].model_copy(update={"name": "theirs"})
    client.create_automation(AutomationCore.model_validate(stray.model_dump()))
    kept = client.create_automation(AutomationCore.model_validate(somebodys.model_dump()))
    client.pause_automation(client.read_automations_by_name(wanted[2].name)[0].id)
    register(settings, "2")
    assert ours(client) == dict.fromkeys(NAMES, 1)
    assert all(one.enabled for one in client.read_automations() if one.name in NAMES)
    assert client.read_automation(kept) is not None
    client.delete_automation(kept)
