"""Channels: which artifact a served name stands for. The switch is the one commit point of publishing.

A channel's row holds only a generation; what that generation is stands in the promotion, which is a fact.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, desc, insert, select, update

from tasks.domain.errors import InputError, PromotionFailed
from tasks.domain.models import ChannelState, Digest, ModelRef
from tasks.domain.records import Live, PromotionFact, live_of
from tasks.store.claims import fence_problem
from tasks.store.database import Database
from tasks.store.tables import acknowledgements, canaries, channels, promotions, staged


class Channels(Database):
    """The part of the ledger that says what each channel serves."""

    def channel(self, name: str) -> ChannelState | None:
        """What the channel points at, or None if nothing was ever promoted to it."""
        with self._read() as connection:
            row = connection.execute(_pointer().where(channels.c.channel == name)).first()
            return None if row is None else _state(row)

    def channels(self) -> list[ChannelState]:
        """Every channel, by name."""
        with self._read() as connection:
            return [_state(row) for row in connection.execute(_pointer().order_by(channels.c.channel))]

    def switch_channel(
        self,
        name: str,
        *,
        digest: Digest,
        release: ModelRef,
        target: str,
        family: str,
        expected_generation: int,
        fence: int | None = None,
        claim_key: str | None = None,
        flow_run_id: str | None = None,
        reason: str = "",
        extra: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> ChannelState:
        """Point the channel at another artifact: one compare-and-swap on (generation, fence).

        Args:
            name: the channel.
            digest: the artifact to serve.
            release: the instruct release that it came from.
            target: what it was merged for.
            family: its family.
            expected_generation: what the caller last saw; 0 for a channel that was never switched.
            fence: of the caller's claim; None where no claim is needed, as in a rollback by hand.
            claim_key: the job_key of that claim; given together with ``fence`` or not at all.
            flow_run_id: recorded.
            reason: recorded, and shown to people.
            extra: how it is served (flags, device). Left out: as staged now, else as this digest was promoted last.
            more: goes into ``extra`` whatever that is: for how long what it replaces is kept warm.

        Returns:
            The state after the switch. If the digest is live already, the state as it is: nothing is written.

        Raises:
            PromotionFailed: if the channel moved on or the claim was superseded; nothing was changed.
        """
        if (fence is None) != (claim_key is None):
            raise InputError(f"switch of {name!r}: fence is {fence} and claim_key is {claim_key}; give both or neither")
        with self._write() as connection:
            row = connection.execute(_pointer().where(channels.c.channel == name)).first()
            if row is not None and row.artifact_digest == digest:
                return _state(row)
            generation = 0 if row is None else row.generation
            problems = []
            if generation != expected_generation:
                live = "nothing" if row is None else row.artifact_digest[:12]
                problems.append(f"it is at generation {generation} ({live}), and {expected_generation} was expected")
            if fence is not None and claim_key is not None:
                problem = fence_problem(connection, claim_key, fence)
                problems += [problem] if problem else []
            if problems:
                raise PromotionFailed(
                    f"channel {name!r} was not switched to {digest[:12]}; judge again against what is live now",
                    problems=problems,
                )
            fact = PromotionFact(
                channel=name,
                generation=generation + 1,
                artifact_digest=digest,
                previous_digest=None if row is None else row.artifact_digest,
                release=release,
                target=target,
                family=family,
                at=self._now(connection),
                reason=reason,
                flow_run_id=flow_run_id,
                claim_key=claim_key,
                fence=fence,
                extra={**(_extra(connection, name, digest) if extra is None else extra), **(more or {})},
            )
            values = {**fact.model_dump(exclude={"release"}), **release.model_dump()}
            connection.execute(insert(promotions).values(**values))
            connection.execute(delete(canaries).where(canaries.c.channel == name))
            if row is None:
                connection.execute(insert(channels).values(channel=name, generation=1, acknowledged_generation=0))
            else:
                connection.execute(
                    update(channels).where(channels.c.channel == name).values(generation=fact.generation)
                )
            return _state(connection.execute(_pointer().where(channels.c.channel == name)).one())

    def promotions(self, channel: str) -> list[PromotionFact]:
        """Every switch of ``channel``, newest first."""
        asked = select(promotions).where(promotions.c.channel == channel).order_by(desc(promotions.c.generation))
        with self._read() as connection:
            return [promotion_of(row) for row in connection.execute(asked)]

    def served_before(self, channel: str) -> list[PromotionFact]:
        """The last switch of ``channel`` to each artifact but the one that it points at now, newest first.

        A switch that the gateway never routed by was taken back: nobody was served by it, and it is nothing to go back
        to. Where the gateway has spoken of none of them, all are told.
        """
        switches, seen = self.promotions(channel), self.visible_since(channel)
        live = {switch.artifact_digest for switch in switches[:1]}
        before: dict[Digest, PromotionFact] = {}
        for switch in switches:
            if switch.artifact_digest not in live and (switch.generation in seen or not seen):
                before.setdefault(switch.artifact_digest, switch)
        return list(before.values())

    def releases_served(self, channel: str) -> set[tuple[str, str]]:
        """Repository and revision of every release that ``channel`` has ever served."""
        asked = select(promotions.c.repo_id, promotions.c.revision).where(promotions.c.channel == channel).distinct()
        with self._read() as connection:
            return {(repo_id, revision) for repo_id, revision in connection.execute(asked)}

    def acknowledge(self, channel: str, generation: int, at: datetime | None = None) -> ChannelState:
        """The gateway routes by ``generation`` now. An older one than acknowledged changes nothing.

        Raises:
            InputError: for an unknown channel, or a generation that was never reached.
        """
        with self._write() as connection:
            row = connection.execute(_pointer().where(channels.c.channel == channel)).first()
            if row is None or generation > row.generation:
                reached = "it was never switched" if row is None else f"it is at generation {row.generation}"
                raise InputError(f"generation {generation} of channel {channel!r} cannot be acknowledged: {reached}")
            if generation > row.acknowledged_generation:
                seen = {"acknowledged_generation": generation, "acknowledged_at": at or self._now(connection)}
                connection.execute(update(channels).where(channels.c.channel == channel).values(**seen))
                fact = {"channel": channel, "generation": generation, "at": seen["acknowledged_at"]}
                connection.execute(insert(acknowledgements).values(**fact))
            return _state(connection.execute(_pointer().where(channels.c.channel == channel)).one())

    def visible_since(self, channel: str) -> dict[int, datetime]:
        """Generation -> when the gateway first said that it routes by it; none for one that was skipped."""
        asked = select(acknowledgements).where(acknowledgements.c.channel == channel)
        with self._read() as connection:
            return {row.generation: row.at for row in connection.execute(asked)}


def all_live(connection: Connection) -> tuple[Live, ...]:
    """What the channels want served, inside the caller's transaction."""
    return tuple(_live(connection, row) for row in connection.execute(_pointer().order_by(channels.c.channel)).all())


