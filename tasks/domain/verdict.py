"""Judging: a gate, an evaluation of the candidate and those of its parents make a verdict, in numbers and sentences.

**Stronger** than the live model means: not worse on every critical slice (paired one-sided 95 % lower bound of the
difference above minus the check's tolerance) and better on at least one (lower bound above 0, where the 5 % are shared
out among the critical slices, after Bonferroni: ten slices are ten chances to be better by luck). With nothing live the
first occupant needs the gate only. A verdict names the live digest that it was judged against, so that a later switch
can see that it is stale.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from tasks.domain.errors import InputError
from tasks.domain.examination import Examined, refused, undecided
from tasks.domain.findings import Finding, compare, findings
from tasks.domain.gate import Check, Gate, Rule
from tasks.domain.looks import WHOLE, Levels, Stop
from tasks.domain.models import Digest, Evaluation, Noun, Score
from tasks.domain.slice_findings import against, look_at
from tasks.domain.slices import METRIC, Slice

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
    gated: bool = True
    """False: no limit of this check could be gated; it neither passed nor failed, and ``ok`` is True."""
    not_gated: tuple[str, ...] = ()
    """In words, each limit that could not be gated, and why."""


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
    stop: Stop | None = None
    """At which look it was decided, and what that saved; None for a gate without looks."""
    examined: tuple[Examined, ...] = ()
    """What was found before the benchmarks; all of it must hold. Empty in verdicts from before there was any."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.outcome == "passed"


def judge(
    gate: Gate,
    candidate: Evaluation,
    parents: Mapping[str, Evaluation],
    live: Evaluation | None,
    levels: Levels = WHOLE,
) -> Verdict:
    """Judge ``candidate`` by ``gate``.

    Args:
        gate: the limits.
        candidate: its scores.
        parents: scores of the models that it was merged from, by role; those that the gate names must be among them.
        live: scores of the model that the channel serves now; None where it serves none.
        levels: of the look at which this is, where the candidate was asked a part of the items that the others were.

    Raises:
        InputError: if two evaluations cannot be compared: a benchmark scored on other items, or with another lm-eval,
            suite or serving image. All such problems are listed.
    """
    _refuse_unlike(gate, candidate, {**parents, **({"live": live} if live else {})}, levels)
    rows = (
        *(_row(check, gate.rule, candidate, parents, live, levels) for check in gate.checks),
        *(_slice_row(gate, name, one, candidate, parents, live, levels) for name, one in gate.slices.items()),
    )
    oks, gated = [row.ok for row in rows], sum(row.gated for row in rows)
    outcome: Outcome = "rejected" if False in oks else "undecided" if None in oks or not gated else "passed"
    reasons = [f"{row.benchmark}: {row.reason}." for row in rows if row.ok is not True]
    if not gated:
        reasons.append(f"No check of gate {gate.name} could be gated, so nothing was shown.")
    elif not reasons:
        reasons.append(f"All {gated} {'checks' if gated == len(rows) else 'gated checks'} of gate {gate.name} passed.")
    reasons += [f"{row.benchmark}: {said}." for row in rows for said in row.not_gated]
    stronger, comparison = _against_live(gate, candidate, live, levels)
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


def _find(evaluation: Evaluation | None, check: Check) -> Score | None:
    scores = evaluation.scores if evaluation else ()
    return next((s for s in scores if s.benchmark == check.benchmark and s.metric == check.metric), None)


def judge_at(
    gate: Gate,
    candidate: Evaluation,
    parents: Mapping[str, Evaluation],
    live: Evaluation | None,
    stop: Stop | None,
) -> Verdict:
    """``judge`` at the look where the evaluation stopped, which the verdict then tells; as ``judge`` without one."""
    if stop is None or gate.sequential is None:
        return judge(gate, candidate, parents, live)
    verdict = judge(gate, candidate, parents, live, gate.sequential.levels[stop.look - 1])
    first, *rest = verdict.reasons
    return verdict.model_copy(update={"stop": stop, "reasons": (first, f"{stop.sentence}.", *rest)})


def with_examined(verdict: Verdict, examined: Sequence[Examined]) -> Verdict:
    """``verdict`` with what was found before its benchmarks: what failed rejects, what was not told holds."""
    worst: Outcome = "rejected" if refused(examined) else "undecided" if undecided(examined) else "passed"
    outcome = min(verdict.outcome, worst, key=("rejected", "undecided", "passed").index)
    told = tuple(one.sentence for one in examined if one.ok is not True)
    return verdict.model_copy(
        update={"outcome": outcome, "examined": tuple(examined), "reasons": (*told, *verdict.reasons)}
    )


def not_asked(
    gate: Gate, candidate: Digest, parents: Mapping[str, Digest], live: Digest | None, examined: Sequence[Examined]
) -> Verdict:
    """The verdict on a candidate that was refused before any benchmark was asked."""
    asked: list[tuple[str, str, Check | Slice]] = [(one.benchmark, one.metric, one) for one in gate.checks]
    asked += [(name, METRIC, one) for name, one in gate.slices.items()]
    rows = tuple(
        Row(
            benchmark=name,
            metric=metric,
            critical=check.critical,
            score=None,
            stderr=None,
            n=0,
            limit=check.limit,
            parents=dict.fromkeys(sorted(parents)),
            live=None,
            ok=None,
            reason="not asked",
        )
        for name, metric, check in asked
    )
    told = f"Refused before its benchmarks: none of the {len(gate.benchmarks)} of gate {gate.name} was asked."
    verdict = Verdict(
        outcome="rejected",
        gate=gate.name,
        gate_digest=gate.digest(),
        candidate_digest=candidate,
        parent_digests=dict(sorted(parents.items())),
        live_digest=live,
        stronger_than_live=None if live is None else False,
        rows=rows,
        reasons=(told,),
    )
    return with_examined(verdict, examined)


