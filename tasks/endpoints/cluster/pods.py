"""What the cluster's objects say of one instance, as a person would put it. Pure functions.

``failed`` is kept for what is the model's own doing: its files are not what was recorded, or its server ends again and
again. That an image cannot be pulled or no node has room is the cluster's trouble: the instance is ``starting`` then,
with the cluster's own words as the reason, and whoever waits for it runs into its deadline and may try again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tasks.domain.records import InstanceState
from tasks.endpoints.cluster.objects import PORT

REFUSED_CODE = 3
"""With which the check of the files ends when they are not what was recorded; see ``tasks.store.recheck``."""
MOST_RESTARTS = 2
"""A server that has ended so often is not going to come up."""
CLUSTER_TROUBLE = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
NO_POD = "no pod can be made"
Found = Mapping[str, Any]


class Seen(NamedTuple):
    """One instance, as its objects show it."""

    state: InstanceState
    reason: str = ""
    address: str = ""
    """Of its Service: stays as long as the Service does, whatever pod is behind it."""
    refused: bool = False
    """Its files are not what was recorded: another start would change nothing."""
    pod: str = ""
    no_room: bool = False
    """No node takes its pod, or a quota is spent."""


def see(deployment: Found | None, service: Found | None, pods: Sequence[Found]) -> Seen:
    """What is to be said of an instance.

    Args:
        deployment: as listed; None where there is none.
        service: the same.
        pods: all pods with the instance's label, those that are ending too.
    """
    if deployment is None:
        return Seen("starting", "its Deployment has yet to be made")
    if since := deployment["metadata"].get("deletionTimestamp"):
        held = deployment["metadata"].get("finalizers") or []
        by = f"; held by {', '.join(held)}" if held else ""
        return Seen("stopping", f"its Deployment is being deleted since {since}{by}")
    standing = sorted(
        (pod for pod in pods if not pod["metadata"].get("deletionTimestamp")),
        key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""),
    )
    address = _address(service)
    ready = [pod for pod in standing if _condition(pod, "Ready").get("status") == "True"]
    if ready and address and _is_observed(deployment):
        return Seen("ready", "", address, pod=ready[-1]["metadata"]["name"])
    if not standing:
        why = _why_no_pod(deployment, pods)
        return Seen("starting", why, address, no_room=why.startswith(NO_POD))
    return _of_pod(standing[-1])._replace(address=address)


def _of_pod(pod: Found) -> Seen:
    name = pod["metadata"]["name"]
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        why = f"waits for a node: {scheduled.get('reason', '')}: {scheduled.get('message', '')}"
        return Seen("starting", why, pod=name, no_room=True)
    status = pod.get("status") or {}
    if status.get("phase") == "Failed":
        return Seen(
            "starting", f"pod {name} failed: {status.get('reason', '')} {status.get('message', '')}".strip(), pod=name
        )
    for one in status.get("initContainerStatuses") or ():
        found = _of_container(one, is_check=True)
        if found is not None:
            return found._replace(pod=name)
    for one in status.get("containerStatuses") or ():
        found = _of_container(one, is_check=False)
        if found is not None:
            return found._replace(pod=name)
    return Seen("starting", f"pod {name} is {status.get('phase', 'unknown')}", pod=name)


def _of_container(one: Found, *, is_check: bool) -> Seen | None:
    """What one container says; None when there is nothing to tell of it: a check that has passed."""
    name, state = one.get("name", "?"), one.get("state") or {}
    waiting, running = state.get("waiting") or {}, state.get("running")
    ended = state.get("terminated") or (one.get("lastState") or {}).get("terminated") or {}
    restarts = int(one.get("restartCount") or 0)
    code = ended.get("exitCode")
    last = f"it ended with code {code}. Its log ends:\n{(ended.get('message') or ended.get('reason') or '').strip()}"
    if is_check and code == REFUSED_CODE:
        return Seen("failed", (ended.get("message") or "its files are not what was recorded").strip(), refused=True)
    if waiting.get("reason") in CLUSTER_TROUBLE:
        return Seen("starting", f"container {name}: {waiting['reason']}: {waiting.get('message', '')}".strip(": "))
    if is_check and code == 0:
        return None
    if code is not None and not is_check and (restarts >= MOST_RESTARTS or "terminated" in state):
        seen = Seen("failed", f"container {name} was started {restarts + 1} times; {last}")
        return seen if restarts >= MOST_RESTARTS else seen._replace(state="starting")
    if code is not None and running is None:
        return Seen("starting", f"container {name} is tried again after {restarts + 1} starts; {last}")
    if running is not None:
        doing = "hashing its files" if is_check else "loading"
        again = f", start {restarts + 1}; before, {last}" if restarts and code is not None else ""
        return Seen("starting", f"{doing} since {running.get('startedAt', '?')}{again}")
    if is_check:
        return Seen("starting", f"container {name}: {waiting.get('reason', 'waits')}")
    return None if not waiting else Seen("starting", f"container {name}: {waiting.get('reason', '')}")


def _why_no_pod(deployment: Found, pods: Sequence[Found]) -> str:
    for one in (deployment.get("status") or {}).get("conditions") or ():
        if one.get("type") == "ReplicaFailure" and one.get("status") == "True":
            return f"{NO_POD}: {one.get('reason', '')}: {one.get('message', '')}"
    leaving = [pod["metadata"]["name"] for pod in pods]
    return f"waits for pod {', '.join(leaving)} to end" if leaving else "its pod has yet to be made"


def _is_observed(deployment: Found) -> bool:
    """The controller has seen this version of it, so that what it says of pods is said of this version."""
    status = deployment.get("status") or {}
    return int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0)


def _address(service: Found | None) -> str:
    if service is None or service["metadata"].get("deletionTimestamp"):
        return ""
    ip = (service.get("spec") or {}).get("clusterIP") or ""
    return "" if ip in ("", "None") else f"http://[{ip}]:{PORT}" if ":" in ip else f"http://{ip}:{PORT}"


def _condition(pod: Found, kind: str) -> Mapping[str, Any]:
    found = (pod.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one.get("type") == kind), {})
