"""How many items an undecided limit still needs: what an evaluation of the same kind, only longer, would decide.

The difference seen so far is taken for the true one, and so is its spread; then ``n`` items tell it from the limit with
80 % where the power at the gate's one-sided 5 % is .8. For right/wrong items the power is that of the gate's own test
(``tasks.domain.statistics_paired``), for others that of a normal bound, ``n`` growing with the square of what is
missing. It is a plan and no promise: the truth lies elsewhere than what was seen.
"""

import math
from statistics import NormalDist

from tasks.domain import statistics_paired as tables
from tasks.domain.evidence import Evidence, score_of
from tasks.domain.findings import ENOUGH_APART, ENOUGH_GROUPS, compare, judged, kept_gain
from tasks.domain.gate import Check
from tasks.domain.looks import WHOLE
from tasks.domain.models import Noun, Score
from tasks.domain.statistics import Difference
from tasks.domain.verdict import Verdict

CHANCE, ALPHA = 0.8, 0.05
MOST = 100_000
"""No benchmark has more: what would need more cannot be decided by asking more."""


class Needed(Noun):
    """One undecided limit."""

    benchmark: str
    limit: str
    """In words, as ``drop against instruct of 0.03``."""
    seen: float | None
    """The difference to the limit, positive where it is met; None where only their number is missing."""
    n: int
    items: int | None
    """In all, those that there are included; None where more than ``MOST`` would be needed."""

    @property
    def towards(self) -> str:
        """What the items would show if what was seen is true."""
        return "" if self.seen is None else "pass" if self.seen > 0 else "fail"

    @property
    def sentence(self) -> str:
        """For people."""
        if self.seen is None:
            return f"{self.benchmark}: {self.n} items were scored, the gate asks for {self.items}"
        told = f"{self.benchmark}, {self.limit}: seen {self.seen:+.3f} from the limit on {self.n} items"
        if self.items is None:
            return f"{told}; more than {MOST:,} items would be needed, so this limit cannot be decided by asking more"
        more = f"{self.items:,} items ({self.items - self.n:,} more)"
        return f"{told}; if that is the truth, {more} would show a {self.towards} with a chance of {CHANCE:.0%}"


def needed(verdict: Verdict, evidence: Evidence) -> tuple[Needed, ...]:
    """Every limit of an undecided check that is itself undecided, in the gate's order."""
    unclear = {(row.benchmark, row.metric) for row in verdict.rows if row.gated and row.ok is None}
    found: list[Needed] = []
    for check in evidence.gate.checks:
        score = score_of(evidence.candidate, check)
        if (check.benchmark, check.metric) in unclear and score is not None:
            found += _of(check, score, evidence)
    return tuple(found)


def _of(check: Check, score: Score, evidence: Evidence) -> list[Needed]:
    found = []
    asked = [(role, "drop", -drop) for role, drop in sorted(check.max_drop.items())]
    for role, what, limit in [*asked, *((role, "gain", gain) for role, gain in sorted(check.min_gain.items()))]:
        theirs = score_of(evidence.parents.get(check.parent(role, evidence.parents)), check)
        if theirs is not None:
            told = f"{what} against {role} of {abs(limit):g}"
            found += _unclear(check, told, compare(check, score, theirs), limit)
    instruct = score_of(evidence.parents.get("instruct"), check)
    tuned = score_of(evidence.parents.get(check.parent("tuned", evidence.parents)), check)
    share = check.keep_gain
    if share is not None and instruct and tuned and compare(check, tuned, instruct).in_stderrs >= ENOUGH_APART:
        margin = kept_gain(check, share, score, instruct, tuned)
        found += _unclear(check, f"{share:.0%} of tuned's gain kept", margin, 0.0)
    if score.n < check.min_items:
        asked_for = "the items that the gate asks for"
        missing = Needed(benchmark=check.benchmark, limit=asked_for, seen=None, n=score.n, items=check.min_items)
        found.insert(0, missing)
    return found


def _unclear(check: Check, told: str, difference: Difference, limit: float) -> list[Needed]:
    if judged(difference, limit, WHOLE)[0] is not None:
        return []
    wanted = items_to_tell(difference, limit)
    return [Needed(benchmark=check.benchmark, limit=told, seen=difference.mean - limit, n=difference.n, items=wanted)]


def items_to_tell(difference: Difference, limit: float) -> int | None:
    """Items that tell ``difference`` from ``limit`` with 80 %, were it the truth; None if more than ``MOST``."""
    if difference.mean < limit:  # the same question from the other side: how many show a failure
        return items_to_tell(difference.mirrored(), -limit)
    if difference.mean == limit or not math.isfinite(difference.stderr) or difference.n < 2:
        return None
    quantiles = NormalDist().inv_cdf(1 - ALPHA) + NormalDist().inv_cdf(CHANCE)
    rough = difference.n * (quantiles * difference.stderr / (difference.mean - limit)) ** 2
    if difference.clusters:  # fewer than so many decide nothing
        rough = max(rough, difference.n * ENOUGH_GROUPS / difference.clusters)
    if rough > MOST:
        return None
    if difference.table is None or limit > 0 or difference.stderr == 0:
        return max(math.ceil(rough), difference.n + 1)
    share = sum(difference.table) / difference.n
    low, high = max(difference.n, tables.EXACT_BELOW - 1), MOST  # fewer are not sought: exact tests take half a second
    while low + 1 < high:
        middle = (low + high) // 2
        enough = tables.power(middle, -limit, share, ALPHA, difference.mean) >= CHANCE
        low, high = (low, middle) if enough else (middle, high)
    return high if high < MOST else None
