"""What the agent says to the ledger: that it is alive, and what each of its instances does."""

import time
from collections.abc import Sequence

from tasks.domain.records import InstanceStatus
from tasks.endpoints.protocol import DesiredState

HEARTBEAT_SECONDS = 2.0
REPORT_SECONDS = 5.0
"""Said again even when nothing has changed, so that a ledger that was put back from a backup fills up."""


class Report:
    """Writes little: one write of the ledger is about 4 ms of fsync, and rounds come every 0.3 s."""

    def __init__(self, state: DesiredState, agent: str) -> None:
        self._state = state
        self._agent = agent
        self._last_heartbeat = 0.0
        self._last_report = 0.0
        self._said: list[InstanceStatus] = []

    def beat(self) -> None:
        """A heartbeat, when it is time for one."""
        if time.monotonic() - self._last_heartbeat >= HEARTBEAT_SECONDS:
            self._state.agent_heartbeat(agent=self._agent)
            self._last_heartbeat = time.monotonic()

    def instances(self, statuses: Sequence[InstanceStatus]) -> None:
        """Every instance, when one has changed or it is time to say it again."""
        now = time.monotonic()
        if list(statuses) != self._said or now - self._last_report >= REPORT_SECONDS:
            self._state.report_instances(statuses, agent=self._agent)
            self._said, self._last_report = list(statuses), now
