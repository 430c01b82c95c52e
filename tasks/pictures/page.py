"""A decision's pictures, and the same decision as one HTML file that asks nothing of any network."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.domain.decision import Decision
from tasks.domain.evidence import Evidence, kept
from tasks.domain.insight_rows import AGAINST_CAPTION, LOST_CAPTION, cost_rows, trend_rows
from tasks.domain.matrix import Cell, at, grid, references
from tasks.domain.report import STARRED, Picture, change_rows, score_rows
from tasks.pictures.retention import draw_retention
from tasks.pictures.scores import draw_scores
from tasks.pictures.style import variables
from tasks.pictures.trend import draw_trend

EXAMPLES = 6
"""Items shown of each benchmark and direction: enough to see what changed, few enough for one page."""

WIDEST = 0.25
"""The greatest difference that an interval is drawn at; over a parent that cannot do a thing at all it is greater."""

SCORES_CAPTION = (
    "Points are scores, lines their 95 % intervals. Bars are the gate's limits, the bold one the hardest to meet: for"
    " shares the candidate must be right of it, for bits per byte left. Losses are judged on differences item by item,"
    " which is surer than these intervals."
)
KEPT_CAPTION = (
    "The line at a bar's end spans the one-sided 95 % bounds of the difference, item by item. Wholly right of the limit"
    " is a pass, wholly left a fail, across it undecided. Retention is (candidate - instruct) / (tuned - instruct), and"
    " its bounds are those of Fieller's interval of a ratio. Nothing is shown where the parents do not differ."
)
TREND_CAPTION = (
    "The critical slices of each release's candidate as it was judged last, with 95 % intervals; hollow was rejected or"
    " undecided. On the right the newest, and its difference to the first."
)

_Any = TypeVar("_Any")


def draw(decision: Decision, evidence: Evidence) -> tuple[Picture, ...]:
    """The plots of a decision; without the second where nothing can be kept, without the third for a first release."""
    found = [Picture("Scores at a glance", SCORES_CAPTION, draw_scores(decision.verdict, evidence))]
    retention = draw_retention(decision.verdict, kept(evidence))
    if retention is not None:
        found.append(Picture("Kept from the parents", KEPT_CAPTION, retention))
    over_time = draw_trend(decision.more.trend)
    if over_time is not None:
        found.append(Picture("Trend over releases", TREND_CAPTION, over_time))
    return tuple(found)


def html_page(decision: Decision, pictures: Sequence[Picture]) -> str:
    """The decision as a page of its own: everything of the Prefect artifact, and items that changed."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        decision=decision,
        job=decision.job,
        verdict=decision.verdict,
        pictures=pictures,
        changes=change_rows(decision.changes),
        scores=score_rows(decision.verdict),
        examples=[
            (change, spread(change.won), spread(change.lost))
            for change in decision.changes
            if change.won or change.lost
        ],
        starred=STARRED.replace("`", ""),
        variables=variables(),
        matrix=grid(decision.more.cells),
        roles=references(decision.more.cells),
        at=at,
        scales=_scales(decision.more.cells),
        against_caption=AGAINST_CAPTION,
        lost_caption=LOST_CAPTION,
        costs=cost_rows(decision.more.costs),
        trend=trend_rows(decision.more.trend) if len(decision.more.trend) > 1 else [],
    )


def _scales(cells: Sequence[Cell]) -> dict[str, float]:
    """Metric -> the difference that an interval's drawing ends at: one scale for all that is measured alike."""
    found: dict[str, float] = {}
    for cell in cells:
        for one in cell.against:
            ends = [min(abs(end), WIDEST) for end in (one.low, one.high, one.limit or 0.0)]
            found[cell.check.metric] = max([found.get(cell.check.metric, 0.02), *ends])
    return found


def spread(items: Sequence[_Any], most: int = EXAMPLES) -> list[_Any]:
    """At most ``most`` of ``items``, evenly from first to last, so that the ids of one kind do not fill the page."""
    if len(items) <= most:
        return list(items)
    return [items[k * len(items) // most] for k in range(most)]
