"""Which of two versions answers a request while a new one is tried on a part of the traffic. Pure."""

import hashlib


def share_of(channel: str, artifact: str, request: bytes) -> float:
    """Where a request lies between 0 and 100; the new version answers those below its weight.

    The same request lies at the same place for as long as the same artifact is tried, so weights that grow from 5 to
    50 to 100 move requests to the new version and never back; and another artifact is tried on other requests.

    Args:
        channel: the served name.
        artifact: digest of the version that is tried.
        request: what stays the same for requests that belong together: a session's id, else the request's id, else
            its body.
    """
    hashed = hashlib.blake2b(request, digest_size=8, key=f"{channel}@{artifact[:12]}".encode()).digest()
    return int.from_bytes(hashed, "big") / 2**64 * 100
