"""The flows that move a channel, on a real Prefect server, with the real ledger, store, agent and gateway.

Only vLLM is stood in for. A run that is killed is one that raises in the middle here: what it leaves is the same.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.publish_model import publish_model
from flows.rollback_channel import rollback_channel
from tasks import doors, promotions
from tasks.domain.jobs import PublishRequest
from tasks.domain.models import ModelRef
from tasks.identity import record_outputs
from tasks.promotions import outcome_of
from tasks.stage import staged
from tests.endpoints.conftest import behave, gateway, make_artifact, short_folder, spawn, start_gateway, until
from tests.endpoints.serving_host import ONE_SLOT, host

__all__ = ["gateway", "host", "make_artifact", "short_folder", "spawn", "start_gateway"]  # fixtures
CATALOG = Path(__file__).parents[2] / "deployments" / "catalog"
POLICY: dict[str, Any] = {"steps": [{"weight": 50, "seconds": 0.5}], "warm_requests": 2}
V1 = ModelRef(repo_id="lab/instruct-v1", revision="1" * 40)
V2 = ModelRef(repo_id="lab/instruct-v2", revision="2" * 40)


@pytest.fixture
def policy() -> dict[str, Any]:
    """The promotion policy of the target; a test may change it before it begins."""
    return dict(POLICY)


@pytest.fixture
def installation(tmp_path: Path, gateway: Any, policy: dict[str, Any], prefect_server: int) -> Iterator[None]:
    content = yaml.safe_load((CATALOG / "llama-tiny.yaml").read_text())
    content["targets"] = {"eu": content["targets"]["eu"] | {"promotion": policy}}
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "llama-tiny.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "catalog" / "gates").symlink_to(CATALOG / "gates")
    told = {"HOME": tmp_path, "CATALOG": tmp_path / "catalog", "FAMILIES": "llama-tiny", "LEASE_SECONDS": 10}
    told |= {"GATEWAY_PORT": gateway.config["port"], "STAGE_DEADLINE_SECONDS": 60, "VISIBLE_DEADLINE_SECONDS": 60}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(f"EMPELT_{name}", str(value))
        doors.forget()
        yield
    doors.forget()


@pytest.fixture
def store(installation: None) -> Any:
    return doors.open_store()


@pytest.fixture
def ledger(installation: None) -> Any:
    return doors.open_ledger()


def request(artifact: Any, release: ModelRef, generation: int, **more: Any) -> PublishRequest:
    names = {"family": "llama-tiny", "target": "eu", "channel": "eu"}
    return PublishRequest(
        **names, artifact_digest=artifact.digest, release=release, expected_generation=generation, **more
    )


def publish(artifact: Any, release: ModelRef, generation: int, then: Any = lambda ready: None) -> Any:
    """As a job does: staged, judged, and published while it is up; ``then`` happens in between."""
    with staged("llama-tiny", artifact.digest, "eu", release) as ready:
        record_outputs(ready, ["eu"])
        then(ready)
        return publish_alone(artifact, release, generation)


def publish_alone(artifact: Any, release: ModelRef, generation: int) -> Any:
    return outcome_of(publish_model(request(artifact, release, generation)))


def steps(ledger: Any, artifact: Any) -> list[tuple[str, str]]:
    return [(step.step, step.ended) for step in ledger.promotion_steps("eu", digest=artifact.digest)]


def page(client: Any) -> str:
    """The newest page of the channel's promotions."""
    found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["serving-eu"])))
    return str(max(found, key=lambda one: one.created).data)


def test_a_release_is_published_step_by_step_and_taken_back_in_seconds(host, make_artifact, ledger, client):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    first = publish(blue, V1, 0)
    assert (first.generation, first.refused) == (1, "")
    assert steps(ledger, blue) == [(name, "done") for name in ("stage", "verify", "warm", "switch", "confirm")]
    second = publish(green, V2, 1)
    assert (second.generation, second.refused) == (2, "")
    names = ("stage", "verify", "warm", "canary 50", "switch", "confirm", "drain")
    assert steps(ledger, green) == [(name, "done") for name in names]
    assert host.answer() == (green.digest, "2")
    told = page(client)
    for part in (V2.repo_id, "canary 50", "acknowledgement", green.digest):
        assert part in told
    confirmed = next(step for step in ledger.promotion_steps("eu", generation=1) if step.step == "confirm")
    assert confirmed.figures["acknowledged_seconds"] > 0
    assert confirmed.figures["switch_seconds"] >= 0
    assert ledger.promotions("eu")[0].extra["keep_previous_seconds"] == 86400

    pid = host.status(blue).pid
    back = outcome_of(rollback_channel("eu", reason="too chatty"))
    assert (back.generation, back.release, back.refused) == (3, V1, "")
    assert host.answer() == (blue.digest, "3")
    assert host.status(blue).pid == pid, "it was warm"
    assert "too chatty" in page(client)


