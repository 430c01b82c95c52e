"""Facts about identity: what judged models said to fixed prompts, and what the audits of the channels found."""

from typing import Any

from sqlalchemy import Row, desc, insert, select

from tasks.domain.audit import AuditFact
from tasks.domain.models import Digest
from tasks.domain.outputs import ReferenceOutputs
from tasks.store.database import Database
from tasks.store.tables import audits, reference_outputs


class OutputFacts(Database):
    """The part of the ledger that knows by what a model is known again."""

    def record_outputs(self, outputs: ReferenceOutputs) -> bool:
        """Record what a model said when it was judged; False if that is on record. The first ones stay for good."""
        same = reference_outputs.c.key == outputs.key
        with self._write() as connection:
            if connection.execute(select(reference_outputs.c.key).where(same)).first():
                return False
            values = outputs.model_dump(mode="json")
            connection.execute(insert(reference_outputs).values(**values, at=self._now(connection)))
            return True

    def outputs_of(self, key: Digest) -> ReferenceOutputs | None:
        """What was recorded under this key, or None."""
        with self._read() as connection:
            row = connection.execute(select(reference_outputs).where(reference_outputs.c.key == key)).first()
            return None if row is None else ReferenceOutputs.model_validate(_without(row, "at"))

    def record_audit(self, audit: AuditFact) -> None:
        """Record what one look at one channel found."""
        with self._write() as connection:
            connection.execute(insert(audits).values(**audit.model_dump(mode="python")))

    def audits(self, channel: str | None = None, *, limit: int = 100) -> list[AuditFact]:
        """The newest audits, newest first; of one channel if it is given."""
        asked = select(audits).order_by(desc(audits.c.id)).limit(limit)
        if channel is not None:
            asked = asked.where(audits.c.channel == channel)
        with self._read() as connection:
            return [AuditFact.model_validate(_without(row, "id")) for row in connection.execute(asked)]


def _without(row: Row[Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row._mapping.items() if key != name}
