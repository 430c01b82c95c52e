"""How a target's candidates scored from release to release, from the verdicts on record."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import AwareDatetime

from tasks.domain.models import Digest, Noun
from tasks.domain.records import VerdictFact

MOST = 24
"""Releases that are looked back at."""


class TrendScore(Noun):
    """One slice of one candidate."""

    benchmark: str
    metric: str
    value: float
    stderr: float


class TrendPoint(Noun):
    """One release as it was judged last."""

    release: str
    """The repository's own name."""
    candidate: Digest
    outcome: str
    at: AwareDatetime
    scores: tuple[TrendScore, ...]
    """Of the critical slices."""


def trend(facts: Sequence[VerdictFact], releases: Mapping[str, str]) -> tuple[TrendPoint, ...]:
    """The newest verdict of each release of one target, oldest release first, ``MOST`` at the most.

    Args:
        facts: verdicts of the target, newest first, as the ledger gives them.
        releases: job key to the release's name, and its place by the order of its keys; jobs that are not there are
            left out.
    """
    newest: dict[str, VerdictFact] = {}
    for fact in facts:
        if fact.job_key in releases:
            newest.setdefault(releases[fact.job_key], fact)
    order = [name for name in dict.fromkeys(releases.values()) if name in newest][-MOST:]
    return tuple(_point(name, newest[name]) for name in order)


def _point(name: str, fact: VerdictFact) -> TrendPoint:
    rows: Sequence[Mapping[str, Any]] = fact.payload.get("rows", ())
    scores = tuple(
        TrendScore(
            benchmark=row["benchmark"], metric=row["metric"], value=row["score"], stderr=row.get("stderr") or 0.0
        )
        for row in rows
        if row.get("critical") and row.get("score") is not None
    )
    candidate = str(fact.payload["candidate_digest"])
    return TrendPoint(release=name, candidate=candidate, outcome=fact.outcome, at=fact.at, scores=scores)
