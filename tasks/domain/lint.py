"""Whether a gate's items can carry its margins: what equal models would need, from how much stored models disagree.

A margin is refused if a candidate as good as the reference would not be told so with a chance of 80 %: such a gate
holds good models by luck. It is weak below 1.3 times that, where the chance is 95 %, or where nothing is on record, so
that the disagreement is assumed, and for a tolerance against the live model that the file leaves to its default. A
slice that asks for a share of a gain is refused where the parents on record do not differ by what a verdict needs: it
would never be gated.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Literal, NamedTuple

from tasks.domain.findings import ENOUGH_APART, ENOUGH_GROUPS, compare, kept_gain
from tasks.domain.gate import Check, Gate
from tasks.domain.looks import ALPHA
from tasks.domain.models import Score
from tasks.domain.slice_lint import lint_slices
from tasks.domain.statistics import Difference
from tasks.domain.statistics_paired import detectable, items_needed, power
from tasks.domain.statistics_power import detectable_of, items_needed_of, power_of, scaled

CHANCE = 0.8
"""Of being passed, that a candidate as good as its reference must have."""
ASSUMED_DISCORDANCE = 0.12
"""Share of items on which a merge and its parent disagree, where none are on record: published merges show .08 to
.18."""
_COMFORT = 1.3

Standing = Literal["ok", "weak", "refused", "unknown"]


class Trio(NamedTuple):
    """Scores of one judged candidate and its parents on one benchmark; None where they are not on record."""

    candidate: Score | None
    parents: dict[str, Score]
    live: Score | None


class Carried(NamedTuple):
    """One margin of a gate, and what its items can carry."""

    slice: str
    benchmark: str
    metric: str
    against: str
    """A role, ``live``, or ``gain`` for a share of what the tuned parent gained."""
    margin: float | None
    """In the metric's units; None where the parents' gain is not known."""
    items: int
    discordance: float | None
    """Share of items on which the two disagree; None for other than right/wrong items."""
    assumed: bool
    detectable: float | None
    """The minimum detectable effect: the smallest drop ruled out with a chance of 80 % if there is none."""
    power: float | None
    """Chance that an equal candidate passes."""
    items_needed: int | None
    standing: Standing
    why: str


def lint(
    gate: Gate, items_of: Callable[[str], int], on_record: Callable[[Check], Sequence[Trio]]
) -> tuple[Carried, ...]:
    """Every margin of ``gate``, as its target has it, in order of its checks.

    Args:
        gate: with ``{language}`` filled in.
        items_of: how many items a benchmark has.
        on_record: what was scored on a check's benchmark, newest first.
    """
    spent = gate.sequential.levels[-1].to_pass if gate.sequential else ALPHA
    found = []
    for check in gate.checks:
        n, known = items_of(check.benchmark), on_record(check)
        margins = {**check.max_drop, **({"live": check.tolerance} if check.critical else {})}
        for role, margin in margins.items():
            pairs = [pair for one in known if (pair := _pair(check, one, role)) is not None]
            found.append(_margin(check, role, margin, n, [compare(check, *pair) for pair in pairs], spent))
        if check.keep_gain is not None:
            found.append(_gain(check, check.keep_gain, n, known, spent))
    return (*found, *lint_slices(gate, items_of, on_record))


def _pair(check: Check, one: Trio, role: str) -> tuple[Score, Score] | None:
    theirs = one.live if role == "live" else one.parents.get(check.parent(role, one.parents))
    return (one.candidate, theirs) if one.candidate is not None and theirs is not None else None


def _margin(check: Check, role: str, margin: float, n: int, seen: Sequence[Difference], alpha: float) -> Carried:
    tables = [(sum(one.table) / one.n) for one in seen if one.table is not None]
    if check.higher_is_better and (tables or not seen):
        share = median(tables) if tables else ASSUMED_DISCORDANCE
        chance, least = power(n, margin, share, alpha), detectable(n, share, alpha, CHANCE)
        needed = items_needed(margin, share, alpha, CHANCE) if margin > 0 and chance < CHANCE else None
        return _carried(check, role, margin, n, share, not tables, least, chance, needed)
    if not seen:
        return _carried(check, role, margin, n, None, True, None, None, None)
    return _by_stderr(check, role, margin, n, seen, alpha)


def _by_stderr(check: Check, role: str, margin: float, n: int, seen: Sequence[Difference], alpha: float) -> Carried:
    """For what has no table: the spread and the shape of the differences on record, at ``n`` items."""
    groups = min((scaled(one, n).clusters for one in seen if one.clusters), default=ENOUGH_GROUPS)
    if groups < ENOUGH_GROUPS:
        why = f"its items are of {groups} clusters, {ENOUGH_GROUPS} are needed: nothing would be decided"
        none = _carried(check, role, margin, n, None, False, None, None, None)
        return none._replace(standing="refused", why=why)
    chance = median(power_of(one, n, margin, alpha) for one in seen)
    least = median(detectable_of(one, n, alpha, CHANCE) for one in seen)
    needed = None
    if margin > 0 and chance < CHANCE:
        found = [items_needed_of(one, margin, alpha, CHANCE) for one in seen]
        needed = None if None in found else round(median(count for count in found if count is not None))
    return _carried(check, role, margin, n, None, False, least, chance, needed)


def _gain(check: Check, share: float, n: int, known: Sequence[Trio], alpha: float) -> Carried:
    """A candidate that keeps all of the gain passes by ``(1 - share)`` of it."""
    parents = [
        (one, one.parents["instruct"], tuned)
        for one in known
        if "instruct" in one.parents and (tuned := one.parents.get(check.parent("tuned", one.parents))) is not None
    ]
    if not parents:
        return _carried(check, "gain", None, n, None, True, None, None, None)
    apart = [compare(check, tuned, instruct) for _, instruct, tuned in parents]
    gain, errors = median(one.mean for one in apart), median(one.in_stderrs for one in apart)
    if errors < ENOUGH_APART:
        why = f"its parents differ by {errors:.1f} standard errors, {ENOUGH_APART:g} are needed: it would not be gated"
        none = _carried(check, "gain", None, n, None, False, None, None, None)
        return none._replace(standing="refused", why=why)
    margins = [kept_gain(check, share, one.candidate or tuned, instruct, tuned) for one, instruct, tuned in parents]
    return _by_stderr(check, "gain", (1 - share) * gain, n, margins, alpha)


def _carried(
    check: Check,
    role: str,
    margin: float | None,
    n: int,
    discordance: float | None,
    assumed: bool,
    least: float | None,
    chance: float | None,
    needed: int | None,
) -> Carried:
    standing: Standing = "unknown"
    why = "no scores on record" if least is None else ""
    if least is not None and margin is not None and chance is not None:
        # What is assumed refuses nothing, and neither does a tolerance that nobody stated.
        stated = not assumed and (role != "live" or check.live_tolerance is not None)
        standing = "refused" if chance < CHANCE and stated else "weak" if margin < _COMFORT * least else "ok"
        told = f"an equal model passes with a chance of {chance:.0%}"
        more = f"; {needed} items or a margin of {least:.3g} would do" if needed else ""
        why = f"{told}{more}" if standing != "ok" else told
    values = (margin, n, discordance, assumed, least, chance, needed)
    return Carried(check.slice, check.benchmark, check.metric, role, *values, standing, why)
