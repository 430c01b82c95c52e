"""From an instance that should run to the Kubernetes objects of it: one Deployment and one Service. Pure functions.

An instance is immutable there too: one artifact, one set of flags. Which of two versions answers how much is not said
here: it stands in the routes of our gateway, which reads the body's ``model``. An HTTPRoute matches paths and headers,
weighs each request anew, takes vLLM's 200 with ``abort`` for an answer, and acknowledges nothing.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.wishes import Wish

Object: TypeAlias = dict[str, Any]

PORT = 8000
PRE_STOP_SECONDS = 15
"""Between a pod's end being asked for and SIGTERM: the gateway must have lost it by then, since a draining vLLM answers
200 with ``abort``. A drained node is seen by the reconciler in about 2 s."""
GRACE_MARGIN_SECONDS = 15
"""The grace must be strictly more than what comes before SIGKILL: the pause, and what vLLM takes to drain."""
NAME = "empelt-instance"
INSTALLATION = "empelt.dev/installation"
INSTANCE = "empelt.dev/instance"
ARTIFACT = "empelt.dev/artifact"
CHANNEL = "empelt.dev/channel"
DIGEST = "empelt.dev/digest"
MADE = "empelt.dev/made"
"""Hash of what was applied, so that a change of it is seen without comparing what the server has filled in."""
CHANNEL_LETTERS = 40
"""Names of Services are at most 63 characters: ``empelt-``, the channel, ``-`` and 12 digits of the artifact."""


@dataclass(frozen=True)
class ClusterPlan:
    """What every instance on this cluster has in common."""

    namespace: str = "empelt"
    installation: str = "empelt"
    """The mark of what is ours: two installations may share a namespace."""
    serving_image: str = ""
    """vLLM with our launcher's checks. By digest, since it is part of what a measurement is of."""
    pipeline_image: str = ""
    """In which the files are hashed before each start."""
    store_claim: str = "empelt-store"
    store: str = "/var/lib/empelt/store"
    node_class: str = ""
    """Value of the node label ``empelt.dev/class``; "" is any node."""
    gpus: int = 1
    """Of one instance, where the profile says gpu."""
    cpu: str = "2"
    memory_gib: int = 0
    """Of one instance, and its limit; 0: from the size of the weights."""
    shared_memory_gib: int = 2
    """In memory, and counted with it. vLLM's processes talk through /dev/shm, and a container has 64 MiB of it."""
    start_seconds: int = 900
    """From the container's start to an answer; after that it is started anew."""
    room_seconds: float = 300
    """How long a node is waited for before something less important gives way."""

    def problems(self) -> list[str]:
        """What must be stated before anything can be served."""
        missing = {"serving_image": self.serving_image, "pipeline_image": self.pipeline_image}
        return [
            f"EMPELT_CLUSTER_{name.upper()} is not set; name an image" for name, value in missing.items() if not value
        ]


def object_name(channel: str, digest: str) -> str:
    """``empelt-eu-3f2a00112233``: a DNS label. A channel that is none, or is too long, is shortened and hashed."""
    plain = re.sub(r"[^a-z0-9-]", "-", channel)
    if plain != channel or len(plain) > CHANNEL_LETTERS:
        mark = hashlib.sha256(channel.encode()).hexdigest()[:8]
        plain = f"{plain[: CHANNEL_LETTERS - 9]}-{mark}"
    return f"empelt-{plain}-{digest[:12]}"


def ours(plan: ClusterPlan) -> str:
    """The label selector of every object of this installation's instances."""
    return f"app.kubernetes.io/managed-by=empelt,{INSTALLATION}={plan.installation}"


def is_ours(found: Mapping[str, Any], plan: ClusterPlan) -> bool:
    """Whether an object bears this installation's mark."""
    labels = found.get("metadata", {}).get("labels") or {}
    return labels.get("app.kubernetes.io/managed-by") == "empelt" and labels.get(INSTALLATION) == plan.installation


