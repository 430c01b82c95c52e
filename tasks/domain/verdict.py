"""Judging: a gate, an evaluation of the candidate and those of its parents make a verdict, in numbers and sentences.

**Stronger** than the live model means: not worse on every critical slice (paired one-sided 95 % lower bound of the
difference above minus the check's tolerance) and better on at least one (lower bound above 0). With nothing live the
first occupant needs the gate only. A verdict names the live digest that it was judged against, so that a later switch
can see that it is stale.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from tasks.domain.errors import InputError
from tasks.domain.gate import Check, Gate, Rule
from tasks.domain.models import Digest, Evaluation, Noun, Score
from tasks.domain.statistics import Difference, paired_difference, unpaired_difference

Outcome = Literal["passed", "rejected", "undecided"]

SAME_SETTINGS = ("lm_eval", "serving", "prefix_token_id")
"""Facts of an evaluation that must agree where both state them: the same model scores otherwise under others.

So must ``benchmark:<name>``, the digest of YAML and items, of each benchmark that the gate checks; two evaluations may
have been made with different lists of benchmarks.
"""


class Row(Noun):
    """One check in a verdict: a line of the gate table."""

    benchmark: str
    metric: str
    critical: bool
    score: float | None
    """None: unscored, which fails and is not 0."""
    stderr: float | None
    n: int
    limit: str
    parents: dict[str, float | None]
    live: float | None
    ok: bool | None
    """None: undecided."""
    reason: str


class Verdict(Noun):
    """What a gate said about a candidate, and against which references."""

    outcome: Outcome
    gate: str
    gate_digest: Digest
    candidate_digest: Digest
    parent_digests: dict[str, Digest]
    live_digest: Digest | None
    stronger_than_live: bool | None
    """None where nothing was live: the first occupant needs the gate only."""
    rows: tuple[Row, ...]
    reasons: tuple[str, ...]
    """Sentences for people: first the gate's, then the comparison with the live model."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.outcome == "passed"


class _Finding(NamedTuple):
    ok: bool | None
    text: str


def judge(gate: Gate, candidate: Evaluation, parents: Mapping[str, Evaluation], live: Evaluation | None) -> Verdict:
    """Judge ``candidate`` by ``gate``.

    Args:
        gate: the limits.
        candidate: its scores.
        parents: scores of the models that it was merged from, by role; those that the gate names must be among them.
        live: scores of the model that the channel serves now; None where it serves none.

    Raises:
        InputError: if two evaluations cannot be compared: a benchmark scored on other items, or with another lm-eval,
            suite or serving image. All such problems are listed.
    """
    _refuse_unlike(gate, candidate, {**parents, **({"live": live} if live else {})})
    rows = tuple(_row(check, gate.rule, candidate, parents, live) for check in gate.checks)
    oks = [row.ok for row in rows]
    outcome: Outcome = "rejected" if False in oks else "undecided" if None in oks else "passed"
    reasons = [f"{row.benchmark}: {row.reason}." for row in rows if row.ok is not True]
    if not reasons:
        reasons = [f"All {len(rows)} checks of gate {gate.name} passed."]
    stronger, comparison = _against_live(gate, candidate, live)
    return Verdict(
        outcome=outcome,
        gate=gate.name,
        gate_digest=gate.digest(),
        candidate_digest=candidate.artifact_digest,
        parent_digests={role: parents[role].artifact_digest for role in sorted(parents)},
        live_digest=live.artifact_digest if live else None,
        stronger_than_live=stronger,
        rows=rows,
        reasons=(*reasons, *comparison),
    )


def compare(check: Check, ours: Score, theirs: Score) -> Difference:
    """How much better ``ours`` is than ``theirs``: positive is better, whatever the metric's direction."""
    paired = bool(ours.items) and bool(theirs.items)
    found = paired_difference(ours.items, theirs.items) if paired else unpaired_difference(ours, theirs)
    return found if check.higher_is_better else found._replace(mean=-found.mean)


def _find(evaluation: Evaluation | None, check: Check) -> Score | None:
    scores = evaluation.scores if evaluation else ()
    return next((s for s in scores if s.benchmark == check.benchmark and s.metric == check.metric), None)


def _refuse_unlike(gate: Gate, candidate: Evaluation, others: Mapping[str, Evaluation]) -> None:
    problems = []
    for role, other in others.items():
        for fact in (*SAME_SETTINGS, *(f"benchmark:{name}" for name in gate.benchmarks)):
            ours, theirs = candidate.facts.get(fact), other.facts.get(fact)
            if ours is not None and theirs is not None and ours != theirs:
                problems.append(f"{role}: measured with {fact} {theirs}, the candidate with {ours}")
        for check in gate.checks:
            mine, score = _find(candidate, check), _find(other, check)
            if mine and score and mine.items and score.items:
                ids, other_ids = {i.item_id: i.weight for i in mine.items}, {i.item_id: i.weight for i in score.items}
                if ids != other_ids or len(ids) != len(mine.items) or len(other_ids) != len(score.items):
                    problems.append(
                        f"{role}: {check.benchmark}/{check.metric} was scored on other items"
                        f" ({len(score.items)}, the candidate's are {len(mine.items)})"
                    )
    if problems:
        raise InputError(
            f"gate {gate.name}: evaluations of {', '.join(others)} and of the candidate cannot be compared."
            " Measure them again with the same suite, lm-eval and serving image",
            problems=problems,
        )


