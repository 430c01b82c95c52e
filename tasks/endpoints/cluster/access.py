"""What the reconciler may do on the cluster: the Role in ``infra/kubernetes/instances.yaml`` grants exactly this."""

from typing import NamedTuple


class Permission(NamedTuple):
    """One verb on one kind of resource, in the namespace."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        named = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {named}"


NEEDED = (
    # A server-side apply of what is not there yet is both a patch and a create.
    *(Permission("apps", "deployments", verb) for verb in ("get", "list", "create", "patch", "delete")),
    *(Permission("", "services", verb) for verb in ("get", "list", "create", "patch", "delete")),
    Permission("", "pods", "list"),
)
