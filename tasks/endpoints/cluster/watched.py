"""One instance that should run, and what has been seen of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tasks.domain.records import InstanceState, InstanceStatus
from tasks.endpoints.cluster.fleet import Listed
from tasks.endpoints.instances import REFUSED
from tasks.endpoints.profile import ServingProfile
from tasks.endpoints.wishes import WAITS_FOR_ROOM, Wish

IN_A_POD = "not seen: its processes are in a pod, whose volume shows this artifact only and was hashed before the start"
"""What is said of the weight files that are mapped."""


@dataclass
class Watched:
    """The reconciler moves it on, once in each of its rounds."""

    wish: Wish
    profile: ServingProfile
    state: InstanceState = "starting"
    reason: str = "new"
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    address: str = ""
    served: Mapping[str, str] = field(default_factory=dict)
    """Image and flags of what stands."""
    no_room: bool = False
    is_placed: bool = False
    """A node has its pod."""
    refusal: str = ""
    """What the cluster says against its objects."""
    spent: str = ""
    """uid of the Deployment that came to nothing: another one is another try."""

    @property
    def given_up(self) -> bool:
        """A staged one that has failed must not keep a device; it is tried again when it is asked for again."""
        return self.state == "failed" and self.wish.keep == "staged"

    def renew(self, wish: Wish) -> None:
        """The wish of this round."""
        asked_again = wish.asked_at is not None and wish.asked_at > self.since
        was_given_up, self.wish = self.given_up, wish
        if was_given_up and asked_again:
            self._move("starting", "asked for again")

    def update(self, listed: Mapping[str, Listed]) -> None:
        """What the last look at the cluster has shown."""
        if self.given_up:
            return
        there = listed.get(self.wish.name)
        self.served = there.served if there is not None else {}
        self.no_room = self.is_placed = False
        if there is None or "Deployment" not in there.objects:
            self.address = ""
            self._move("starting", self.refusal or "its Deployment has yet to be made")
        elif there.is_going or there.uid == self.spent:
            self.address = ""
            self._move("starting", f"waits until the one before it is gone: {there.seen.reason}")
        else:
            self.address, self.no_room = there.seen.address, there.seen.no_room
            self.is_placed = bool(there.seen.pod) and not self.no_room
            told = f"{REFUSED}{there.seen.reason}" if there.seen.refused else there.seen.reason
            self._move(there.seen.state, self.refusal or told)
            if there.seen.state == "failed":
                self.spent = there.uid if self.wish.keep == "staged" else ""

    def status(self, image: str) -> InstanceStatus:
        """As the ledger records it."""
        return InstanceStatus(
            name=self.wish.name,
            digest=self.wish.digest,
            channel=self.wish.channel,
            state=self.state,
            reason=self.reason,
            since=self.since,
            mode="pod",
            serving={**self.profile.facts(image=image), **self.served},
            model_name=f"{self.wish.channel}@{self.wish.digest[:12]}",
            mapped=IN_A_POD if self.state == "ready" else "",
        )

    def wait_for_room(self) -> None:
        """Nothing that is less important can give way for it any more."""
        if self.no_room and not self.reason.startswith(WAITS_FOR_ROOM):
            self._move("starting", f"{WAITS_FOR_ROOM}: {self.reason}")

    def _move(self, state: InstanceState, reason: str) -> None:
        if state != self.state:
            self.since = datetime.now(UTC)
        self.state, self.reason = state, reason
