"""The Kubernetes API as far as it is needed: list, get, apply on the server, delete, and asking what one may do.

Objects are plain JSON both ways, through the official client (``kubernetes``, Apache-2.0), which knows addresses,
certificates and tokens. What a status code means is decided here, once: 409 is somebody else's change, 410 is a list
that has to be begun anew, 429 and 5xx are tried again as the server says, 403 names what is not allowed.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from tasks.domain.errors import EndpointUnavailable, InputError
from tasks.endpoints.cluster.access import Permission
from tasks.endpoints.cluster.objects import Object

PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
}
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
APPLY = "application/apply-patch+yaml"
"""JSON is YAML too."""
PAGE = 250
TRIES = 4
LONGEST_WAIT_SECONDS = 10.0
"""A Retry-After beyond it is not waited for: the reconciler comes again by itself."""
REQUEST_SECONDS = 10.0
AGAIN = (429, 500, 502, 503, 504)

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What the API server said."""

    status: int
    body: Object
    retry_after: float | None

    @property
    def message(self) -> str:
        """Of its ``Status``, with the causes that it names."""
        details = self.body.get("details") or {}
        causes = "; ".join(
            f"{c.get('field', '')}: {c.get('message', '')}".strip(": ") for c in details.get("causes") or ()
        )
        said = str(self.body.get("message") or self.body)
        return f"{said} ({causes})" if causes and causes not in said else said


class Conflict(EndpointUnavailable):
    """409: the object has changed, or was made anew, since it was read."""


