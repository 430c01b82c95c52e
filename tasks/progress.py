"""The progress of work in a child process, as one artifact of its run that is kept up to date."""

import time
from collections.abc import Callable
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.child import Event
from tasks.domain.words import pace

SECONDS_BETWEEN = 1.0
"""Of two updates: each is a request to Prefect's server, and the child speaks ten times a second."""


class ProgressBar:
    """A progress artifact: a percentage, and in its description bytes, rate and time left."""

    def __init__(self, key: str, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the artifact, at 0 %.

        Args:
            key: of the artifact, as ``page_key`` makes it.
            name: what is done, such as ``Merge llama-tiny-instruct-v2 x eu``; begins every description.
            clock: seconds.
        """
        self._name = name
        self._clock = clock
        self._artifact = cast(UUID, create_progress_artifact(0.0, key=key, description=name))
        self._began: tuple[float, int] | None = None
        self._next = float("-inf")
        self._ended = False

    def __call__(self, event: Event) -> None:
        """Take an event of the child: ``progress`` with ``done`` and ``total`` in bytes; others are passed over.

        At most one update a second. The last one is always shown, and once.
        """
        if event["event"] != "progress" or not event.get("total"):
            return
        now, done, total = self._clock(), int(event["done"]), int(event["total"])
        if self._began is None:  # from here on, since a child first imports for seconds
            self._began = (now, done)
        if self._ended or (now < self._next and done < total):
            return
        self._next, self._ended = now + SECONDS_BETWEEN, done >= total
        since, before = self._began
        self._show(100.0 * done / total, str(pace(done, total, began=before, seconds=now - since)))

    def end(self, told: str) -> None:
        """The work is done: 100 %, and ``told`` about it."""
        self._show(100.0, told)

    def _show(self, percent: float, told: str) -> None:
        update_progress_artifact(self._artifact, percent, description=f"{self._name}: {told}")
