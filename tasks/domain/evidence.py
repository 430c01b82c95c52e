"""What a verdict rests on, put so that people can compare it: against the live model, and against each parent.

Nothing here decides anything. The differences are those that the gate judges (``tasks.domain.findings``), so a picture
drawn from them shows a limit met where the gate said so.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from tasks.domain.findings import ENOUGH_APART, compare
from tasks.domain.gate import Check, Gate
from tasks.domain.models import Evaluation, Item, Score
from tasks.domain.retention import retention
from tasks.domain.slices import METRIC as POOLED
from tasks.domain.statistics import Difference, Interval, is_binary, quantile, wilson
from tasks.domain.verdict import Row, Verdict


class Evidence(NamedTuple):
    """The gate and the evaluations behind one verdict."""

    gate: Gate
    candidate: Evaluation
    parents: Mapping[str, Evaluation]
    live: Evaluation | None


class Flip(NamedTuple):
    """An item that one of two models has right and the other wrong."""

    item_id: str
    before: str
    """What the live model answered; empty where no answers are stored, as for multiple choice."""
    after: str
    """What the candidate answered."""


class Change(NamedTuple):
    """One benchmark, as the live model and the candidate score on it."""

    check: Check
    before: float
    after: float
    gain: Difference
    """Positive is better, whatever the metric's direction."""
    won: tuple[Flip, ...]
    """Right now and wrong before, in order of their ids; empty where items are not right or wrong."""
    lost: tuple[Flip, ...]

    @property
    def word(self) -> str:
        """What the one-sided 95 % bounds allow to be said."""
        if self.gain.lower() > 0:
            return "better"
        return "worse" if self.gain.upper() < 0 else "no difference shown"


class Kept(NamedTuple):
    """How much of a parent's score, or of its gain on the instruct parent, the candidate kept: 1.0 is all of it."""

    benchmark: str
    metric: str
    parent: str
    """The parent's role."""
    of: Literal["score", "gain"]
    share: float
    low: float
    """From the one-sided 95 % bounds that the gate uses: rule ``confident`` is met where this is above ``limit``."""
    high: float
    limit: float | None
    """The smallest share that the gate lets through; None where it limits no share, but a difference or nothing."""


def behind(evaluations: Sequence[Evaluation], verdict: Verdict, role: str) -> Evaluation | None:
    """The scores of ``role`` in ``verdict``, joined from those ``evaluations`` of the model that hold them.

    Each evaluation is of one benchmark (``tasks.scores``); where several hold a score, the newest. None if one is
    missing.
    """
    told: dict[tuple[str, str], float] = {}
    for row in verdict.rows:
        value = {"candidate": row.score, "live": row.live, **row.parents}.get(role)
        if value is not None and row.metric != POOLED:  # which no evaluation holds
            told[row.benchmark, row.metric] = value
    found: dict[tuple[str, str], tuple[Evaluation, Score]] = {
        (score.benchmark, score.metric): (one, score)
        for one in evaluations
        for score in one.scores
        if told.get((score.benchmark, score.metric)) == score.value
    }
    if not told or told.keys() - found.keys():
        return None
    parts = [found[name] for name in told]
    facts = {name: value for one, _ in parts for name, value in one.facts.items()}
    return parts[0][0].model_copy(update={"scores": tuple(score for _, score in parts), "facts": facts})


def changes(evidence: Evidence) -> tuple[Change, ...]:
    """The candidate against the live model, in order of the gate's checks; empty if nothing was live."""
    found = []
    for check in evidence.gate.checks:
        after, before = score_of(evidence.candidate, check), score_of(evidence.live, check)
        if after is not None and before is not None:
            gain = compare(check, after, before)
            found.append(Change(check, before.value, after.value, gain, *_flips(before.items, after.items)))
    return tuple(found)


def kept(evidence: Evidence) -> tuple[Kept, ...]:
    """What the candidate kept of its parents, in the gate's order.

    Against a tuned parent it is the retention, the share of what that parent gains on instruct, whether or not the gate
    limits it; left out where the two differ by less than the gate needs to judge that. Against the instruct parent it
    is the share of the score, where the gate limits a loss of it.
    """
    bars = [
        bar for check in evidence.gate.checks for bar in (_kept_gain(check, evidence), _kept_score(check, evidence))
    ]
    return tuple(bar for bar in bars if bar is not None)