class ClusterClient:
    """One namespace of one cluster."""

    def __init__(self, api: Any, *, namespace: str, manager: str, sleep: Callable[[float], None] = time.sleep) -> None:
        """Connect to nothing yet.

        Args:
            api: the official client's ``ApiClient``.
            namespace: in which everything lies.
            manager: the name under which fields are owned; another installation needs another one.
            sleep: between two tries.
        """
        self.namespace = namespace
        self.manager = manager
        self._api = api
        self._sleep = sleep

    def list_all(self, kind: str, selector: str) -> list[Object]:
        """Every object of a kind with these labels, page by page.

        Raises:
            EndpointUnavailable: no answer that can be used.
        """
        for _ in range(TRIES):
            found: list[Object] = []
            token = ""
            while True:
                query = [("labelSelector", selector), ("limit", str(PAGE))] + ([("continue", token)] if token else [])
                answer = self._ask("GET", self._path(kind), query=query)
                if answer.status == 410:  # the next page was of a state that the server has forgotten
                    logger.info("the list of %s took too long and is begun anew", kind)
                    break
                self._expect(answer, f"list {kind}s in {self.namespace}")
                found += answer.body.get("items") or []
                token = (answer.body.get("metadata") or {}).get("continue") or ""
                if not token:
                    return found
        raise EndpointUnavailable(
            f"the list of {kind}s in {self.namespace} expired {TRIES} times (410): {answer.message}"
        )

    def get(self, kind: str, name: str) -> Object | None:
        """One object; None when there is none of this name.

        Raises:
            EndpointUnavailable: no answer that can be used.
        """
        answer = self._ask("GET", f"{self._path(kind)}/{name}")
        if answer.status == 404:
            return None
        self._expect(answer, f"get {kind} {name}")
        return answer.body

    def apply(self, wanted: Object) -> Object:
        """Make or change an object so that it is as ``wanted`` says; what others have filled in stays.

        Fields that somebody else has set to another value are taken over: what runs here is said by the ledger.

        Raises:
            EndpointUnavailable: no answer that can be used.
            InputError: the server refuses the object as it is: every reason.
        """
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        query = [("fieldManager", self.manager), ("force", "true"), ("fieldValidation", "Strict")]
        answer = self._ask("PATCH", f"{self._path(kind)}/{name}", query=query, body=wanted, content_type=APPLY)
        self._expect(answer, f"apply {kind} {name}")
        return answer.body

    def delete(self, kind: str, name: str, *, uid: str) -> None:
        """Delete exactly this object, and what it owns before it; one that is gone already is no trouble.

        Raises:
            Conflict: another object has this name by now.
            EndpointUnavailable: no answer that can be used.
        """
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        answer = self._ask("DELETE", f"{self._path(kind)}/{name}", body=body)
        if answer.status != 404:
            self._expect(answer, f"delete {kind} {name}")

    def missing(self, needed: Iterable[Permission]) -> list[Permission]:
        """Those of the permissions that this account has not.

        Raises:
            EndpointUnavailable: no answer that can be used.
        """
        return [one for one in needed if not self._allowed(one)]

    def _allowed(self, one: Permission) -> bool:
        asked = {"namespace": self.namespace, "verb": one.verb, "group": one.group, "resource": one.resource}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = self._ask("POST", REVIEWS, body=body)
        self._expect(answer, "ask what this account may do")
        return bool((answer.body.get("status") or {}).get("allowed"))

    def _path(self, kind: str) -> str:
        return PATHS[kind].format(namespace=self.namespace)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Iterable[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Ask, and again where that may help. All that is asked here may be asked twice."""
        import urllib3

        trouble = ""
        for attempt in range(TRIES):
            wait = 0.2 * 2**attempt
            try:
                answer = self._once(method, path, list(query), body, content_type)
                if answer.status not in AGAIN:
                    return answer
                trouble = f"{answer.status}: {answer.message}"
                wait = wait if answer.retry_after is None else answer.retry_after
            except (urllib3.exceptions.HTTPError, OSError) as error:
                trouble = f"{type(error).__name__}: {error}"
            if attempt + 1 == TRIES or wait > LONGEST_WAIT_SECONDS:
                break
            self._sleep(wait)
        raise EndpointUnavailable(f"the Kubernetes API did not {method} {path} after {attempt + 1} tries: {trouble}")

    def _once(self, method: str, path: str, query: list[tuple[str, str]], body: Object | None, content: str) -> Answer:
        headers = {"Accept": "application/json", "Content-Type": content}
        request = self._api.param_serialize(
            method, path, query_params=query, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        response = self._api.call_api(*request, _request_timeout=REQUEST_SECONDS)
        text = response.read()
        try:
            told = json.loads(text) if text else {}
        except ValueError:  # a proxy's page
            told = {"message": text[:300].decode(errors="replace")}
        after = response.headers.get("Retry-After", "")
        return Answer(
            response.status, told if isinstance(told, dict) else {}, float(after) if after.isdigit() else None
        )

    def _expect(self, answer: Answer, what: str) -> None:
        if 200 <= answer.status <= 299:
            return
        told = f"could not {what}: {answer.status} {answer.message}"
        if answer.status == 409:
            raise Conflict(told)
        if answer.status in (401, 403):
            raise EndpointUnavailable(f"{told}. The Role in infra/kubernetes/instances.yaml grants what is needed.")
        if answer.status in (400, 415, 422):
            raise InputError(told)
        raise EndpointUnavailable(told)


def open_cluster(*, namespace: str, manager: str) -> ClusterClient:
    """The cluster that this process runs in, or else the one of the kubeconfig (KUBECONFIG, ``~/.kube/config``).

    Raises:
        InputError: the client is not installed, or nothing says where the cluster is.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise InputError("EMPELT_ENDPOINT=kubernetes needs the extra: pip install 'empelt[kubernetes]'") from error
    chosen = client.Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=chosen)
        else:
            # Said here: the client reads the variable when it is imported.
            config.load_kube_config(os.environ.get("KUBECONFIG") or None, client_configuration=chosen)
    except config.ConfigException as error:
        raise InputError(f"no cluster is named: {error}. Run in a pod, or set KUBECONFIG.") from error
    chosen.retries = False  # ours are the ones that heed Retry-After, and count
    return ClusterClient(client.ApiClient(chosen), namespace=namespace, manager=manager)
