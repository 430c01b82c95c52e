"""The virtual clock: a year passes in minutes, and everything that asks for the time is told this one."""

from datetime import UTC, datetime, timedelta, tzinfo

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A moment that only moves forward."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> datetime:
        """As the ledger asks for it."""
        return self.at

    def to(self, at: datetime) -> None:
        """Go on to ``at``; nothing happens if that has passed."""
        self.at = max(self.at, at)

    def sleep(self, seconds: float) -> None:
        """In the place of ``time.sleep``."""
        self.at += timedelta(seconds=seconds)

    def type(self) -> type[datetime]:
        """A ``datetime`` whose ``now`` is this clock, for modules that ask it directly."""
        clock = self

        class VirtualDatetime(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                """This clock's moment."""
                return clock.at.astimezone(tz)

        return VirtualDatetime