def test_a_refused_release_is_a_normal_end_with_the_reason_and_the_channel_never_moves(
    host, make_artifact, ledger, client
):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    publish(blue, V1, 0)
    told = publish(green, V2, 1, then=lambda _: behave(host.route(green), salt=5))
    assert told.generation == 1
    assert "refused at 'verify'" in told.refused
    assert promotions.published(told, "stronger")[:3] == ("Refused", "held", 1)
    assert steps(ledger, green) == [("stage", "done"), ("verify", "refused"), ("take back", "done")]
    assert host.answer() == (blue.digest, "1")
    assert "refused at verify: the channel never moved" in page(client)


def test_a_run_that_ends_before_the_switch_takes_its_canary_back_and_the_next_one_goes_on(
    host, make_artifact, ledger, monkeypatch
):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    publish(blue, V1, 0)

    def dies(_: PublishRequest) -> None:
        raise RuntimeError("the process was ended")

    with monkeypatch.context() as patch:
        patch.setattr("flows.publish_model.switch_channel", dies)
        with pytest.raises(RuntimeError, match="the process was ended"):
            publish(green, V2, 1)
    assert ledger.canary_of("eu") is None
    assert ledger.channel("eu").generation == 1
    assert publish(green, V2, 1).generation == 2
    assert [step for step, _ in steps(ledger, green)].count("canary 50") == 1, "it had passed"
    assert len(ledger.promotions("eu")) == 2


def test_a_run_that_ends_after_the_switch_is_ended_by_the_next_one_without_another_switch(
    host, make_artifact, ledger, monkeypatch
):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    publish(blue, V1, 0)

    def dies(_: Any) -> None:
        raise RuntimeError("the process was ended")

    with monkeypatch.context() as patch:
        patch.setattr("flows.publish_model.confirm_visible", dies)
        with pytest.raises(RuntimeError, match="the process was ended"):
            publish(green, V2, 1)
    assert publish(green, V2, 1).generation == 2
    assert len(ledger.promotions("eu")) == 2
    assert ("confirm", "done") in steps(ledger, green)
    assert host.answer() == (green.digest, "2")


@pytest.mark.parametrize("policy", [POLICY | {"keep_previous_seconds": 0}])
def test_a_rollback_to_what_is_not_warm_any_more_goes_the_same_way(host, make_artifact, ledger):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    publish(blue, V1, 0)
    publish(green, V2, 1)
    until(lambda: host.status(blue) is None, what="blue to be stopped")
    back = outcome_of(rollback_channel("eu"))
    assert (back.generation, back.release) == (3, V1)
    assert host.answer() == (blue.digest, "3")


@pytest.mark.parametrize("policy", [POLICY, POLICY | {"no_room": "refuse"}])
def test_where_two_do_not_fit_the_policy_says_what_to_do(host, make_artifact, ledger, monkeypatch, policy):
    # Shorter waits for room, and nothing else: 15 s pass before the policy speaks.
    monkeypatch.setattr("tasks.stage.NO_ROOM_SECONDS", 0.1)
    monkeypatch.setattr("tasks.stage.LOOK_SECONDS", 1.0)
    blue, green = make_artifact("blue"), make_artifact("green")
    host.device = ONE_SLOT
    host.start()
    publish(blue, V1, 0)
    told = publish_alone(green, V2, 1)
    if policy.get("no_room") == "refuse":
        assert "already holds its 1 instances" in told.refused
        assert host.answer() == (blue.digest, "1")
        return
    assert (told.generation, told.refused) == (2, "")
    assert steps(ledger, green)[:2] == [("stage", "skipped"), ("switch", "done")]
    assert host.answer() == (green.digest, "2")
