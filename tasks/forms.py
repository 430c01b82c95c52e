"""Keeps the run forms of the Prefect UI up to date with the catalog and the ledger."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from tasks.domain.catalog import Catalog, load_catalog
from tasks.domain.due import order_releases
from tasks.domain.forms import approve_form, backfill_form, publish_form, remerge_form, rollback_form
from tasks.domain.models import Digest
from tasks.prefect_api import prefect_of
from tasks.settings import Settings, settings
from tasks.store.artifacts import ArtifactStore
from tasks.store.ledger import Ledger
from tasks.waiting import name_of

Form = Callable[[dict[str, Any]], dict[str, Any]]
MOST_SERVED = 10
"""Artifacts that the form of a roll-back names for each channel, the latest first."""


def refresh_forms(chosen: Settings, api: str = "") -> list[str]:
    """Give each deployment with a form the choices of now; the deployments that were changed.

    ``api`` is the address of the server's API: the installation's own if empty.

    For whoever changes the catalog while all is up: ``empelt up`` and every watch call it too. Safe to repeat.
    """
    changed, wanted = [], forms_now(chosen)
    with prefect_of(chosen, api), get_client(sync_client=True) as client:
        for name, form in wanted.items():
            if _refresh(client, name, form):
                changed.append(name)
    return changed


def forms_now(chosen: Settings) -> dict[str, Form]:
    """The forms as catalog and ledger are now."""
    # Read anew, not open_catalog(): the caller may just have changed a file.
    catalog = load_catalog(chosen.catalog, chosen.family_names)
    with Ledger.open(chosen.ledger) as ledger:
        return forms(catalog, ledger, _in_store(chosen))


@task(name="refresh-forms", cache_policy=NO_CACHE)
def keep_forms() -> list[str]:
    """The same, in a flow."""
    return refresh_forms(settings(), str(PREFECT_API_URL.value() or ""))  # of the server that this run belongs to


def _in_store(chosen: Settings) -> Callable[[Digest], bool]:
    """Whether an artifact can still be served; believed where this machine does not see the store."""
    if not (chosen.store / "artifacts").is_dir():
        return lambda _: True
    return ArtifactStore(chosen.store).has


def forms(catalog: Catalog, ledger: Ledger, there: Callable[[Digest], bool]) -> dict[str, Form]:
    """Deployment -> what makes its form out of the schema that Prefect made from the flow's signature.

    A channel is offered only such artifacts to go back to as are ``there``.
    """
    families = {name: sorted(family.targets) for name, family in catalog.families.items()}
    releases = order_releases(release for name in families for release in ledger.releases(name))
    own = {target.channel for family in catalog.families.values() for target in family.targets.values()}
    channels = sorted(own | {state.channel for state in ledger.channels()})
    served = [
        f"{p.channel} {p.artifact_digest[:12]} ({p.release.slug}, generation {p.generation})"
        for channel in channels
        for p in [p for p in ledger.promotions(channel) if there(p.artifact_digest)][:MOST_SERVED]
    ]
    waiting = list(dict.fromkeys(name_of(wish) for wish in ledger.awaiting_approval()))
    refs = [f"{release.ref.repo_id}@{release.ref.revision}" for release in releases]
    return {
        "remerge-release/by-hand-or-watch": partial(remerge_form, families=families, releases=refs),
        "backfill-base/by-hand": partial(backfill_form, families=families),
        "approve-release/by-hand": partial(approve_form, waiting=waiting),
        "rollback-channel/by-hand": partial(rollback_form, channels=channels, served=served),
        "publish-model/by-hand": partial(publish_form, channels=channels, families=families),
    }


def _refresh(client: SyncPrefectClient, name: str, form: Form) -> bool:
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        return False  # not registered yet: `empelt up` registers, and then comes here
    now = dict(deployment.parameter_openapi_schema or {})
    wanted = form(now)
    if json.dumps(now, sort_keys=True) == json.dumps(wanted, sort_keys=True):
        return False
    client.update_deployment(
        deployment.id, DeploymentUpdate(parameter_openapi_schema=wanted, enforce_parameter_schema=True)
    )
    return True
