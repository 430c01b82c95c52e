"""The reconciler with the real ledger, store, gateway and official client, against an API server over HTTP.

What a cluster does with the objects is stood for: the check of the files is run for real, vLLM is not. See OPERATIONS.md for
what this leaves untried.
"""

import hashlib
import threading
import time
from pathlib import Path

import httpx
import pytest

from tasks.domain.errors import EndpointUnavailable, InputError, ModelRefused
from tasks.domain.models import ModelRef
from tasks.endpoints.cluster.endpoint import KubernetesEndpoint
from tasks.endpoints.cluster.objects import ClusterPlan, object_name
from tasks.endpoints.cluster.reconciler import Reconciler
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.routes import read_routes
from tasks.endpoints.table import ENDPOINTS
from tasks.endpoints.wishes import WAITS_FOR_ROOM
from tests.endpoints.cluster.test_objects import made

RELEASE = ModelRef(repo_id="lab/instruct-v2", revision="2" * 40)
IMAGE = "x/serving@sha256:" + "1" * 64


class Installation:
    """A ledger and a gateway that stay, and a reconciler that can be killed and started again."""

    def __init__(self, cluster, store, ledger, gateway):
        self.cluster, self.store, self.ledger, self.gateway = cluster, store, ledger, gateway
        self.plan = ClusterPlan(serving_image=IMAGE, pipeline_image="x/pipeline:1", store=str(store.root))
        self.endpoint = ENDPOINTS["kubernetes"](ledger, gateway=gateway.url, profile=ServingProfile())
        self.drain_seconds = 5.0
        self._thread, self._stop = None, threading.Event()

    def reconciler(self):
        return Reconciler(
            name="local",
            state=self.ledger,
            client=self.cluster,
            plan=self.plan,
            artifacts=self.store,
            routes=self.gateway.routes,
            gateway=self.gateway.url,
            profile=ServingProfile(),
            drain_seconds=self.drain_seconds,
            look_seconds=0.2,
        )

    def start(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.reconciler().run, args=(self._stop,))
        self._thread.start()

    def stop(self):
        self._stop.set()
        if self._thread:
            self._thread.join(30)
        self._thread = None

    def stage(self, artifact, channel="eu"):
        return self.endpoint.stage(artifact, channel=channel, owner="test", release=RELEASE, lease_seconds=600)

    def ready(self, wanted, seconds=40):
        return self.endpoint.wait_ready(wanted, deadline_seconds=seconds)

    def switch(self, artifact):
        now = self.ledger.channel("eu")
        return self.ledger.switch_channel(
            "eu",
            digest=artifact.digest,
            release=RELEASE,
            target="eu",
            family="demo",
            expected_generation=now.generation if now else 0,
        ).generation

    def publish(self, artifact):
        wanted = self.stage(artifact)
        self.ready(wanted)
        generation = self.switch(artifact)
        self.endpoint.unstage(wanted)
        return self.endpoint.wait_visible("eu", generation=generation, deadline_seconds=40)

    def status(self, artifact):
        return next((one for one in self.ledger.instances() if one.digest == artifact.digest), None)

    def answer(self, model="eu"):
        answer = self.gateway.ask(model)
        assert answer.status_code == 200, answer.text
        text = answer.json()["choices"][0]["text"][:64]
        assert text == answer.headers["x-empelt-artifact"]
        return text, answer.headers.get("x-empelt-generation")


@pytest.fixture
def here(cluster, nodes, store, ledger, gateway):
    gateway.routes.unlink(missing_ok=True)
    running = Installation(cluster, store, ledger, gateway)
    yield running
    running.stop()


def named(artifact):
    return object_name("eu", artifact.digest)


