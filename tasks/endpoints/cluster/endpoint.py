"""The endpoint on a cluster, as flows see it. They talk to the ledger and to the gateway, as everywhere."""

from tasks.endpoints.local import LocalEndpoint


class KubernetesEndpoint(LocalEndpoint):
    """Serving on Kubernetes: the reconciler is the agent, and tells in the ledger what the cluster says."""

    start_hint = "`kubectl get pods -l app.kubernetes.io/component=serving` says why"
