"""Publishes what a target's channel serves to a Hub, for people elsewhere. The channel does not depend on it."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.cancelled import hold_on_cancel
from tasks.domain.jobs import ClaimTicket
from tasks.ledger import claimed, unclaimed
from tasks.upload import open_upload, upload_files


@flow(name="upload-model", flow_run_name="upload {target} of {family}", on_cancellation=[hold_on_cancel])
def upload_model(family: str, target: str, claim: ClaimTicket | None = None) -> State[None]:
    """Publish one target to the repository that the catalog names for it.

    Safe to repeat: what stands there already is adopted, and nothing is uploaded twice.

    Args:
        family: name of a family in the catalog.
        target: name of one of its targets; it states ``publish_to``.
        claim: filled in by the watch; leave it empty when starting a run by hand.
    """
    upload = open_upload(family, target)
    with claimed(upload, claim) as held:
        if held is None:
            name, why = unclaimed(upload)
            return Completed(name=name, message=why)
        done = upload_files(upload)
    return Completed(name="Uploaded", message=f"{upload.name}: {done.how}, {done.tag} at commit {done.commit[:12]}")
