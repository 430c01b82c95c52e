"""The doors to the rooms, opened from this process's settings; each once: a run has one ledger and one store."""

import atexit
import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tasks.settings import settings

if TYPE_CHECKING:
    from tasks.domain.catalog import Catalog
    from tasks.endpoints.protocol import Endpoint
    from tasks.sources.directory import DirectorySource
    from tasks.sources.hub import HubSource
    from tasks.store.artifacts import ArtifactStore
    from tasks.store.ledger import Ledger


@lru_cache
def open_catalog() -> "Catalog":
    """The catalog of the families that run here."""
    from tasks.domain.catalog import load_catalog
    from tasks.endpoints.table import SERVE_ADAPTERS
    from tasks.harness.selection import dev_sets
    from tasks.harness.suite import known_benchmarks, requests_of

    chosen = settings()
    found = load_catalog(
        chosen.catalog, chosen.family_names, known=known_benchmarks(), requests_of=requests_of, dev=dev_sets()
    )
    return found.only(chosen.target_names).require_servable(chosen.endpoint, SERVE_ADAPTERS)


@lru_cache
def open_ledger() -> "Ledger":
    """The ledger, its schema brought up to date."""
    from tasks.store.ledger import Ledger

    settings().home.mkdir(parents=True, exist_ok=True)
    return Ledger.open(settings().ledger)


@lru_cache
def open_store() -> "ArtifactStore":
    """The artifact store of this host."""
    from tasks.store.artifacts import ArtifactStore

    return ArtifactStore(settings().store, quota_bytes=int(settings().store_quota_gib * 2**30))


@lru_cache
def open_endpoint(family: str = "") -> "Endpoint":
    """The serving target, reached through the ledger and the gateway; it stages as ``family`` says in the catalog."""
    from tasks.endpoints.profile import ServingProfile
    from tasks.endpoints.table import ENDPOINTS

    chosen = settings()
    wanted = open_catalog().family(family).serving.model_dump() if family else {}
    profile = ServingProfile(**wanted, device=chosen.device)
    made = ENDPOINTS[chosen.endpoint]
    return made(open_ledger(), gateway=chosen.gateway_url, profile=profile, gateway_key=chosen.own_key)


@lru_cache
def open_source() -> "HubSource | DirectorySource":
    """Where releases are watched: a Hub, or a directory if the endpoint is a ``file:`` address."""
    endpoint, token = settings().hub_endpoint, settings().hub_token
    if endpoint.startswith("file:"):
        from tasks.sources.directory import DirectorySource

        return DirectorySource.at(endpoint)
    _keep_client_in(settings().store / "scratch")
    from tasks.sources.hub import HubSource

    return HubSource(endpoint, token.get_secret_value() if token else None)


def _keep_client_in(scratch: Path) -> None:
    """Have the Hub's client cache below ``scratch``, in a folder that goes with this process.

    Its own place is in the home folder of whoever runs the worker, where no quota counts it and nothing collects it. A
    download to a folder leaves nothing there today, but Xet, where it is switched on, keeps chunks and logs. What a
    killed process leaves is removed with all half-done work. The client reads this when it is first imported.
    """
    if "huggingface_hub" in sys.modules:
        return
    own = scratch / f"hub-client-{os.getpid()}-{uuid4().hex[:8]}"  # made by the client, if it ever writes to it
    for name, folder in (("HF_HUB_CACHE", "hub"), ("HF_XET_CACHE", "xet")):
        os.environ.setdefault(name, str(own / folder))
    atexit.register(shutil.rmtree, own, ignore_errors=True)


def forget() -> None:
    """Close what is open. The next caller gets settings and doors for the environment as it is then."""
    if open_ledger.cache_info().currsize:
        open_ledger().close()
    for cached in (settings, open_catalog, open_ledger, open_store, open_endpoint, open_source):
        cached.cache_clear()
