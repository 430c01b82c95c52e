"""What agents should make true, and what they say is true. Leases, so that a dead flow leaves no model running."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from tasks.domain.errors import InputError
from tasks.domain.models import Digest, ModelRef
from tasks.domain.records import Desired, InstanceStatus, Wanted
from tasks.store.canaries import canaries_wanted
from tasks.store.channels import all_live
from tasks.store.database import Database
from tasks.store.tables import agents, canaries, instances, staged

LOCAL = "local"
"""The name of an agent where there is only one."""


class Serving(Database):
    """The part of the ledger that flows and agents talk through."""

    def want_staged(
        self,
        digest: Digest,
        channel: str,
        release: ModelRef | None = None,
        *,
        owner: str,
        lease_seconds: float,
        extra: Mapping[str, Any] | None = None,
    ) -> Wanted:
        """Ask for an artifact beside the live one, until the lease ends. Asking again renews and replaces ``extra``."""
        if lease_seconds <= 0:
            raise InputError(f"the lease on {digest[:12]} for {channel!r} is {lease_seconds} s; it must be more than 0")
        with self._write() as connection:
            now = self._now(connection)
            wanted = Wanted(
                digest=digest,
                channel=channel,
                release=release,
                owner=owner,
                wanted_at=now,
                lease_until=now + timedelta(seconds=lease_seconds),
                extra=dict(extra or {}),
            )
            connection.execute(delete(staged).where(staged.c.lease_until <= now))
            connection.execute(delete(staged).where(*_mine(digest, channel, owner)))
            names = release.model_dump() if release else {"repo_id": None, "revision": None}
            connection.execute(insert(staged).values(**wanted.model_dump(exclude={"release"}), **names))
            return wanted

    def renew_staged(self, digest: Digest, channel: str, owner: str, lease_seconds: float) -> bool:
        """Extend the lease; False if it ran out or was taken back: ask with ``want_staged`` again."""
        with self._write() as connection:
            now = self._now(connection)
            mine = (*_mine(digest, channel, owner), staged.c.lease_until > now)
            until = now + timedelta(seconds=lease_seconds)
            return connection.execute(update(staged).where(*mine).values(lease_until=until)).rowcount == 1

    def unstage(self, digest: Digest, channel: str, owner: str) -> bool:
        """Take the wish back; False if it was not there."""
        with self._write() as connection:
            return connection.execute(delete(staged).where(*_mine(digest, channel, owner))).rowcount == 1

    def unstage_all(self, owner: str) -> int:
        """Take back every wish of ``owner``, and what it tries on a channel; how many wishes there were."""
        with self._write() as connection:
            connection.execute(delete(canaries).where(canaries.c.owner == owner))
            return connection.execute(delete(staged).where(staged.c.owner == owner)).rowcount

    def desired(self) -> Desired:
        """All that should be running now."""
        with self._read() as connection:
            now = self._now(connection)
            asked = select(staged).where(staged.c.lease_until > now).order_by(staged.c.lease_until)
            longest = {(row.channel, row.digest): _wanted(row) for row in connection.execute(asked)}
            live, tried = all_live(connection), canaries_wanted(connection, now)
        return Desired(live=live, staged=tuple(longest[key] for key in sorted(longest)), canaries=tried, at=now)

    # --- agents ------------------------------------------------------------------------------------------------------
    def report_instances(self, statuses: Iterable[InstanceStatus], agent: str = LOCAL) -> None:
        """Replace all that ``agent`` said before.

        Raises:
            InputError: if two instances have one name.
        """
        rows = [{"agent": agent, "name": s.name, "status": s.model_dump(mode="json")} for s in statuses]
        counted = Counter(row["name"] for row in rows)
        if twice := sorted(f"{name}: {n} times" for name, n in counted.items() if n > 1):
            raise InputError(f"agent {agent!r} reported names more than once; a name is one instance", problems=twice)
        with self._write() as connection:
            connection.execute(delete(instances).where(instances.c.agent == agent))
            if rows:
                connection.execute(insert(instances), rows)

    def instances(self, agent: str | None = None) -> list[InstanceStatus]:
        """What agents said last, by name; of one agent if it is given."""
        asked = select(instances.c.status).order_by(instances.c.agent, instances.c.name)
        if agent is not None:
            asked = asked.where(instances.c.agent == agent)
        with self._read() as connection:
            return [InstanceStatus.model_validate(status) for status in connection.scalars(asked)]

    def agent_heartbeat(self, at: datetime | None = None, agent: str = LOCAL) -> None:
        """The agent is alive."""
        with self._write() as connection:
            seen = at or self._now(connection)
            known = connection.execute(update(agents).where(agents.c.agent == agent).values(seen_at=seen)).rowcount
            if not known:
                connection.execute(insert(agents).values(agent=agent, seen_at=seen))

    def agent_last_seen(self, agent: str = LOCAL) -> datetime | None:
        """The agent's last heartbeat, or None if it never had one."""
        with self._read() as connection:
            return connection.scalar(select(agents.c.seen_at).where(agents.c.agent == agent))


def _mine(digest: str, channel: str, owner: str) -> tuple[Any, ...]:
    return staged.c.digest == digest, staged.c.channel == channel, staged.c.owner == owner


def _wanted(row: Row[Any]) -> Wanted:
    values = {name: value for name, value in row._mapping.items() if name not in ("repo_id", "revision")}
    release = ModelRef(repo_id=row.repo_id, revision=row.revision) if row.repo_id else None
    return Wanted(**values, release=release)
