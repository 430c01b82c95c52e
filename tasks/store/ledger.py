"""The ledger: one door to all facts, claims, channels and desired state. SQLite on one host, PostgreSQL on many.

    facts       facts.py (models), jobs.py (jobs, approvals), judgements.py (scores, verdicts, ends, holds), bases.py
                (what became of tuned bases), publications.py (what stands on a Hub), outputs.py (what judged
                models said, and whether that is what channels answer), searches.py (for a recipe, and what was
                heard of its candidates): appended, never changed
    at once     glance.py: what a watch asks about all jobs and repositories in a few queries
    what moves  claims.py, turns.py, channels.py, canaries.py (and how promotions went), serving.py, polls.py
    below       database.py (transactions, schema), tables.py, migrations/

It never copies Prefect's states: a job is due when its fact is missing and no live claim exists.
"""

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from sqlalchemy.engine import URL

from tasks.store.bases import BaseFacts
from tasks.store.canaries import Canaries
from tasks.store.channels import Channels
from tasks.store.claims import Claims
from tasks.store.database import connect, migrate
from tasks.store.facts import Merged, ModelFacts
from tasks.store.glance import Glances
from tasks.store.jobs import JobFacts
from tasks.store.judgements import JudgementFacts
from tasks.store.outputs import OutputFacts
from tasks.store.polls import Polls
from tasks.store.publications import PublicationFacts
from tasks.store.searches import SearchFacts
from tasks.store.serving import Serving
from tasks.store.turns import Turns
from tasks.store.views import Views

__all__ = ["Ledger", "Merged"]


class Ledger(
    ModelFacts,
    JobFacts,
    JudgementFacts,
    BaseFacts,
    PublicationFacts,
    OutputFacts,
    SearchFacts,
    Glances,
    Claims,
    Turns,
    Channels,
    Canaries,
    Serving,
    Polls,
    Views,
):
    """An open ledger. Share one between threads; open one in each process."""

    @classmethod
    def open(cls, url: str | URL, *, now: Callable[[], datetime] | None = None) -> Self:
        """Open the ledger at ``url``, making or upgrading its schema where needed.

        Args:
            url: ``sqlite:////absolute/path`` or ``postgresql://user:password@host:port/name``.
            now: another clock, for tests and simulations. Left out: the PostgreSQL server's, which all hosts share,
                and this host's for a SQLite file, which no other host opens.

        Raises:
            InputError: if this is no ledger, or one of a newer version.
            TransientError: if the database does not answer.
        """
        ledger = cls(connect(url), now)
        try:
            migrate(ledger)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
