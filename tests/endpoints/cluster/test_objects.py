"""What is written for one instance: by the vendored schemas, by the launcher's own line, and by the times of a drain."""

import json
import re
from typing import Any

import pytest

from tasks.endpoints.cluster.objects import (
    MADE,
    ClusterPlan,
    grace_seconds,
    instance_objects,
    is_ours,
    object_name,
    ours,
    vllm_arguments,
)
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.wishes import Wish
from tests.endpoints.cluster.fake_api import problems

DIGEST = "3f2a00112233" + "4" * 52
GIB = 2**30
PLAN = ClusterPlan(serving_image="x/serving@sha256:1", pipeline_image="x/pipeline:1", node_class="l40s")
CPU = ServingProfile()
GPU = ServingProfile(dtype="bfloat16", device="gpu", kv_mib=8192, shutdown_timeout_seconds=40, enforce_eager=False)


def wish(channel: str = "eu", digest: str = DIGEST, release: str = "lab/instruct@" + "2" * 40) -> Wish:
    return Wish(f"{channel}-{digest[:12]}", channel, digest, release, "live", {})


def made(
    profile: ServingProfile = CPU, plan: ClusterPlan = PLAN, **changes: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    deployment, service = instance_objects(wish(**changes), profile, plan, weights_bytes=3 * GIB)
    return deployment, service


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    return dict(deployment["spec"]["template"]["spec"])


@pytest.mark.parametrize("profile", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("channel", ["eu", "4b.eu", "e" * 63])
def test_the_objects_are_what_kubernetes_reads(profile: ServingProfile, channel: str) -> None:
    for one in made(profile, channel=channel):
        assert problems(one) == []
        assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", one["metadata"]["name"])
        for value in one["metadata"]["labels"].values():
            assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value), value


def test_a_misspelt_key_would_be_seen() -> None:
    deployment, _ = made()
    pod_of(deployment)["containers"][0]["livenessProb"] = {}
    assert "livenessProb" in problems(deployment)[0]


def test_names_tell_channels_and_artifacts_apart() -> None:
    assert object_name("eu", DIGEST) == "empelt-eu-3f2a00112233"
    channels = ["eu", "e.u", "e-u", "e" * 62, "e" * 63, "4b"]
    assert len({object_name(channel, DIGEST) for channel in channels}) == len(channels)
    assert object_name("eu", DIGEST) != object_name("eu", "a" * 64)


def test_the_flags_are_those_that_a_launcher_would_be_given() -> None:
    """Everything but the place: the recorded flags are what a score belongs to."""
    args = vllm_arguments(wish(), GPU, PLAN)
    assert tuple(args[args.index("--") + 1 :]) == GPU.flags()
    assert f"--shutdown-timeout {GPU.shutdown_timeout_seconds}" in GPU.facts(image="x")["flags"]


def test_the_grace_is_more_than_the_pause_and_the_drain_together() -> None:
    deployment, _ = made(GPU)
    pod = pod_of(deployment)
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause == 15
    assert pod["terminationGracePeriodSeconds"] == grace_seconds(GPU) == 70
    assert pod["terminationGracePeriodSeconds"] > pause + GPU.shutdown_timeout_seconds


def test_probes_give_it_time_to_load_and_ask_the_one_path_that_tells() -> None:
    server = pod_of(made(plan=ClusterPlan(**{**PLAN.__dict__, "start_seconds": 601}))[0])["containers"][0]
    start = server["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 601
    assert {server[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")} == {"/health"}
    liveness, readiness = server["livenessProbe"], server["readinessProbe"]
    assert (
        liveness["periodSeconds"] * liveness["failureThreshold"]
        > readiness["periodSeconds"] * readiness["failureThreshold"]
    )


def test_the_files_are_hashed_before_the_server_starts_and_it_sees_no_other_artifact() -> None:
    pod = pod_of(made()[0])
    check, server = pod["initContainers"][0], pod["containers"][0]
    assert check["args"] == ["python", "-m", "tasks.store.recheck", "/var/lib/empelt/store", DIGEST]
    assert check["image"] == PLAN.pipeline_image
    assert all(
        mount["readOnly"] for one in (check, server) for mount in one["volumeMounts"] if mount["name"] == "store"
    )
    assert [m["subPath"] for m in server["volumeMounts"] if m["name"] == "store"] == [f"artifacts/{DIGEST}"]
    model = server["args"][server["args"].index("--model") + 1]
    assert model in {mount["mountPath"] for mount in server["volumeMounts"]}


def test_a_gpu_instance_asks_for_its_devices_and_a_cpu_instance_for_none() -> None:
    gpu, cpu = pod_of(made(GPU)[0]), pod_of(made(CPU)[0])
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["nodeSelector"] == {"empelt.dev/class": "l40s"}
    assert "nvidia.com/gpu" not in json.dumps(cpu)
    # 3 GiB of bf16 held as fp32, 1 GiB of cache, 1.5 GiB of the rest, and what is shared.
    assert cpu["containers"][0]["resources"]["limits"]["memory"] == "11Gi"
    shm = next(volume for volume in gpu["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    stated = pod_of(made(CPU, ClusterPlan(**{**PLAN.__dict__, "memory_gib": 40}))[0])
    assert stated["containers"][0]["resources"]["limits"]["memory"] == "40Gi"


def test_it_runs_as_nobody_special_and_holds_no_token() -> None:
    pod = pod_of(made(GPU)[0])
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for one in (*pod["initContainers"], *pod["containers"]):
        assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert "memory" in one["resources"]["limits"]
        assert "env" not in one


def test_the_mark_of_what_was_made_moves_with_what_is_made() -> None:
    def mark(profile: ServingProfile = CPU, plan: ClusterPlan = PLAN) -> str:
        return str(made(profile, plan)[0]["metadata"]["annotations"][MADE])

    assert mark() == mark()
    assert mark() != mark(GPU)
    assert mark() != mark(plan=ClusterPlan(**{**PLAN.__dict__, "serving_image": "x/serving:2"}))


def test_what_is_ours_is_told_from_another_installations() -> None:
    deployment, service = made()
    assert is_ours(deployment, PLAN)
    assert is_ours(service, PLAN)
    other = ClusterPlan(**{**PLAN.__dict__, "installation": "other"})
    assert not is_ours(deployment, other)
    assert ours(PLAN) != ours(other)
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_a_plan_without_images_says_which() -> None:
    told = " ".join(ClusterPlan().problems())
    assert "EMPELT_CLUSTER_SERVING_IMAGE" in told
    assert "EMPELT_CLUSTER_PIPELINE_IMAGE" in told
    assert PLAN.problems() == []
