"""The doors to the rooms, opened from this process's settings; each once: a run has one ledger and one store."""

from functools import lru_cache
from typing import TYPE_CHECKING

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
    from tasks.harness.suite import known_benchmarks, requests_of

    chosen = settings()
    found = load_catalog(chosen.catalog, chosen.family_names, known=known_benchmarks(), requests_of=requests_of)
    return found.only(chosen.target_names)


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
    return ENDPOINTS["local"](open_ledger(), gateway=chosen.gateway_url, profile=profile, gateway_key=chosen.own_key)


@lru_cache
def open_source() -> "HubSource | DirectorySource":
    """Where releases are watched: a Hub, or a directory if the endpoint is a ``file:`` address."""
    endpoint, token = settings().hub_endpoint, settings().hub_token
    if endpoint.startswith("file:"):
        from tasks.sources.directory import DirectorySource

        return DirectorySource.at(endpoint)
    from tasks.sources.hub import HubSource

    return HubSource(endpoint, token.get_secret_value() if token else None)


def forget() -> None:
    """Close what is open. The next caller gets settings and doors for the environment as it is then."""
    if open_ledger.cache_info().currsize:
        open_ledger().close()
    for cached in (settings, open_catalog, open_ledger, open_store, open_endpoint, open_source):
        cached.cache_clear()
