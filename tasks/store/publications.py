"""Facts about publications: which artifact stands in which repository of a Hub, under which commit and tag."""

from typing import Any

from sqlalchemy import Row, Select, desc, insert, select

from tasks.domain.errors import InputError
from tasks.domain.models import Digest
from tasks.domain.publication import Publication
from tasks.store.database import Database
from tasks.store.tables import publications


class PublicationFacts(Database):
    """The part of the ledger that knows what was published."""

    def record_publication(self, done: Publication) -> bool:
        """Record a publication; False if this merge is on record at this place.

        Raises:
            InputError: it is on record with another artifact or another commit. The first one stays.
        """
        with self._write() as connection:
            row = connection.execute(_at(done.endpoint, done.repo_id, done.merge_key)).first()
            if row is None:
                connection.execute(insert(publications).values(**done.model_dump()))
                return True
        known = _publication(row)
        if (known.digest, known.commit) != (done.digest, done.commit):
            raise InputError(
                f"{done.tag} of {done.repo_id} at {done.endpoint} is on record as artifact {known.digest[:12]}, commit "
                f"{known.commit[:12]}, and now is artifact {done.digest[:12]}, commit {done.commit[:12]}: the recorded "
                "one stays. Find out who moved the tag"
            )
        return False

    def publication(self, endpoint: str, repo_id: str, merge_key: Digest) -> Publication | None:
        """What was published of this merge at this place, or None."""
        with self._read() as connection:
            row = connection.execute(_at(endpoint, repo_id, merge_key)).first()
            return None if row is None else _publication(row)

    def publications(self, digest: Digest | None = None) -> list[Publication]:
        """All of them, newest first; of one artifact if it is given."""
        asked = select(publications).order_by(desc(publications.c.id))
        if digest is not None:
            asked = asked.where(publications.c.digest == digest)
        with self._read() as connection:
            return [_publication(row) for row in connection.execute(asked)]


def _at(endpoint: str, repo_id: str, merge_key: Digest) -> Select[Any]:
    place = publications.c.endpoint == endpoint, publications.c.repo_id == repo_id
    return select(publications).where(*place, publications.c.merge_key == merge_key)


def _publication(row: Row[Any]) -> Publication:
    return Publication.model_validate({name: value for name, value in row._mapping.items() if name != "id"})
