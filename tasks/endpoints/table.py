"""The serving targets. A newcomer is one file beside this one and one line here."""

from collections.abc import Callable, Mapping

from tasks.endpoints.cluster.endpoint import KubernetesEndpoint
from tasks.endpoints.local import LocalEndpoint
from tasks.endpoints.protocol import Endpoint

ENDPOINTS: Mapping[str, Callable[..., Endpoint]] = {
    "local": LocalEndpoint,  # one host: launcher, agent and gateway
    "kubernetes": KubernetesEndpoint,  # a cluster: reconciler and gateway
}
SERVE_ADAPTERS = frozenset({"local"})
"""Those that serve adapters over one model. Elsewhere a catalog that asks for it is refused."""
