"""What became of each tuned base: appended when a command or a collection has changed something, never before."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select

from tasks.domain.records import BaseChange, BaseChangeKind
from tasks.store.database import Database
from tasks.store.tables import base_changes


class BaseFacts(Database):
    """The part of the ledger that keeps the history of tuned bases. What holds now is in the catalog."""

    def record_base_change(
        self,
        family: str,
        language: str,
        change: BaseChangeKind,
        *,
        repo_id: str,
        revision: str | None = None,
        digest: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one change.

        Args:
            family: in whose catalog the base stands.
            language: its code there.
            change: what was done.
            repo_id: of the base, after the change.
            revision: the exact state; None where the catalog follows the head.
            digest: content digest of that state, where it is known.
            details: what else should be remembered, as JSON: the state before, the distances, the ratio.
        """
        with self._write() as connection:
            values: dict[str, Any] = {"family": family, "language": language, "change": change, "repo_id": repo_id}
            values |= {"revision": revision, "digest": digest, "details": dict(details or {})}
            connection.execute(insert(base_changes).values(**values, at=self._now(connection)))

    def base_changes(self, family: str, language: str | None = None) -> list[BaseChange]:
        """Every change on record of a family's tuned bases, oldest first; of one language if it is given."""
        asked = select(base_changes).where(base_changes.c.family == family).order_by(base_changes.c.id)
        if language is not None:
            asked = asked.where(base_changes.c.language == language)
        with self._read() as connection:
            rows = [row._mapping for row in connection.execute(asked)]
        return [BaseChange.model_validate({k: v for k, v in row.items() if k != "id"}) for row in rows]
