"""When there is no room on the cluster: how long that is waited for, and what gives way then.

A node may have to be started, which takes minutes, so an instance that no node takes is first of all waited for. Then
the least important instance that stands goes, one at a time. What answers people goes only for its own channel's next
version, after a switch: that is the stated policy (recreate), and a dead node is no reason for it.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from tasks.endpoints.wishes import Wish

FORGOTTEN_SECONDS = 600.0
"""An instance for which there was no room a moment ago, as a candidate, is not waited for anew once it is live."""


class Room:
    """Which instances have waited too long. Names are the instances', ``eu-3f2a00112233``."""

    def __init__(self, patience_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_seconds = patience_seconds
        self._clock = clock
        self._since: dict[str, float] = {}
        self._last: dict[str, float] = {}

    def note(self, homeless: Collection[str], placed: Collection[str]) -> None:
        """What the last look has shown: those that no node takes, and those that a node has taken."""
        now = self._clock()
        for name in homeless:
            self._since.setdefault(name, now)
            self._last[name] = now
        for name in list(self._since):
            if name in placed or now - self._last[name] > FORGOTTEN_SECONDS:
                del self._since[name], self._last[name]

    def too_long(self) -> set[str]:
        """Those that have been waited for long enough."""
        now = self._clock()
        return {name for name, since in self._since.items() if now - since >= self.patience_seconds}


def gives_way(
    wishes: Sequence[Wish],
    *,
    homeless: Collection[str],
    standing: Collection[str],
    answering: Mapping[str, str],
    pending: Collection[str],
) -> str:
    """Which instance goes, so that a more important one may have its room; "" for none. Pure.

    Args:
        wishes: all of them, the most important first.
        homeless: names of those that have waited too long.
        standing: names of those that take room.
        answering: which instance answers each channel at this moment.
        pending: channels whose last switch is not visible yet.
    """
    in_use = set(answering.values())
    for place, wish in enumerate(wishes):
        if wish.name not in homeless:
            continue
        for other in wishes[:place:-1]:  # the least important one first
            is_own = wish.keep == "live" and wish.channel in pending and answering.get(wish.channel) == other.name
            if other.name in standing and (other.name not in in_use or is_own):
                return other.name
    return ""
