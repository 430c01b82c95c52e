"""Facts about searches for a recipe: what was heard of each candidate, and what a search chose."""

from typing import Any

from sqlalchemy import desc, insert, select

from tasks.domain.models import Digest
from tasks.domain.search import SearchFact
from tasks.store.database import Database
from tasks.store.tables import hearings, searches


class SearchFacts(Database):
    """The part of the ledger that knows searches. A model is heard once, and a search chooses once."""

    def record_hearing(self, key: Digest, artifact_digest: Digest, found: Any) -> bool:
        """Record what a model was heard to say or to need; False if that is on record. The first one stays for good."""
        with self._write() as connection:
            if connection.execute(select(hearings.c.key).where(hearings.c.key == key)).first():
                return False
            values = {"key": key, "artifact_digest": artifact_digest, "found": found}
            connection.execute(insert(hearings).values(**values, at=self._now(connection)))
            return True

    def hearing(self, key: Digest) -> Any | None:
        """What was recorded under this key, or None."""
        with self._read() as connection:
            return connection.scalar(select(hearings.c.found).where(hearings.c.key == key))

    def record_search(self, fact: SearchFact) -> bool:
        """Record what a search chose; False if it has chosen. What it chose first stays for good."""
        with self._write() as connection:
            if connection.execute(select(searches.c.key).where(searches.c.key == fact.key)).first():
                return False
            connection.execute(insert(searches).values(**fact.model_dump(mode="json"), at=self._now(connection)))
            return True

    def search(self, key: Digest) -> SearchFact | None:
        """What a search chose, or None."""
        with self._read() as connection:
            row = connection.execute(select(searches).where(searches.c.key == key)).first()
            return None if row is None else _fact(row._mapping)

    def search_for(self, chosen: Digest) -> SearchFact | None:
        """The newest search that chose the recipe of this merge_key, or None."""
        asked = select(searches).where(searches.c.chosen == chosen).order_by(desc(searches.c.at)).limit(1)
        with self._read() as connection:
            row = connection.execute(asked).first()
            return None if row is None else _fact(row._mapping)


def _fact(row: Any) -> SearchFact:
    return SearchFact.model_validate({name: value for name, value in row.items() if name != "at"})
