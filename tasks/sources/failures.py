"""Every way that ``huggingface_hub`` can fail, told in the pipeline's two words: refused, or unavailable for now.

The client's errors overlap (its HTTP error is an OSError, a failed look-up before a download is a FileNotFoundError
with the reason as its cause), so they are sorted out here and nowhere else.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tasks.domain.errors import DiskFull, HubUnavailable, InputError, ModelRefused, PipelineError
from tasks.sources.calls import Calls

Answer = TypeVar("Answer")

TRIES = 3
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 5.0
"""A source that asks for more is reported instead: the flow's own retry waits without holding a worker."""


class HubBusy(HubUnavailable):
    """The source answered, but asked us to come back later or failed on its side."""

    def __init__(self, message: str, retry_after_seconds: float | None) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class AccessRefused(ModelRefused):
    """The model is there and may not be read by us: its terms were not accepted, or no token was given."""


@contextmanager
def translated(what: str, endpoint: str) -> Iterator[None]:
    """Let out only errors of the pipeline.

    Args:
        what: the repository (and file) that is asked for, as a message should name it.
        endpoint: whom we ask.
    """
    try:
        yield
    except PipelineError:
        raise
    except HFValidationError as error:
        raise ModelRefused(f"{what}: not a repository id that {endpoint} can have: {error}") from error
    except OfflineModeIsEnabled as error:
        raise InputError(
            f"{what}: HF_HUB_OFFLINE=1 forbids every request, also to {endpoint}. Unset it for this process."
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise _explained(error, what, endpoint) from error


def _explained(error: Exception, what: str, endpoint: str) -> PipelineError:
    cause = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return _of_status(error, what, endpoint)
    if isinstance(cause, HfHubHTTPError):
        return _of_status(cause, what, endpoint)
    if isinstance(error, httpx2.HTTPError) or isinstance(cause, httpx2.HTTPError):
        reason = error if isinstance(error, httpx2.HTTPError) else cause
        return HubUnavailable(f"{what}: no answer from {endpoint} ({type(reason).__name__}: {reason})")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{what}: the disk filled up while downloading ({error}). Make room; it is tried again.")
    if isinstance(error, OSError) and error.errno is None:
        # The client's word for "fewer or more bytes than stated"; and for a server that is no Hub at all.
        return ModelRefused(f"{what} at {endpoint}: {str(error).splitlines()[0]}")
    return InputError(f"{what}: cannot write what {endpoint} sent: {error}")


def _of_status(error: HfHubHTTPError, what: str, endpoint: str) -> PipelineError:
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return ModelRefused(f"{what}: {endpoint} has no such revision (HTTP {status}). Pin one that is there.")
    if isinstance(error, EntryNotFoundError):
        return ModelRefused(f"{what}: {endpoint} has no such file (HTTP {status})")
    if isinstance(error, GatedRepoError):
        return AccessRefused(
            f"{what}: gated at {endpoint} (HTTP {status}). Accept the licence there, and set EMPELT_HUB_TOKEN to a "
            "token that may read it."
        )
    if isinstance(error, DisabledRepoError):
        return ModelRefused(f"{what}: disabled by {endpoint} (HTTP {status})")
    if isinstance(error, RepositoryNotFoundError):
        return ModelRefused(f"{what}: {endpoint} has no such repository, or it is private (HTTP {status})")
    if status in (408, 429) or status >= 500:
        wait = _retry_after_seconds(error)
        told = f"; it asks to come back in {wait:g} s" if wait is not None else ""
        return HubBusy(f"{what}: {endpoint} answered HTTP {status}{told}", wait)
    reason = error.server_message or error.response.reason_phrase
    return ModelRefused(f"{what}: {endpoint} answered HTTP {status} ({reason})")


def _retry_after_seconds(error: HfHubHTTPError) -> float | None:
    """From ``Retry-After: 7``, or the Hub's own ``RateLimit: "api";r=0;t=7``."""
    headers = error.response.headers
    stated = headers.get("Retry-After", "")
    if not stated:
        parts = dict(part.strip().partition("=")[::2] for part in headers.get("RateLimit", "").split(";"))
        stated = parts.get("t", "") if parts.get("r") == "0" else ""
    return float(stated) if stated.strip().isdigit() else None


def with_retries(call: Callable[[], Answer], calls: Calls | None = None) -> Answer:
    """Call a few times while the source is unavailable; a refusal is final at once. Pauses are noted in ``calls``.

    The client itself repeats only some calls, and there sleeps as long as the server says: up to five times
    Retry-After, in a worker. So no call here goes through its back-off.
    """
    wait = FIRST_WAIT_SECONDS
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except HubUnavailable as error:
            asked = error.retry_after_seconds if isinstance(error, HubBusy) else None
            if calls is not None:
                calls.not_now()
            if attempt == TRIES or (asked or 0) > LONGEST_WAIT_SECONDS:
                raise
            pause = wait if asked is None else asked
            time.sleep(pause)
            if calls is not None:
                calls.waited(pause)
            wait *= 3
    raise AssertionError("unreachable: the last attempt returns or raises")
