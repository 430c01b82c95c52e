"""What is found about one check: whether each of its limits is met, in a sentence with numbers.

A limit that cannot be asked on this slice (a gain to keep, where the parents do not differ) is *not gated*: that is no
failure, and no success either.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from tasks.domain.gate import Check, Rule
from tasks.domain.models import Score
from tasks.domain.statistics import (
    Difference,
    paired_contrast,
    paired_difference,
    unpaired_contrast,
    unpaired_difference,
)

ENOUGH_APART = 3.0
"""Standard errors by which the tuned parent must be better than the instruct parent for a gain to be judged."""


class Finding(NamedTuple):
    """One limit, looked at."""

    ok: bool | None
    """None: undecided."""
    text: str
    gated: bool = True


def compare(check: Check, ours: Score, theirs: Score) -> Difference:
    """How much better ``ours`` is than ``theirs``: positive is better, whatever the metric's direction."""
    paired = bool(ours.items) and bool(theirs.items)
    found = paired_difference(ours.items, theirs.items) if paired else unpaired_difference(ours, theirs)
    return found if check.higher_is_better else found._replace(mean=-found.mean)


def kept_gain(check: Check, share: float, candidate: Score, instruct: Score, tuned: Score) -> Difference:
    """How far ``candidate`` is above ``instruct + share * (tuned - instruct)``: positive is better."""
    terms = ((1.0, candidate), (share - 1.0, instruct), (-share, tuned))
    if all(score.items for _, score in terms):
        found = paired_contrast([(factor, score.items) for factor, score in terms])
    else:
        found = unpaired_contrast(terms)
    return found if check.higher_is_better else found._replace(mean=-found.mean)


def findings(check: Check, rule: Rule, score: Score, parents: Mapping[str, Score | None]) -> list[Finding]:
    """Each limit of ``check``, looked at; ``parents`` by role, None where one is unscored."""
    if not math.isfinite(score.value):
        return [Finding(False, f"the score is {score.value}, which is not a number to judge")]
    found = []
    if check.floor is not None:
        ok = score.value >= check.floor
        found.append(Finding(ok, f"{score.value:.3f} is {'at least' if ok else 'below'} the floor {check.floor:g}"))
    if check.ceiling is not None:
        ok = score.value <= check.ceiling
        found.append(Finding(ok, f"{score.value:.3f} is {'within' if ok else 'above'} the ceiling {check.ceiling:g}"))
    for role, allowed in sorted(check.max_drop.items()):
        theirs = parents.get(check.parent(role, parents))
        if theirs is None:
            found.append(Finding(False, f"parent {role} is unscored, so the drop against it is unknown"))
        else:
            found.append(_drop(role, allowed, rule, score, theirs, compare(check, score, theirs)))
    if check.keep_gain is not None:
        found.append(_gain(check, check.keep_gain, rule, score, parents))
    if score.n < check.min_items and any(f.gated for f in found):
        found.insert(0, Finding(None, f"only {score.n} items were scored, {check.min_items} are needed to decide"))
    return found


def _gain(check: Check, share: float, rule: Rule, ours: Score, parents: Mapping[str, Score | None]) -> Finding:
    instruct, tuned = parents.get("instruct"), parents.get(check.parent("tuned", parents))
    if instruct is None or tuned is None:
        missing = "instruct" if instruct is None else "tuned"
        return Finding(False, f"parent {missing} is unscored, so the gain to keep is unknown")
    apart = compare(check, tuned, instruct).in_stderrs
    if abs(apart) < ENOUGH_APART:
        said = f"not gated: the parents differ by {abs(apart):.1f} standard errors, {ENOUGH_APART:g} are needed"
        return Finding(True, said, gated=False)
    if apart < 0:
        said = f"not gated: the tuned parent is worse than the instruct parent by {-apart:.1f} standard errors"
        return Finding(True, said, gated=False)
    margin = kept_gain(check, share, ours, instruct, tuned)
    low, high = margin.lower(), margin.upper()
    kept = (ours.value - instruct.value) / (tuned.value - instruct.value)
    said = f"{ours.value:.3f} keeps {kept:.1%} of the gain from {instruct.value:.3f} to {tuned.value:.3f}"
    if rule == "point":
        ok = margin.mean >= -1e-9
        return Finding(ok, f"{said}, {'at least' if ok else 'less than'} the {share:.0%} asked for")
    said += f" (margin to {share:.0%}: {margin.mean:+.3f}, 95 % bounds {low:+.3f} to {high:+.3f},"
    said += f" {'paired' if margin.paired else 'not paired'}, n={margin.n})"
    if low > 0:
        return Finding(True, f"{said}, at least the {share:.0%} asked for")
    if high < 0:
        return Finding(False, f"{said}, less than the {share:.0%} asked for")
    return Finding(None, f"{said}, which can be neither shown nor ruled out with these items")


def _drop(role: str, allowed: float, rule: Rule, ours: Score, theirs: Score, gain: Difference) -> Finding:
    low, high = gain.lower(), gain.upper()
    said = f"{ours.value:.3f} against {role} {theirs.value:.3f} ({gain.mean:+.3f}"
    # 1e-9: 0.90 - 0.95 is -0.04999999999999993 in floats, and a limit met exactly is met.
    if rule == "point":
        ok = gain.mean >= -allowed - 1e-9
        return Finding(ok, f"{said}), {'within' if ok else 'more than'} the allowed drop of {allowed:g}")
    said += f", 95 % bounds {low:+.3f} to {high:+.3f}, {'paired' if gain.paired else 'not paired'}, n={gain.n})"
    if low > -allowed:
        return Finding(True, f"{said}, a drop of {allowed:g} is ruled out")
    if high < -allowed:
        return Finding(False, f"{said}, more than the allowed drop of {allowed:g}")
    return Finding(None, f"{said}, a drop of {allowed:g} can be neither shown nor ruled out with these items")