def test_a_candidate_is_staged_switched_to_and_rolled_back_from(here, api, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    here.start()
    assert here.publish(blue).generation == 1
    assert here.answer() == (blue.digest, "1")

    ready = here.ready(here.stage(green))
    assert ready.model == f"eu@{green.short}"
    assert ready.serving["image"] == IMAGE
    assert ready.serving["flags"] == ServingProfile().facts(image=IMAGE)["flags"]
    assert here.answer(ready.model) == (green.digest, None)
    assert here.answer() == (blue.digest, "1"), "staging must not change what is live"

    here.endpoint.wait_visible("eu", generation=here.switch(green), deadline_seconds=40)
    assert here.answer() == (green.digest, "2")
    assert here.ledger.channel("eu").acknowledged_generation == 2

    pods = {name for kind, name in api.objects if kind == "pods"}
    seen = here.endpoint.wait_visible("eu", generation=here.switch(blue), deadline_seconds=40)
    assert here.answer() == (blue.digest, "3")
    assert {name for kind, name in api.objects if kind == "pods"} == pods, "it was started anew instead of kept warm"
    assert seen.generation == 3


def test_no_request_is_lost_while_a_channel_is_switched_and_what_is_not_wanted_goes(here, api, make_artifact, until):
    blue, green, third = make_artifact("blue"), make_artifact("green"), make_artifact("third")
    here.start()
    here.publish(blue)
    lost, answered, stop = [], set(), threading.Event()

    def ask():
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                body = {"model": "eu", "prompt": "q", "wait": 0.02}
                told = client.post(f"{here.gateway.url}/v1/completions", json=body)
                if told.status_code != 200 or told.json()["choices"][0]["finish_reason"] == "abort":
                    lost.append(told.text)
                else:
                    answered.add(told.json()["choices"][0]["text"][:64])

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for one in asking:
        one.start()
    try:
        here.publish(green)
        here.publish(third)
        until(lambda: ("deployments", named(blue)) not in api.objects, what="the oldest to be gone")
    finally:
        stop.set()
        for one in asking:
            one.join(30)
    assert lost == []
    assert answered == {blue.digest, green.digest, third.digest}
    assert ("services", named(blue)) not in api.objects
    assert ("deployments", named(green)) in api.objects, "the previous one is kept warm"


def test_an_artifact_with_a_changed_file_is_refused_by_the_check_in_its_pod_and_takes_no_device(
    here, api, make_artifact, until
):
    blue, green = make_artifact("blue"), make_artifact("green")
    here.start()
    here.publish(blue)
    weights = Path(green.folder) / "model.safetensors"
    recorded = next(f.sha256 for f in green.files if f.path == "model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    with pytest.raises(ModelRefused) as refused:
        here.ready(here.stage(green))
    message = str(refused.value)
    assert "model.safetensors" in message
    assert recorded in message
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in message
    until(lambda: ("deployments", named(green)) not in api.objects, what="the refused one to be gone")
    assert here.answer() == (blue.digest, "1")
    assert here.status(green).state == "failed"


def test_a_candidate_that_ends_again_and_again_is_given_up_with_the_end_of_its_log_and_tried_when_asked_again(
    here, api, make_artifact, until
):
    blue, broken = make_artifact("blue"), make_artifact("broken", fault="crash")
    here.start()
    here.publish(blue)
    wanted = here.stage(broken)
    with pytest.raises(ModelRefused, match="this model cannot be loaded"):
        here.ready(wanted)
    until(lambda: ("deployments", named(broken)) not in api.objects, what="the broken one to be gone")
    assert here.answer() == (blue.digest, "1")
    applied = api.count("PATCH", named(broken))
    here.endpoint.unstage(wanted)
    until(lambda: here.status(broken) is None, what="its wish to be gone")
    with pytest.raises(ModelRefused, match="this model cannot be loaded"):
        here.ready(here.stage(broken))
    assert api.count("PATCH", named(broken)) > applied, "it was not tried again"


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (lambda nodes, _: nodes.missing_images.add(IMAGE), ["ImagePullBackOff", "manifest unknown"]),
        (lambda nodes, _: setattr(nodes, "is_full", True), ["waits for a node", "Insufficient nvidia.com/gpu"]),
        (
            lambda nodes, _: setattr(nodes, "quota", "exceeded quota: gpus"),
            ["no pod can be made", "exceeded quota: gpus"],
        ),
        (lambda nodes, artifact: nodes.slow.add(artifact.digest), ["loading since"]),
    ],
    ids=["image", "no node", "quota", "never ready"],
)
def test_the_clusters_trouble_is_told_to_whoever_waits_and_condemns_no_model(
    here, nodes, make_artifact, trouble, words
):
    blue = make_artifact("blue")
    trouble(nodes, blue)
    here.start()
    wanted = here.stage(blue)
    with pytest.raises(EndpointUnavailable) as late:
        here.ready(wanted, seconds=4)
    assert [word for word in words if word not in str(late.value)] == []
    assert "is alive" in str(late.value)