def mark(row: Row) -> str:
    """A check's end in a word."""
    if not row.gated:
        return "not gated"
    return {True: "pass", False: "FAIL", None: "undecided"}[row.ok]


def limits(check: Check, evidence: Evidence) -> list[float]:
    """The values at which a check's limits stand on the metric's axis; the last is the one that is hardest to meet."""
    parents = evidence.parents
    found = [value for value in (check.floor, check.ceiling) if value is not None]
    worse = -1 if check.higher_is_better else 1
    for role, drop in check.max_drop.items():
        theirs = score_of(parents.get(check.parent(role, parents)), check)
        if theirs is not None:
            found.append(theirs.value + worse * drop)
    pair = _apart(check, evidence)
    if pair is not None and check.keep_gain is not None:
        instruct, tuned = pair
        found.append(instruct.value + check.keep_gain * (tuned.value - instruct.value))
    return sorted(set(found), reverse=not check.higher_is_better)


def interval(score: Score) -> Interval:
    """The two-sided 95 % interval of a score: Wilson's where items are right or wrong, else Student's."""
    if score.items and is_binary(score.items):
        return wilson(score.value * score.n, score.n)
    half = quantile(0.975, max(score.n - 1, 1)) * score.stderr
    return Interval(score.value - half, score.value + half)


def score_of(evaluation: Evaluation | None, check: Check) -> Score | None:
    """The score that ``check`` limits; None where it was not measured."""
    scores = evaluation.scores if evaluation else ()
    return next((s for s in scores if s.benchmark == check.benchmark and s.metric == check.metric), None)


def _apart(check: Check, evidence: Evidence) -> tuple[Score, Score] | None:
    """The instruct and the tuned parent's scores, if the second is better by as much as the gate needs."""
    instruct = score_of(evidence.parents.get("instruct"), check)
    tuned = score_of(evidence.parents.get(_tuned_role(check, evidence)), check)
    if instruct is None or tuned is None or compare(check, tuned, instruct).in_stderrs < ENOUGH_APART:
        return None
    return instruct, tuned


def _tuned_role(check: Check, evidence: Evidence) -> str:
    """The tuned parent that the check is about: the one that it names, else that of its language, else the only one."""
    named = next((role for role in check.max_drop if role.startswith("tuned:")), None)
    return named or check.parent("tuned", evidence.parents)


def _kept_gain(check: Check, evidence: Evidence) -> Kept | None:
    role = _tuned_role(check, evidence)
    mine, pair = score_of(evidence.candidate, check), _apart(check, evidence)
    found = retention(check, mine, *pair) if mine is not None and pair is not None else None
    if found is None:
        return None
    return Kept(check.benchmark, check.metric, role, "gain", *found, check.keep_gain)


def _kept_score(check: Check, evidence: Evidence) -> Kept | None:
    mine, theirs = score_of(evidence.candidate, check), score_of(evidence.parents.get("instruct"), check)
    allowed = check.max_drop.get("instruct")
    if mine is None or theirs is None or allowed is None or theirs.value <= 0:
        return None
    gain = compare(check, mine, theirs)
    share, low, high = (
        1 + value / theirs.value for value in (gain.mean, gain.lower(at=-allowed), gain.upper(at=-allowed))
    )
    return Kept(check.benchmark, check.metric, "instruct", "score", share, low, high, 1 - allowed / theirs.value)


def _flips(before: tuple[Item, ...], after: tuple[Item, ...]) -> tuple[tuple[Flip, ...], tuple[Flip, ...]]:
    if not (before and after and is_binary(before) and is_binary(after)):
        return (), ()
    old = {item.item_id: item for item in before}
    pairs = [(old[item.item_id], item) for item in sorted(after, key=lambda i: i.item_id) if item.item_id in old]
    won = tuple(Flip(o.item_id, o.answer, n.answer) for o, n in pairs if n.value > o.value)
    return won, tuple(Flip(o.item_id, o.answer, n.answer) for o, n in pairs if n.value < o.value)
