"""Putting a model up beside the live one, for as long as somebody needs it there."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tasks.domain.errors import EndpointUnavailable
from tasks.domain.models import Digest, ModelRef
from tasks.domain.records import Wanted
from tasks.doors import open_endpoint, open_ledger
from tasks.endpoints.protocol import Endpoint, Ready
from tasks.endpoints.wishes import WAITS_FOR_ROOM, instance_name
from tasks.packing import unpack_artifact
from tasks.renewal import Renewal
from tasks.runs import own_name
from tasks.settings import settings

REFERENCE = "reference"
"""Channel name under which parents are staged; nothing is ever promoted to it."""


NO_ROOM_SECONDS = 15.0
"""What is told to wait for room for so long is not waiting for another candidate that is about to end."""
LOOK_SECONDS = 5.0


class NoRoom(EndpointUnavailable):
    """It does not fit beside what is live."""


@contextmanager
def staged(
    family: str,
    digest: Digest,
    channel: str,
    release: ModelRef | None,
    *,
    needs_room: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Iterator[Ready]:
    """An artifact, up and answering beside whatever is live, for as long as the block lasts.

    Args:
        family: as which it is served.
        digest: the artifact.
        channel: beside which it is served.
        release: recorded, and shown.
        extra: how it is served, where that is on record; None: as the family's catalog says now.
        needs_room: give up soon where it does not fit, instead of waiting for other candidates to end.

    Raises:
        NoRoom: it does not fit, and ``needs_room``.
        ModelRefused: it cannot be served.
        EndpointUnavailable: it was not ready in time.
    """
    endpoint, artifact = open_endpoint(family), unpack_artifact(digest)
    owner = own_name()
    lease = float(settings().lease_seconds)

    def want() -> Wanted:
        if extra is not None:
            return open_ledger().want_staged(
                digest, channel, release, owner=owner, lease_seconds=lease, extra=dict(extra)
            )
        return endpoint.stage(artifact, channel=channel, owner=owner, release=release, lease_seconds=lease)

    wanted = want()
    renewal = Renewal(f"stage {channel}", lease / 4, lambda: bool(want()))
    try:
        deadline = settings().stage_deadline_seconds
        yield _in_time(endpoint, wanted) if needs_room else endpoint.wait_ready(wanted, deadline_seconds=deadline)
    finally:
        renewal.end()
        endpoint.unstage(wanted)


def _in_time(endpoint: Endpoint, wanted: Wanted) -> Ready:
    until, without_room = time.monotonic() + settings().stage_deadline_seconds, 0.0
    while True:
        try:
            return endpoint.wait_ready(wanted, deadline_seconds=LOOK_SECONDS)
        except EndpointUnavailable as error:
            said = [
                one for one in open_ledger().instances() if one.name == instance_name(wanted.channel, wanted.digest)
            ]
            is_waiting = any(one.reason.startswith(WAITS_FOR_ROOM) for one in said)
            without_room = without_room + LOOK_SECONDS if is_waiting else 0.0
            if without_room >= NO_ROOM_SECONDS:
                raise NoRoom(f"{said[0].name} {said[0].reason}") from error
            if time.monotonic() >= until:
                raise
