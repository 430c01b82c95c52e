"""Putting a model up beside the live one, for as long as somebody needs it there."""

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.domain.models import Digest, ModelRef
from tasks.domain.records import Wanted
from tasks.doors import open_endpoint
from tasks.endpoints.protocol import Ready
from tasks.packing import unpack_artifact
from tasks.renewal import Renewal
from tasks.runs import own_name
from tasks.settings import settings

REFERENCE = "reference"
"""Channel name under which parents are staged; nothing is ever promoted to it."""


@contextmanager
def staged(family: str, digest: Digest, channel: str, release: ModelRef | None) -> Iterator[Ready]:
    """An artifact, up and answering beside whatever is live, for as long as the block lasts."""
    endpoint, artifact = open_endpoint(family), unpack_artifact(digest)
    owner = own_name()
    lease = float(settings().lease_seconds)

    def want() -> Wanted:
        return endpoint.stage(artifact, channel=channel, owner=owner, release=release, lease_seconds=lease)

    wanted = want()
    renewal = Renewal(f"stage {channel}", lease / 4, lambda: bool(want()))
    try:
        yield endpoint.wait_ready(wanted, deadline_seconds=settings().stage_deadline_seconds)
    finally:
        renewal.end()
        endpoint.unstage(wanted)
