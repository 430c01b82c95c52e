"""What a decision's page shows beside the verdict: matrix, retention, lost items, what is missing, cost, trend.

All of it is worked out from what is stored, so a page can be made again at any time.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tasks.domain.cost import StageCost
from tasks.domain.evidence import Evidence, Kept, kept
from tasks.domain.flips import Lost, worst_flips
from tasks.domain.matrix import Cell, cells
from tasks.domain.needed import Needed, needed
from tasks.domain.trend import TrendPoint
from tasks.domain.verdict import Verdict

Ask = Callable[[str, str], tuple[str, str]]
"""Benchmark and item to the question and its right answer; both empty where they are not known."""


class Insight(NamedTuple):
    """Everything but the verdict; each part empty where there is nothing to show."""

    cells: tuple[Cell, ...] = ()
    kept: tuple[Kept, ...] = ()
    lost: tuple[Lost, ...] = ()
    needed: tuple[Needed, ...] = ()
    costs: tuple[StageCost, ...] = ()
    trend: tuple[TrendPoint, ...] = ()


def insight(
    verdict: Verdict,
    evidence: Evidence | None,
    *,
    ask: Ask | None = None,
    costs: Sequence[StageCost] = (),
    trend: Sequence[TrendPoint] = (),
) -> Insight:
    """What is known; of the items nothing but cost and trend where ``evidence`` is None."""
    if evidence is None:
        return Insight(costs=tuple(costs), trend=tuple(trend))
    lost = [_asked(one, ask) if ask else one for one in worst_flips(evidence)]
    return Insight(
        cells=cells(verdict, evidence),
        kept=kept(evidence),
        lost=tuple(lost),
        needed=needed(verdict, evidence),
        costs=tuple(costs),
        trend=tuple(trend),
    )


def _asked(lost: Lost, ask: Ask) -> Lost:
    question, gold = ask(lost.benchmark, lost.item_id)
    return lost.model_copy(update={"question": question, "gold": gold})
