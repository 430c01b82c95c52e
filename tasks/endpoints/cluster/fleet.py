"""The instances of this installation on the cluster: what is there, made as it should be, taken away.

Nothing is remembered that the cluster does not know: what a killed reconciler has left is found by its labels.
"""

import logging
import shlex
import time
from collections.abc import Mapping
from typing import NamedTuple

from tasks.domain.errors import InputError
from tasks.endpoints.cluster.client import ClusterClient, Conflict
from tasks.endpoints.cluster.objects import (
    CHANNEL,
    DIGEST,
    INSTANCE,
    MADE,
    ClusterPlan,
    Object,
    instance_objects,
    is_ours,
    ours,
)
from tasks.endpoints.cluster.pods import Seen, see
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.wishes import Wish, instance_name

REPAIR_SECONDS = 60.0
"""An object that looks as it should is applied again so often: what somebody has changed by hand is put back."""

logger = logging.getLogger(__name__)


class Listed(NamedTuple):
    """One instance as the cluster has it."""

    name: str
    """``eu-3f2a00112233``; an object's own name where its notes do not say of what it is."""
    seen: Seen
    objects: Mapping[str, Object]
    """By kind: Deployment, Service, or one of them."""

    @property
    def uid(self) -> str:
        """Of its Deployment: another one for an instance that was made anew."""
        return str(self.objects["Deployment"]["metadata"]["uid"]) if "Deployment" in self.objects else ""

    @property
    def served(self) -> dict[str, str]:
        """Image and flags that its pods are made with; a later plan or profile changes neither while it answers."""
        if "Deployment" not in self.objects:
            return {}
        server = self.objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
        args = list(server.get("args") or ())
        flags = args[args.index("--") + 1 :] if "--" in args else []
        return {"image": str(server.get("image", "")), "flags": shlex.join(flags)}

    @property
    def is_going(self) -> bool:
        """Some part of it is being deleted, and cannot be kept any more."""
        return any(one["metadata"].get("deletionTimestamp") for one in self.objects.values())


class Fleet:
    """All of them."""

    def __init__(self, client: ClusterClient, plan: ClusterPlan) -> None:
        self.client = client
        self.plan = plan
        self.known: Mapping[str, Listed] = {}
        """As of the last look."""
        self._applied: dict[tuple[str, str], float] = {}

    def look(self) -> Mapping[str, Listed]:
        """What is there now.

        Raises:
            EndpointUnavailable: the API server does not say.
        """
        selector = ours(self.plan)
        found: dict[str, dict[str, Object]] = {}
        for kind in ("Deployment", "Service"):
            for one in self.client.list_all(kind, selector):
                found.setdefault(one["metadata"]["name"], {})[kind] = one
        pods: dict[str, list[Object]] = {}
        for pod in self.client.list_all("Pod", selector) if found else ():
            pods.setdefault((pod["metadata"].get("labels") or {}).get(INSTANCE, ""), []).append(pod)
        listed = {}
        for object_name, objects in found.items():
            seen = see(objects.get("Deployment"), objects.get("Service"), pods.get(object_name, ()))
            name = _name_of(objects) or object_name
            listed[name] = Listed(name, seen, objects)
        self.known = listed
        return listed

    def make(self, wish: Wish, profile: ServingProfile, *, weights_bytes: int) -> None:
        """Have an instance there as it should be. Does nothing where it is; never touches what is not ours.

        One that answers is left as it was made, even when the plan has changed since: what was judged is what is
        served. What has changed counts for the next instance.

        Raises:
            EndpointUnavailable: the API server does not take it at this moment.
            InputError: it refuses it, or an object of this name belongs to somebody else.
        """
        there = self.known.get(wish.name)
        if there is not None and there.is_going:
            return  # what is being deleted cannot be had back; the next one is made when it is gone
        for wanted in instance_objects(wish, profile, self.plan, weights_bytes=weights_bytes):
            kind, name = wanted["kind"], wanted["metadata"]["name"]
            found = there.objects.get(kind) if there is not None else None
            if found is not None:
                is_same = (found["metadata"].get("annotations") or {}).get(MADE) == wanted["metadata"]["annotations"][
                    MADE
                ]
                if not is_same and there is not None and there.seen.state == "ready":
                    continue
                if is_same and time.monotonic() - self._applied.get((kind, name), 0.0) < REPAIR_SECONDS:
                    continue
            else:
                self._refuse_strangers(kind, name)
                logger.info("%s: applying its %s", wish.name, kind)
            self.client.apply(wanted)
            self._applied[kind, name] = time.monotonic()

    def stop(self, name: str) -> None:
        """Delete an instance: its address first, so that nobody new finds it. It drains for as long as its grace says.

        Raises:
            EndpointUnavailable: the API server does not take it at this moment.
        """
        there = self.known.get(name)
        for kind in ("Service", "Deployment"):
            found = there.objects.get(kind) if there is not None else None
            if found is None or found["metadata"].get("deletionTimestamp"):
                continue
            try:
                self.client.delete(kind, found["metadata"]["name"], uid=found["metadata"]["uid"])
            except Conflict as error:
                logger.info("%s: not deleted, it was made anew meanwhile: %s", name, error)

    def _refuse_strangers(self, kind: str, name: str) -> None:
        found = self.client.get(kind, name)
        if found is not None and not is_ours(found, self.plan):
            labels = found["metadata"].get("labels") or {}
            raise InputError(
                f"{kind} {name} in {self.plan.namespace} is not this installation's (its labels are {labels}); "
                f"expected {ours(self.plan)}. Delete it, or choose another EMPELT_CLUSTER_INSTALLATION."
            )


def _name_of(objects: Mapping[str, Object]) -> str:
    for one in objects.values():
        notes = one["metadata"].get("annotations") or {}
        if notes.get(CHANNEL) and notes.get(DIGEST):
            return instance_name(notes[CHANNEL], notes[DIGEST])
    return ""
