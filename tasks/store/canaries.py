"""Canaries: a part of a channel's requests for an artifact that is not switched to yet. And how promotions went.

A canary has a lease, so that a flow that dies leaves none behind, and the generation that it began at, so that a switch
ends it in the same transaction. One at a time for each channel.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, insert, select

from tasks.domain.errors import InputError, PromotionFailed
from tasks.domain.models import Digest
from tasks.domain.records import CanaryWish, PromotionStep
from tasks.store.claims import fence_problem
from tasks.store.database import Database
from tasks.store.tables import canaries, channels, promotion_steps


class Canaries(Database):
    """The part of the ledger that promotions are carried out by, before and after the switch."""

    def set_canary(
        self,
        channel: str,
        *,
        digest: Digest,
        weight: float,
        generation: int,
        owner: str,
        lease_seconds: float,
        languages: tuple[str, ...] = (),
        fence: int | None = None,
        claim_key: str | None = None,
    ) -> CanaryWish:
        """Want ``weight`` per cent of the requests answered by ``digest``; the same again renews the lease.

        Args:
            channel: the served name; it must serve something else now.
            digest: the artifact that is tried. It is not started by this: stage it.
            weight: more than 0, at most 100.
            generation: of the channel, as last seen.
            owner: whose canary it is. Another owner may take over the same artifact under a claim, else nobody may
                before the lease has ended.
            lease_seconds: how long it is kept without a renewal, by the ledger's clock.
            languages: in which answers are expected; none: the gateway does not look at them.
            fence: of the caller's claim; None where no claim is needed.
            claim_key: the job_key of that claim; given together with ``fence`` or not at all.

        Raises:
            PromotionFailed: the channel moved on, the claim was superseded, or another canary is under way; nothing
                was changed.
        """
        if not 0 < weight <= 100 or lease_seconds <= 0:
            raise InputError(
                f"a canary of {channel!r} was asked for with weight {weight} and a lease of {lease_seconds} s; "
                "expected more than 0 and at most 100, and more than 0"
            )
        if (fence is None) != (claim_key is None):
            raise InputError(f"canary of {channel!r}: fence is {fence} and claim_key is {claim_key}; give both or none")
        with self._write() as connection:
            now = self._now(connection)
            reached = connection.scalar(select(channels.c.generation).where(channels.c.channel == channel)) or 0
            before = connection.execute(select(canaries).where(canaries.c.channel == channel)).first()
            problems = []
            if reached == 0:
                problems.append("it serves nothing yet, so there is nothing to compare with")
            elif reached != generation:
                problems.append(f"it is at generation {reached}, and {generation} was expected")
            is_live = before is not None and before.lease_until > now and before.generation == reached
            # Under the newest claim of a job the same artifact is taken over: whoever tried it before is gone.
            mine = before is not None and before.digest == digest and (before.owner == owner or fence is not None)
            if before is not None and is_live and not mine:
                problems.append(
                    f"{before.digest[:12]} is tried on {before.weight:g} % by {before.owner} until "
                    f"{before.lease_until.isoformat(timespec='seconds')}"
                )
            if fence is not None and claim_key is not None and (told := fence_problem(connection, claim_key, fence)):
                problems.append(told)
            if problems:
                raise PromotionFailed(f"{digest[:12]} is not tried on channel {channel!r}", problems=problems)
            goes_on = before is not None and is_live and before.weight == weight
            wish = CanaryWish(
                channel=channel,
                digest=digest,
                weight=weight,
                languages=languages,
                generation=generation,
                owner=owner,
                at=before.at if before is not None and goes_on else now,
                lease_until=now + timedelta(seconds=lease_seconds),
            )
            connection.execute(delete(canaries).where(canaries.c.channel == channel))
            connection.execute(insert(canaries).values(**wish.model_dump() | {"languages": list(languages)}))
            return wish

    def end_canary(self, channel: str, digest: Digest, *, owner: str | None = None) -> bool:
        """Nobody is to be sent to ``digest`` any more: if ``owner`` wanted it, or whoever did; False if nobody was."""
        with self._write() as connection:
            mine = [canaries.c.channel == channel, canaries.c.digest == digest]
            mine += [canaries.c.owner == owner] if owner is not None else []
            return connection.execute(delete(canaries).where(*mine)).rowcount == 1

    def canary_of(self, channel: str) -> CanaryWish | None:
        """What is tried on a channel now, or None."""
        with self._read() as connection:
            wanted = canaries_wanted(connection, self._now(connection))
            return next((wish for wish in wanted if wish.channel == channel), None)

    def record_step(
        self,
        channel: str,
        step: str,
        *,
        generation: int,
        digest: Digest,
        ended: str,
        seconds: float,
        said: str = "",
        figures: Mapping[str, Any] | None = None,
        flow_run_id: str | None = None,
    ) -> PromotionStep:
        """Append how one step of a promotion ended; see PromotionStep."""
        with self._write() as connection:
            fact = PromotionStep.model_validate(
                {
                    **{"channel": channel, "step": step, "generation": generation, "digest": digest, "ended": ended},
                    **{"seconds": seconds, "said": said, "figures": dict(figures or {}), "flow_run_id": flow_run_id},
                    "at": self._now(connection),
                }
            )
            connection.execute(insert(promotion_steps).values(**fact.model_dump()))
            return fact

    def promotion_steps(
        self, channel: str, *, digest: Digest | None = None, generation: int | None = None
    ) -> list[PromotionStep]:
        """The steps of a channel's promotions, oldest first; of one artifact, from one generation on, if named."""
        asked = select(promotion_steps).where(promotion_steps.c.channel == channel).order_by(promotion_steps.c.id)
        if digest is not None:
            asked = asked.where(promotion_steps.c.digest == digest)
        if generation is not None:
            asked = asked.where(promotion_steps.c.generation == generation)
        with self._read() as connection:
            return [_step(row) for row in connection.execute(asked)]


def canaries_wanted(connection: Connection, now: datetime) -> tuple[CanaryWish, ...]:
    """What should be tried, inside the caller's transaction: leases that last, on channels that have not moved."""
    here = and_(channels.c.channel == canaries.c.channel, channels.c.generation == canaries.c.generation)
    asked = select(canaries).join(channels, here).where(canaries.c.lease_until > now).order_by(canaries.c.channel)
    return tuple(CanaryWish(**row._mapping) for row in connection.execute(asked))


def _step(row: Row[Any]) -> PromotionStep:
    return PromotionStep.model_validate({name: value for name, value in row._mapping.items() if name != "id"})
