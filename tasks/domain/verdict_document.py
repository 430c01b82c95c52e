"""A verdict as JSON, with a JSON Schema: what the decision's page shows, for programs.

``document`` and ``version`` name the schema. The version changes when a key is renamed, removed or means something
else; a key that is added changes nothing for those who read the others.
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from tasks.domain.cost import StageCost
from tasks.domain.evidence import Kept
from tasks.domain.flips import Lost
from tasks.domain.insight import Insight
from tasks.domain.matrix import Against, Cell
from tasks.domain.models import Digest, ModelRef, Noun
from tasks.domain.needed import Needed
from tasks.domain.trend import TrendPoint
from tasks.domain.verdict import Verdict

SCHEMA_FILE = "verdict.schema.json"


class SliceLine(Noun):
    """One check of the gate, as a cell of the matrix language by capability."""

    language: str
    capability: str
    benchmark: str
    metric: str
    tier: str
    score: float | None
    low: float | None
    """Two-sided 95 % interval of the score."""
    high: float | None
    n: int
    end: str
    """``pass``, ``FAIL``, ``undecided`` or ``not gated``."""
    against: tuple[Against, ...]


class RetentionLine(Noun):
    """What the candidate kept of one parent on one benchmark: 1.0 is all."""

    benchmark: str
    metric: str
    parent: str
    of: Literal["score", "gain"]
    share: float
    low: float
    """One-sided 95 % bounds; for a gain those of Fieller's interval."""
    high: float
    limit: float | None


class VerdictDocument(Noun):
    """One verdict, with all that its page shows."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

    document: Literal["empelt.verdict"] = "empelt.verdict"
    version: Literal[1] = 1
    family: str
    target: str
    release: ModelRef | None
    """None for a checkpoint that was judged by itself."""
    ended: str
    """How it ended, in a word: ``Published``, ``Kept``, ``Rejected``, ``Undecided``."""
    sentence: str
    verdict_key: Digest | None
    job_key: str | None
    generation: int | None
    """Of the channel, where it was published."""
    verdict: Verdict
    slices: tuple[SliceLine, ...] = ()
    retention: tuple[RetentionLine, ...] = ()
    lost: tuple[Lost, ...] = Field(default=(), description="The worst lost items, worst first.")
    needed: tuple[Needed, ...] = Field(default=(), description="Items that an undecided verdict still needs.")
    costs: tuple[StageCost, ...] = ()
    trend: tuple[TrendPoint, ...] = ()


def verdict_document(
    verdict: Verdict,
    more: Insight,
    *,
    family: str,
    target: str,
    ended: str,
    sentence: str = "",
    release: ModelRef | None = None,
    verdict_key: Digest | None = None,
    job_key: str | None = None,
    generation: int | None = None,
) -> VerdictDocument:
    """The document of ``verdict``; what a checkpoint that was judged by itself does not have stays None."""
    return VerdictDocument(
        family=family,
        target=target,
        release=release,
        ended=ended,
        sentence=sentence,
        verdict_key=verdict_key,
        job_key=job_key,
        generation=generation,
        verdict=verdict,
        slices=tuple(_slice(cell) for cell in more.cells),
        retention=tuple(_retention(bar) for bar in more.kept),
        lost=more.lost,
        needed=more.needed,
        costs=more.costs,
        trend=more.trend,
    )


def verdict_schema() -> dict[str, Any]:
    """The JSON Schema of the document, as pydantic writes what it gives out (draft 2020-12)."""
    schema = VerdictDocument.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "empelt.verdict.1", **schema}


def _slice(cell: Cell) -> SliceLine:
    return SliceLine(
        language=cell.language,
        capability=cell.capability,
        benchmark=cell.check.benchmark,
        metric=cell.check.metric,
        tier=cell.check.tier or ("critical" if cell.check.critical else "supporting"),
        score=cell.score,
        low=cell.interval.low if cell.interval else None,
        high=cell.interval.high if cell.interval else None,
        n=cell.n,
        end=cell.end,
        against=cell.against,
    )


def _retention(bar: Kept) -> RetentionLine:
    return RetentionLine.model_validate(bar._asdict())