def is_final(verdict: Verdict) -> bool:
    """Whether a look before the last decides: rejected, or passed and fit to be published."""
    return verdict.outcome == "rejected" or (verdict.passed and verdict.stronger_than_live is not False)


def _refuse_unlike(gate: Gate, candidate: Evaluation, others: Mapping[str, Evaluation], levels: Levels) -> None:
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
                if not levels.is_last:  # a part of the items that the other was asked
                    other_ids = {key: weight for key, weight in other_ids.items() if key in ids}
                if (
                    ids != other_ids
                    or len(ids) != len(mine.items)
                    or len({i.item_id for i in score.items}) != len(score.items)
                ):
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
    check: Check,
    rule: Rule,
    candidate: Evaluation,
    parents: Mapping[str, Evaluation],
    live: Evaluation | None,
    levels: Levels,
) -> Row:
    score, live_score = _find(candidate, check), _find(live, check)
    roles = sorted({*parents, *(check.parent(role, parents) for role in check.roles)})
    scores = {role: _find(parents.get(role), check) for role in roles}
    found = (
        [Finding(False, "the candidate is unscored")] if score is None else findings(check, rule, score, scores, levels)
    )
    oks = [f.ok for f in found]
    ok = False if False in oks else None if None in oks else True
    return Row(
        benchmark=check.benchmark,
        metric=check.metric,
        critical=check.critical,
        score=score.value if score else None,
        stderr=score.stderr if score else None,
        n=score.n if score else 0,
        limit=check.limit,
        parents={role: s.value if s else None for role, s in scores.items()},
        live=live_score.value if live_score else None,
        ok=ok,
        reason="; ".join(f.text for f in found if f.ok is ok),
        gated=any(f.gated for f in found),
        not_gated=tuple(f.text for f in found if not f.gated),
    )


def _slice_row(
    gate: Gate,
    name: str,
    one: Slice,
    candidate: Evaluation,
    parents: Mapping[str, Evaluation],
    live: Evaluation | None,
    levels: Levels,
) -> Row:
    seen = look_at(gate, one, candidate, parents, live, levels)
    oks = [f.ok for f in seen.findings]
    ok = False if False in oks else None if None in oks else True
    return Row(
        benchmark=name,
        metric=METRIC,
        critical=one.critical,
        score=seen.score,
        stderr=seen.stderr,
        n=seen.n,
        limit=one.limit,
        parents=seen.parents,
        live=seen.live,
        ok=ok,
        reason="; ".join(f.text for f in seen.findings if f.ok is ok),
        gated=any(f.gated for f in seen.findings),
        not_gated=tuple(f.text for f in seen.findings if not f.gated),
    )


def _against_live(
    gate: Gate, candidate: Evaluation, live: Evaluation | None, levels: Levels
) -> tuple[bool | None, list[str]]:
    if live is None:
        return None, ["Nothing is live yet: the gate alone decides."]
    name = live.artifact_digest[:12]
    if live.artifact_digest == candidate.artifact_digest:
        return False, [f"The candidate is the live model {name} itself."]
    worse, better = [], []
    critical = [check for check in gate.checks if check.critical]
    pooled = {name: one for name, one in gate.slices.items() if one.critical}
    sure, corrected = 1 - levels.to_pass, 1 - levels.to_pass / (len(critical) + len(pooled))
    for check in critical:
        ours, theirs = _find(candidate, check), _find(live, check)
        if ours is None or theirs is None:
            worse.append(f"{check.benchmark} is unscored for {'the live model' if ours else 'the candidate'}")
            continue
        gain = compare(check, ours, theirs)
        lower = gain.lower(sure, -check.tolerance)
        said = f"{check.benchmark} {ours.value:.3f} against {theirs.value:.3f} (lower bound {lower:+.3f}"
        if not lower > -check.tolerance:
            worse.append(f"{said}, tolerance {check.tolerance:g})")
        elif gain.lower(corrected) > 0:
            said = f"{check.benchmark} {ours.value:.3f} against {theirs.value:.3f}"
            better.append(f"{said} (lower bound {gain.lower(corrected):+.3f})")
    for slice_name, one in pooled.items():
        mean = against(gate, one, candidate, live)
        if isinstance(mean, str):
            worse.append(f"{slice_name}: {mean}")
        elif not mean.lower(sure) > -one.live_tolerance:
            said = f"{slice_name} {mean.mean:+.3f} in the mean (lower bound {mean.lower(sure):+.3f}"
            worse.append(f"{said}, tolerance {one.live_tolerance:g})")
        elif mean.lower(corrected) > 0:
            better.append(f"{slice_name} {mean.mean:+.3f} (lower bound {mean.lower(corrected):+.3f})")
    reasons = [f"Against live {name}, not shown to hold its level: {'; '.join(worse)}."] if worse else []
    if better:
        reasons.append(f"Against live {name}, better on: {'; '.join(better)}.")
    if worse or not better:
        reasons.append(
            f"Not stronger than live {name}." if worse else f"Not better than live {name} on any critical slice."
        )
        return False, reasons
    return True, [*reasons, f"Stronger than live {name}."]