def _live(connection: Connection, row: Row[Any]) -> Live:
    mine = (promotions.c.channel == row.channel, promotions.c.artifact_digest == row.previous_digest)
    asked = select(promotions).where(*mine, promotions.c.generation < row.generation)
    before = connection.execute(asked.order_by(desc(promotions.c.generation)).limit(1)).first()
    if before is None:
        return live_of(_state(row), row.extra)
    return live_of(_state(row), row.extra, ModelRef(repo_id=before.repo_id, revision=before.revision), before.extra)


def _pointer() -> Any:
    here = and_(promotions.c.channel == channels.c.channel, promotions.c.generation == channels.c.generation)
    return select(promotions, channels.c.acknowledged_generation).join_from(channels, promotions, here)


def _extra(connection: Connection, channel: str, digest: str) -> Mapping[str, Any]:
    up = select(staged.c.extra).where(staged.c.channel == channel, staged.c.digest == digest)
    before = select(promotions.c.extra).where(promotions.c.channel == channel, promotions.c.artifact_digest == digest)
    now = connection.scalar(up.order_by(desc(staged.c.lease_until)).limit(1))
    found = now if now is not None else connection.scalar(before.order_by(desc(promotions.c.generation)).limit(1))
    return dict(found or {})


def _state(row: Row[Any]) -> ChannelState:
    return ChannelState(
        channel=row.channel,
        generation=row.generation,
        artifact_digest=row.artifact_digest,
        release=ModelRef(repo_id=row.repo_id, revision=row.revision),
        target=row.target,
        family=row.family,
        switched_at=row.at,
        previous_digest=row.previous_digest,
        acknowledged_generation=row.acknowledged_generation,
    )


def promotion_of(row: Row[Any]) -> PromotionFact:
    """A row of the table of promotions, as a noun."""
    values = {name: value for name, value in row._mapping.items() if name not in ("repo_id", "revision")}
    return PromotionFact(**values, release=ModelRef(repo_id=row.repo_id, revision=row.revision))
