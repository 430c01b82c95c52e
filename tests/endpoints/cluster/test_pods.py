"""What is said of an instance, by what its objects say."""

from typing import Any

import pytest

from tasks.endpoints.cluster import pods
from tasks.endpoints.cluster.pods import see
from tasks.store import recheck

SERVICE = {"metadata": {"name": "s"}, "spec": {"clusterIP": "10.0.0.7"}}
DEPLOYMENT = {"metadata": {"name": "d", "generation": 2}, "status": {"observedGeneration": 2}}


def pod(
    *conditions: dict[str, str], name: str = "p1", at: str = "2026-11-01T00:00:00Z", **status: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": at},
        "status": {"phase": "Running", "conditions": list(conditions), **status},
    }


READY = {"type": "Ready", "status": "True"}


def server(state: dict[str, Any], restarts: int = 0, last: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": "vllm", "state": state, "restartCount": restarts, "lastState": {"terminated": last} if last else {}}


def test_it_is_ready_with_a_ready_pod_behind_an_address() -> None:
    seen = see(DEPLOYMENT, SERVICE, [pod(READY)])
    assert (seen.state, seen.address) == ("ready", "http://10.0.0.7:8000")
    assert (
        see(DEPLOYMENT, {**SERVICE, "spec": {"clusterIP": "fd00::7"}}, [pod(READY)]).address == "http://[fd00::7]:8000"
    )


@pytest.mark.parametrize(
    ("deployment", "service"),
    [
        (DEPLOYMENT, None),
        ({"metadata": {"name": "d", "generation": 3}, "status": {"observedGeneration": 2}}, SERVICE),
        (None, SERVICE),
    ],
    ids=["no address", "not observed", "no Deployment"],
)
def test_it_is_not_ready_before_all_of_it_is_there(deployment: Any, service: Any) -> None:
    assert see(deployment, service, [pod(READY)]).state == "starting"


def test_a_pod_that_is_to_end_is_not_counted_although_it_says_that_it_is_ready() -> None:
    leaving = pod(READY)
    leaving["metadata"]["deletionTimestamp"] = "2026-11-01T00:00:00Z"
    seen = see(DEPLOYMENT, SERVICE, [leaving])
    assert seen.state == "starting"
    assert "waits for pod p1 to end" in seen.reason
    assert see(DEPLOYMENT, SERVICE, [leaving, pod(READY, name="p2")]).pod == "p2"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            pod({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}),
            ["waits for a node", "Unschedulable", "0/3 nodes"],
        ),
        (
            pod(containerStatuses=[server({"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}})]),
            ["vllm", "ImagePullBackOff", "manifest unknown"],
        ),
        (
            pod(initContainerStatuses=[{"name": "recheck", "state": {"running": {"startedAt": "12:00"}}}]),
            ["hashing its files", "12:00"],
        ),
        (
            pod(
                initContainerStatuses=[
                    {
                        "name": "recheck",
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"exitCode": 1, "message": "Stale file handle"}},
                    }
                ]
            ),
            ["recheck", "Stale file handle"],
        ),
        (pod(containerStatuses=[server({"running": {"startedAt": "12:00"}})]), ["loading since 12:00"]),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), ["Evicted", "low on memory"]),
        (
            pod(
                containerStatuses=[
                    server({"waiting": {"reason": "CrashLoopBackOff"}}, 1, {"exitCode": 137, "reason": "OOMKilled"})
                ]
            ),
            ["137", "OOMKilled"],
        ),
    ],
    ids=["no node", "image", "hashing", "store trouble", "loading", "evicted", "first restart"],
)
def test_the_clusters_own_trouble_is_told_and_is_no_failure_of_the_model(found: Any, words: list[str]) -> None:
    seen = see(DEPLOYMENT, SERVICE, [found])
    assert seen.state == "starting"
    assert not seen.refused
    assert [word for word in words if word not in seen.reason] == []


def test_a_server_that_ends_again_and_again_has_failed_with_the_end_of_its_log() -> None:
    crashed = server(
        {"waiting": {"reason": "CrashLoopBackOff"}}, 2, {"exitCode": 1, "message": "ValueError: no such head"}
    )
    seen = see(DEPLOYMENT, SERVICE, [pod(containerStatuses=[crashed])])
    assert (seen.state, seen.refused) == ("failed", False)
    assert "started 3 times" in seen.reason
    assert "ValueError: no such head" in seen.reason
    assert see(DEPLOYMENT, SERVICE, [pod(READY, containerStatuses=[crashed])]).state == "ready", "it came back"


def test_files_that_are_not_what_was_recorded_are_refused_in_the_words_of_the_check() -> None:
    last = {"exitCode": 3, "message": "model.safetensors: sha256 is a, recorded b"}
    init = {"name": "recheck", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": last}}
    seen = see(DEPLOYMENT, SERVICE, [pod(initContainerStatuses=[init])])
    assert (seen.state, seen.refused, seen.reason) == ("failed", True, last["message"])


def test_a_deletion_that_is_held_up_names_what_holds_it() -> None:
    held = {"metadata": {"name": "d", "deletionTimestamp": "12:00", "finalizers": ["example.com/audit"]}}
    seen = see(held, SERVICE, [pod(READY)])
    assert seen.state == "stopping"
    assert "12:00" in seen.reason
    assert "example.com/audit" in seen.reason


def test_a_quota_that_is_spent_is_told() -> None:
    told = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: gpus"}
    seen = see({**DEPLOYMENT, "status": {"observedGeneration": 2, "conditions": [told]}}, SERVICE, [])
    assert seen.state == "starting"
    assert "exceeded quota: gpus" in seen.reason


def test_the_code_of_a_refusal_is_the_one_that_the_check_ends_with() -> None:
    assert pods.REFUSED_CODE == recheck.REFUSED_CODE