def _row(
    check: Check, rule: Rule, candidate: Evaluation, parents: Mapping[str, Evaluation], live: Evaluation | None
) -> Row:
    score, live_score = _find(candidate, check), _find(live, check)
    parent_scores = {role: _find(parents.get(role), check) for role in sorted({*parents, *check.max_drop})}
    findings = (
        [_Finding(False, "the candidate is unscored")] if score is None else _findings(check, rule, score, parents)
    )
    oks = [f.ok for f in findings]
    ok = False if False in oks else None if None in oks else True
    return Row(
        benchmark=check.benchmark,
        metric=check.metric,
        critical=check.critical,
        score=score.value if score else None,
        stderr=score.stderr if score else None,
        n=score.n if score else 0,
        limit=check.limit,
        parents={role: s.value if s else None for role, s in parent_scores.items()},
        live=live_score.value if live_score else None,
        ok=ok,
        reason="; ".join(f.text for f in findings if f.ok is ok),
    )


def _findings(check: Check, rule: Rule, score: Score, parents: Mapping[str, Evaluation]) -> list[_Finding]:
    if not math.isfinite(score.value):
        return [_Finding(False, f"the score is {score.value}, which is not a number to judge")]
    found = []
    if score.n < check.min_items:
        found.append(_Finding(None, f"only {score.n} items were scored, {check.min_items} are needed to decide"))
    if check.floor is not None:
        ok = score.value >= check.floor
        found.append(_Finding(ok, f"{score.value:.3f} is {'at least' if ok else 'below'} the floor {check.floor:g}"))
    if check.ceiling is not None:
        ok = score.value <= check.ceiling
        found.append(_Finding(ok, f"{score.value:.3f} is {'within' if ok else 'above'} the ceiling {check.ceiling:g}"))
    for role, allowed in sorted(check.max_drop.items()):
        theirs = _find(parents.get(role), check)
        if theirs is None:
            found.append(_Finding(False, f"parent {role} is unscored, so the drop against it is unknown"))
        else:
            found.append(_drop(role, allowed, rule, score, theirs, compare(check, score, theirs)))
    return found


def _drop(role: str, allowed: float, rule: Rule, ours: Score, theirs: Score, gain: Difference) -> _Finding:
    low, high = gain.lower(), gain.upper()
    said = f"{ours.value:.3f} against {role} {theirs.value:.3f} ({gain.mean:+.3f}"
    # 1e-9: 0.90 - 0.95 is -0.04999999999999993 in floats, and a limit met exactly is met.
    if rule == "point":
        ok = gain.mean >= -allowed - 1e-9
        return _Finding(ok, f"{said}), {'within' if ok else 'more than'} the allowed drop of {allowed:g}")
    said += f", 95 % bounds {low:+.3f} to {high:+.3f}, {'paired' if gain.paired else 'not paired'}, n={gain.n})"
    if low > -allowed:
        return _Finding(True, f"{said}, a drop of {allowed:g} is ruled out")
    if high < -allowed:
        return _Finding(False, f"{said}, more than the allowed drop of {allowed:g}")
    return _Finding(None, f"{said}, a drop of {allowed:g} can be neither shown nor ruled out with these items")


def _against_live(gate: Gate, candidate: Evaluation, live: Evaluation | None) -> tuple[bool | None, list[str]]:
    if live is None:
        return None, ["Nothing is live yet: the gate alone decides."]
    name = live.artifact_digest[:12]
    if live.artifact_digest == candidate.artifact_digest:
        return False, [f"The candidate is the live model {name} itself."]
    worse, better = [], []
    for check in gate.checks:
        if not check.critical:
            continue
        ours, theirs = _find(candidate, check), _find(live, check)
        if ours is None or theirs is None:
            worse.append(f"{check.benchmark} is unscored for {'the live model' if ours else 'the candidate'}")
            continue
        gain = compare(check, ours, theirs)
        said = f"{check.benchmark} {ours.value:.3f} against {theirs.value:.3f} (lower bound {gain.lower():+.3f}"
        if not gain.lower() > -check.tolerance:
            worse.append(f"{said}, tolerance {check.tolerance:g})")
        elif gain.lower() > 0:
            better.append(f"{said})")
    reasons = [f"Against live {name}, not shown to hold its level: {'; '.join(worse)}."] if worse else []
    if better:
        reasons.append(f"Against live {name}, better on: {'; '.join(better)}.")
    if worse or not better:
        reasons.append(
            f"Not stronger than live {name}." if worse else f"Not better than live {name} on any critical slice."
        )
        return False, reasons
    return True, [*reasons, f"Stronger than live {name}."]