def instance_objects(
    wish: Wish, profile: ServingProfile, plan: ClusterPlan, *, weights_bytes: int
) -> tuple[Object, ...]:
    """The Deployment and the Service of one instance.

    Args:
        wish: which artifact, for which channel.
        profile: its flags, those that a local launcher would be given.
        plan: what all instances have in common.
        weights_bytes: from which the memory is reckoned where the plan states none.
    """
    name = object_name(wish.channel, wish.digest)
    selector = {INSTANCE: name, INSTALLATION: plan.installation}
    labels = {
        "app.kubernetes.io/name": NAME,
        "app.kubernetes.io/component": "instance",
        "app.kubernetes.io/managed-by": "empelt",
        ARTIFACT: wish.digest[:12],
        **selector,
    }
    notes = {CHANNEL: wish.channel, DIGEST: wish.digest, "empelt.dev/release": wish.release}
    deployment: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 1,
            "strategy": {"type": "Recreate"},  # two would want the same device, and one of them would wait for ever
            "progressDeadlineSeconds": plan.start_seconds + 600,  # a node may have to be started, an image pulled
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": labels, "annotations": notes},
                "spec": _pod(wish, profile, plan, weights_bytes),
            },
        },
    }
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "spec": {
            "type": "ClusterIP",
            "selector": selector,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }
    for one in (deployment, service):
        one["metadata"] = {"name": name, "namespace": plan.namespace, "labels": labels, "annotations": dict(notes)}
        made = hashlib.sha256(json.dumps(one, sort_keys=True).encode()).hexdigest()
        one["metadata"]["annotations"][MADE] = made
    return deployment, service


def vllm_arguments(wish: Wish, profile: ServingProfile, plan: ClusterPlan) -> list[str]:
    """What the serving image is started with: as the launcher is asked for an instance, with a port for the socket."""
    names = (f"{wish.channel}@{wish.digest[:12]}", wish.channel)
    served = [part for name in names for part in ("--served-name", name)]
    model = f"{plan.store}/artifacts/{wish.digest}"
    return [
        "--name",
        object_name(wish.channel, wish.digest),
        "--model",
        model,
        *served,
        "--port",
        str(PORT),
        "--",
        *profile.flags(),
    ]


def grace_seconds(profile: ServingProfile) -> int:
    """``terminationGracePeriodSeconds``."""
    return PRE_STOP_SECONDS + profile.shutdown_timeout_seconds + GRACE_MARGIN_SECONDS


def _pod(wish: Wish, profile: ServingProfile, plan: ClusterPlan, weights_bytes: int) -> Object:
    store = {"name": "store", "mountPath": plan.store, "readOnly": True}
    artifact = f"artifacts/{wish.digest}"
    pod: Object = {
        "serviceAccountName": "empelt-instance",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service would put variables of its own into VLLM_* and EMPELT_*
        "terminationGracePeriodSeconds": grace_seconds(profile),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [
            {
                "name": "recheck",  # every file hashed again, before each start of the pod, on its node
                "image": plan.pipeline_image,
                "args": ["python", "-m", "tasks.store.recheck", plan.store, wish.digest],
                "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
                "securityContext": _locked_down(),
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": [store],
            }
        ],
        "containers": [
            {
                "name": "vllm",
                "image": plan.serving_image,
                "command": ["/app/.venv-serving/bin/python", "/app/infra/serving/pod.py"],
                "args": vllm_arguments(wish, profile, plan),
                "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
                "resources": _resources(profile, plan, weights_bytes),
                "securityContext": _locked_down(),
                "terminationMessagePolicy": "FallbackToLogsOnError",
                # vLLM listens when its engine is up and not before, and 503 means that the engine is dead. So: time to
                # load, then soon out of service, and killed late only, since a busy server answers slowly.
                "startupProbe": _health(period=5, failures=math.ceil(plan.start_seconds / 5)),
                "readinessProbe": _health(period=2, failures=3),
                "livenessProbe": _health(period=10, failures=6),
                "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
                "volumeMounts": [
                    # Its own artifact and no other one.
                    {**store, "mountPath": f"{plan.store}/{artifact}", "subPath": artifact},
                    {"name": "shm", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "store", "persistentVolumeClaim": {"claimName": plan.store_claim}},  # read-only in each mount
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{plan.shared_memory_gib}Gi"}},
        ],
    }
    if plan.node_class:
        pod["nodeSelector"] = {"empelt.dev/class": plan.node_class}
    if profile.device == "gpu":
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _resources(profile: ServingProfile, plan: ClusterPlan, weights_bytes: int) -> Object:
    gib = plan.memory_gib or math.ceil(profile.memory_bytes(weights_bytes) / 2**30) + plan.shared_memory_gib
    limits: Object = {"memory": f"{gib}Gi"}
    if profile.device == "gpu":
        limits["nvidia.com/gpu"] = str(
            plan.gpus
        )  # a request of the same number is implied, and nothing else is allowed
    return {"requests": {"cpu": plan.cpu, "memory": f"{gib}Gi"}, "limits": limits}


def _health(*, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _locked_down() -> Object:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
