"""Where models are served, and what an instance is on a Kubernetes cluster; a part of ``tasks.settings.Settings``."""

from typing import Literal

from pydantic import Field

from tasks.settings_layers import Layered


class ClusterSettings(Layered):
    """The serving target, and every knob of the one on Kubernetes. There, ``device`` says what an instance runs on."""

    endpoint: Literal["local", "kubernetes"] = "local"
    """``kubernetes``: `empelt agent` is the reconciler, and the cluster starts the instances."""
    cluster_namespace: str = "empelt"
    cluster_installation: str = "empelt"
    """The mark of what is ours: two installations may share a namespace."""
    cluster_serving_image: str = ""
    """vLLM; best by digest, since a measurement is of it too."""
    cluster_pipeline_image: str = ""
    """In which an artifact's files are hashed before each start."""
    cluster_store_claim: str = "empelt-store"
    """The claim whose volume is the store."""
    cluster_node_class: str = ""
    """Value of the node label ``empelt.dev/class`` for instances; any node if empty."""
    cluster_gpus: int = Field(default=1, ge=1)
    """Of one instance, on a GPU."""
    cluster_cpu: str = "2"
    """Cores that one instance requests."""
    cluster_memory_gib: int = Field(default=0, ge=0)
    """Memory of one instance; 0: reckoned from its weights and flags."""
    cluster_shared_memory_gib: int = Field(default=2, ge=1)
    cluster_room_seconds: float = Field(default=300, ge=0)
    """For so long a node is waited for, which may have to be started, before something less important gives way."""
    cluster_start_seconds: int = Field(default=900, ge=30)
    """An instance that does not answer so long after its container's start is started anew."""