def test_trouble_that_passes_is_forgotten(here, nodes, make_artifact):
    blue = make_artifact("blue")
    nodes.missing_images.add(IMAGE)
    here.start()
    wanted = here.stage(blue)
    with pytest.raises(EndpointUnavailable, match="ImagePullBackOff"):
        here.ready(wanted, seconds=3)
    nodes.missing_images.clear()
    assert here.ready(wanted).model == f"eu@{blue.short}"


def test_a_new_reconciler_adopts_what_runs_and_clears_what_nobody_wants(here, api, cluster, make_artifact, until):
    blue = make_artifact("blue")
    here.start()
    here.publish(blue)
    here.stop()
    uid = api.objects["deployments", named(blue)]["metadata"]["uid"]
    pods = [name for kind, name in api.objects if kind == "pods"]
    leftovers = made(plan=here.plan, channel="gone")
    for one in leftovers:
        cluster.apply(one)
    assert here.answer() == (blue.digest, "1"), "the gateway goes on without a reconciler"
    here.start()
    until(lambda: ("deployments", leftovers[0]["metadata"]["name"]) not in api.objects, what="the leftover to be gone")
    until(lambda: ("services", leftovers[1]["metadata"]["name"]) not in api.objects, what="its Service to be gone")
    assert api.objects["deployments", named(blue)]["metadata"]["uid"] == uid
    assert [name for kind, name in api.objects if kind == "pods"] == pods
    assert here.answer() == (blue.digest, "1")


def test_another_installations_objects_are_neither_touched_nor_taken(here, api, cluster, make_artifact, until):
    other = ClusterPlan(**{**here.plan.__dict__, "installation": "other"})
    blue = make_artifact("blue")
    for one in (*made(plan=other, channel="theirs"), *made(plan=other, channel="eu", digest=blue.digest)):
        cluster.apply(one)
    before = {key: one["metadata"]["resourceVersion"] for key, one in api.objects.items() if key[0] != "pods"}
    here.start()
    with pytest.raises(EndpointUnavailable) as late:
        here.ready(here.stage(blue), seconds=3)
    assert "is not this installation's" in str(late.value)
    assert "EMPELT_CLUSTER_INSTALLATION" in str(late.value)
    after = {key: one["metadata"]["resourceVersion"] for key, one in api.objects.items() if key[0] != "pods"}
    assert after == before


