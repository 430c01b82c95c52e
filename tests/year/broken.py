"""What the oracle must see: the simulation without one of the product's protections. Nothing of the product is changed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tasks.domain.records import Claim, Turn
from tasks.sources.protocol import RepoState
from tasks.store.ledger import Ledger
from tests.year.hub import SimulatedSource


class WatermarkSource(SimulatedSource):
    """Tells only what was created or changed since it was asked last, as a detection by dates would ask for it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._asked: dict[str, datetime] = {}

    def list_organisation(self, organisation: str) -> list[RepoState]:
        rows = super().list_organisation(organisation)
        since, now = self._asked.get(organisation), self._clock.at
        # Two hours back, so that what has to settle is seen again.
        found = [row for row in rows if since is None or (since - row.last_modified).total_seconds() < 7200]
        self._asked[organisation] = now
        return found


class Claimless(Ledger):
    """Grants every claim, whoever holds the job, and every turn."""

    def claim(
        self,
        job_key: str,
        owner: str,
        lease_seconds: float,
        description: Mapping[str, Any] | None = None,
        *,
        only_open: bool = False,
    ) -> Claim | None:
        for held in self.live_claims():
            if held.job_key == job_key:
                self.release(held)
        return super().claim(job_key, owner, lease_seconds, description)

    def take_turn(self, name: str, owner: str, lease_seconds: float) -> Turn | None:
        if (held := self.turn_of(name)) is not None:
            self.end_turn(held)
        return super().take_turn(name, owner, lease_seconds)