def test_a_changed_plan_leaves_what_answers_as_it_was_judged_and_counts_for_the_next(here, api, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    here.start()
    here.publish(blue)
    here.stop()
    version = api.objects["deployments", named(blue)]["metadata"]["generation"]
    here.plan = ClusterPlan(**{**here.plan.__dict__, "cpu": "7", "serving_image": "x/serving:2"})
    here.start()
    ready = here.ready(here.stage(green))
    container = api.objects["deployments", named(green)]["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"]["cpu"] == "7"
    assert ready.serving["image"] == "x/serving:2"
    assert api.objects["deployments", named(blue)]["metadata"]["generation"] == version
    assert here.status(blue).serving["image"] == IMAGE, "what is told must be what runs"
    assert here.status(blue).serving["flags"] == ready.serving["flags"]
    assert here.status(blue).mapped.startswith("not seen: ")
    assert here.answer() == (blue.digest, "1")


def test_a_deletion_that_is_held_up_keeps_nothing_else_waiting(here, api, make_artifact, until):
    blue, green, third = make_artifact("blue"), make_artifact("green"), make_artifact("third")
    here.start()
    api.finalizer = "example.com/audit"
    here.publish(blue)
    api.finalizer = ""
    here.publish(green)
    here.publish(third)
    until(lambda: api.objects["deployments", named(blue)]["metadata"].get("deletionTimestamp"), what="its deletion")
    assert here.answer() == (third.digest, "3")
    deletions = api.count("DELETE", named(blue))
    time.sleep(1.5)
    assert api.count("DELETE", named(blue)) == deletions, "it is asked for once"
    with pytest.raises(EndpointUnavailable, match=r"held by example\.com/audit"):
        here.ready(here.stage(blue), seconds=3)
    with api.lock:
        api.release("deployments", named(blue), "example.com/audit")
    assert here.ready(here.stage(blue)).model == f"eu@{blue.short}"


def test_a_pod_that_is_moved_is_out_of_the_routes_before_it_ends(here, nodes, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    here.start()
    here.publish(blue)
    here.publish(green)
    nodes.evict(named(green))
    until(lambda: here.status(green).state != "ready", what="its end to be seen")
    assert here.answer()[0] == blue.digest, "the previous one answers meanwhile"
    until(lambda: here.answer() == (green.digest, "2"), what="green to have its channel back")


def test_an_api_server_that_is_away_stops_no_answer_and_no_switch_between_what_stands(here, api, make_artifact):
    blue, green = make_artifact("blue"), make_artifact("green")
    here.start()
    here.publish(blue)
    here.ready(here.stage(green))
    for method in ("GET", "PATCH", "DELETE"):
        api.fault(
            method, "namespaces", 503, times=10**6, message="the server is currently unable to handle the request"
        )
    here.endpoint.wait_visible("eu", generation=here.switch(green), deadline_seconds=20)
    assert here.answer() == (green.digest, "2")
    api.faults.clear()


def test_a_candidate_without_room_makes_the_one_that_is_only_kept_warm_go(here, api, nodes, make_artifact):
    blue, green, third = make_artifact("blue"), make_artifact("green"), make_artifact("third")
    nodes.slots = 2
    here.plan = ClusterPlan(**{**here.plan.__dict__, "room_seconds": 1.0})
    here.start()
    here.publish(blue)
    here.publish(green)
    assert here.ready(here.stage(third)).model == f"eu@{third.short}"
    assert ("deployments", named(blue)) not in api.objects
    assert here.answer() == (green.digest, "2")


def test_without_room_for_two_what_answers_stays_until_the_switch_and_requests_are_held_then(
    here, api, nodes, make_artifact, until
):
    blue, green = make_artifact("blue"), make_artifact("green")
    nodes.slots = 1
    here.plan = ClusterPlan(**{**here.plan.__dict__, "room_seconds": 1.0})
    here.start()
    here.publish(blue)
    wanted = here.stage(green)
    with pytest.raises(EndpointUnavailable, match=f"{WAITS_FOR_ROOM}: .*Insufficient nvidia.com/gpu"):
        here.ready(wanted, seconds=5)
    assert here.answer() == (blue.digest, "1")
    here.endpoint.unstage(wanted)

    generation = here.switch(green)
    held = []
    asking = threading.Thread(target=lambda: held.append(here.answer()))
    until(lambda: not read_routes(here.gateway.routes).instances, what="the old one to be out of the routes")
    asking.start()
    assert here.endpoint.wait_visible("eu", generation=generation, deadline_seconds=40).generation == 2
    asking.join(30)
    assert held == [(green.digest, "2")]
    assert ("deployments", named(blue)) not in api.objects


def test_a_node_that_dies_costs_no_instance_that_answers(here, api, nodes, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    nodes.slots = 2
    here.plan = ClusterPlan(**{**here.plan.__dict__, "room_seconds": 0.5})
    here.start()
    here.publish(blue)
    here.publish(green)
    nodes.slots = 1
    nodes.evict(named(green))
    until(lambda: (s := here.status(green)) and s.reason.startswith(WAITS_FOR_ROOM), what="green to be without room")
    time.sleep(1.5)
    assert here.answer()[0] == blue.digest
    assert not api.objects["deployments", named(blue)]["metadata"].get("deletionTimestamp")


def test_a_canary_gets_its_part_of_the_requests_by_the_same_routes(here, make_artifact, until):
    blue, green = make_artifact("blue"), make_artifact("green")
    here.start()
    here.publish(blue)
    here.ready(here.stage(green))
    canary = {"digest": green.digest, "weight": 50, "generation": 1, "owner": "test", "lease_seconds": 60}
    here.ledger.set_canary("eu", **canary)

    def shares():
        told = [here.gateway.ask("eu", prompt=f"q{number}").headers["x-empelt-artifact"] for number in range(40)]
        return told.count(green.digest)

    until(lambda: read_routes(here.gateway.routes).channels["eu"].canary, what="the canary's route")
    assert 5 <= until(shares, what="a first request to the canary") <= 35
    here.ledger.end_canary("eu", green.digest)
    until(lambda: read_routes(here.gateway.routes).channels["eu"].canary is None, what="the canary to be out")
    until(lambda: shares() == 0, what="the gateway to load it")


def test_what_was_left_half_made_is_completed(here, api, make_artifact):
    blue = make_artifact("blue")
    api.fault("PATCH", "services", 500, times=6)
    here.start()
    wanted = here.stage(blue)
    assert here.ready(wanted).model == f"eu@{blue.short}"
    assert api.faults[0]["times"] == 0
    assert api.objects["deployments", named(blue)]["metadata"]["generation"] == 1


def test_it_does_not_begin_before_it_knows_what_runs(here, api, make_artifact, until):
    blue = make_artifact("blue")
    here.start()
    here.publish(blue)
    here.stop()
    before = here.gateway.routes.read_bytes()
    api.fault("GET", "deployments", 500, times=8)
    here.start()
    until(lambda: api.faults[0]["times"] == 0, what="the trouble to pass")
    assert here.gateway.routes.read_bytes() == before
    assert here.answer() == (blue.digest, "1")


def test_every_missing_setting_and_permission_is_named_before_anything_is_done(here, api):
    here.plan = ClusterPlan(store=str(here.store.root))
    api.forbidden = {("patch", "deployments"), ("list", "pods")}
    with pytest.raises(InputError) as refused:
        here.reconciler().run(threading.Event())
    message = str(refused.value)
    for words in ("SERVING_IMAGE", "PIPELINE_IMAGE", "patch deployments.apps", "list pods", "instances.yaml"):
        assert words in message
    assert api.objects == {}


def test_the_endpoint_says_where_to_look_for_an_agent_that_is_not_there(ledger, gateway, make_artifact):
    endpoint = KubernetesEndpoint(ledger, gateway=gateway.url, profile=ServingProfile())
    wanted = endpoint.stage(make_artifact("blue"), channel="eu", owner="test", release=RELEASE, lease_seconds=60)
    with pytest.raises(EndpointUnavailable, match="kubectl get pods"):
        endpoint.wait_ready(wanted, deadline_seconds=0.5)


def test_the_routes_lead_to_the_services_address(here, api, make_artifact):
    blue = make_artifact("blue")
    here.start()
    here.publish(blue)
    (route,) = read_routes(here.gateway.routes).instances.values()
    assert route.uds == f"http://{api.objects['services', named(blue)]['spec']['clusterIP']}:8000"
    asked = {"model": "eu", "prompt": "q", "stream": True, "max_tokens": 20, "wait": 0.01}
    with httpx.stream("POST", f"{here.gateway.url}/v1/completions", json=asked, timeout=30) as stream:
        said = [line for line in stream.iter_lines() if line.startswith("data: ")]
    assert sum(blue.digest in line for line in said) == 20
    assert said[-1] == "data: [DONE]"
